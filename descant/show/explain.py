"""``descant explain``: the plan of a formula or a run file, and what its models read of a prompt.

No weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..inputs.prompts import command_line_prompt, read_items
from ..inputs.runfile import RunFile, RunFileError, read_run_file
from ..runs.run import of_one_formula

if TYPE_CHECKING:
    from ..runtime import Bound, Report
    from ..runtime.explain.gpus import Devices
    from ..runtime.explain.prompt_view import PromptView


class Target(NamedTuple):
    """GPUs that a plan is for: with so many requests at once, of so many tokens each."""

    devices: Devices
    batch_size: int = 1
    context: int = 512


class PlanArguments(NamedTuple):
    """A formula, its models, parameters and prompts, and its run file."""

    formula: str
    models: Mapping[str, Any]
    params: Mapping[str, float]
    texts: tuple[Mapping[str, str], Mapping[str, Any], Mapping[str, str]]  # ``RunFile.texts``
    run: RunFile | None = None

    def bound(self, devices: Devices | None = None) -> Bound:
        """The plan, bound to the shapes of its models, which may be shared among some GPUs."""
        from ..api import declared, plan_of
        from ..models import with_bases
        from ..runtime import TermParallel, bind

        specs = declared(self.models)
        plan = plan_of(self.formula, specs, self.params, *self.texts)
        needed = specs if self.run else with_bases(plan.declared, specs)
        shared = devices is not None and self.run is not None and self.run.parallel is not None
        ranks = TermParallel.planned(devices.count) if devices and shared else None
        return bind(plan, needed, *self._where(), skeleton=True, term_parallel=ranks)

    def report(self, target: Target | None = None) -> Report:
        """What the plan costs, with the draft of the run file; on some GPUs, or here."""
        from ..api import declared, names_of
        from ..formula.algebra.drafting import AUTO
        from ..runtime import DraftBinder, Report
        from ..runtime.binding.draft import drafting
        from ..runtime.requests.per_row import draft_of

        bound = drafted = self.bound(target and target.devices)
        generate = self.run and self.run.generate
        draft = draft_of(generate.draft, generate.draft_length) if generate else None
        if draft is not None and draft.source != AUTO:
            specs = declared(self.models)
            names = names_of(specs, self.params, *self.texts)
            binder = DraftBinder(specs, names, *self._where(), skeleton=True)
            drafted = drafting(bound, draft.source, binder)
        cache = self.run.cache if self.run else None
        report = Report(bound, self.params, cache=cache, draft=draft, drafted=drafted)
        if target is not None:
            report.place(*target)
        return report

    def _where(self) -> tuple[str | None, str]:
        from ..api import where

        return where(self.run and self.run.dtype, self.run and self.run.device)


@dataclass(frozen=True)
class ExplainRequest:
    """The formulas to explain."""

    formula: str  # over declared and demo models; or the path of a run file
    models: Sequence[str] = ()  # NAME=PATH
    params: Sequence[str] = ()  # NAME=VALUE
    overrides: Sequence[str] = ()  # of a run file, as ``--set`` takes them
    name: str | None = None  # of one of a run file's formulas; None for all of them
    target: Target | None = None

    def arguments(self) -> dict[str, PlanArguments]:
        """The arguments of each formula's plan, by its name."""
        models = _pairs(self.models, "--model", str, "PATH")
        params = _pairs(self.params, "--param", float, "VALUE")
        if self.formula.endswith((".yaml", ".yml")) or Path(self.formula).is_file():
            run = read_run_file(self.formula, self.overrides)
            if self.name is not None:
                run = of_one_formula(run, self.name)
            specs, values = {**run.models, **models}, {**run.params, **params}
            arguments = specs, values, run.texts, run
            return {name: PlanArguments(text, *arguments) for name, text in run.named.items()}
        for option, value in (("--set", self.overrides), ("--formula", self.name)):
            if value:
                raise RunFileError(f"{option} is for a run file, and {self.formula} is a formula")
        from ..demo import models as demo_models

        return {
            "formula": PlanArguments(
                self.formula, {**demo_models(), **models}, params, ({}, {}, {})
            )
        }


def target(devices: str, batch_size: int, context: int) -> Target:
    """GPUs as ``parse_devices`` reads them, and what they are to hold.

    Raises:
        ArgumentError: no such GPUs.
    """
    from ..runtime.explain.gpus import parse_devices

    return Target(parse_devices(devices), batch_size, context)


def explained(request: ExplainRequest) -> str:
    """The plan's text.

    Raises:
        FormulaError, ModelError, RunFileError: as compiling would.
    """
    arguments = request.arguments().items()
    plans = {name: str(plan.report(request.target)) for name, plan in arguments}
    if len(plans) == 1:
        return next(iter(plans.values()))
    return "\n\n".join(f"{name}\n{plan}" for name, plan in plans.items())


def rendering(request: ExplainRequest, prompt: str | None, chat: bool = False) -> list[PromptView]:
    """What each model reads of a prompt, as ``command_line_prompt`` takes it.

    None stands for the first prompt of the run file's data.

    Raises:
        FormulaError, ModelError, RunFileError: as compiling would, or no prompt to read.
    """
    from ..runtime.explain.prompt_view import prompt_views

    views: dict[str, PromptView] = {}
    for plan in request.arguments().values():
        for view in prompt_views(plan.bound(), _prompt(prompt, chat, plan.run)):
            views.setdefault(str(view), view)
    return list(views.values())


def _prompt(option: str | None, chat: bool, run: RunFile | None) -> Any:
    if option is None:
        if run is None or run.data is None:
            raise RunFileError("there is no run file with data here; give the prompt: --render …")
        return read_items(run.data.model_copy(update={"limit": 1}))[0].prompt
    return command_line_prompt(option, chat)


def plan_report(*arguments: Any) -> Report:
    """The report of a plan that is bound to the shapes of its models alone.

    Its arguments are those of ``PlanArguments``.
    """
    return PlanArguments(*arguments).report()


def _pairs(options: Sequence[str], option: str, kind: type, what: str) -> dict[str, Any]:
    pairs = {}
    for text in options:
        name, _, value = text.partition("=")
        if not (name and value):
            raise RunFileError(f"{option} {text}: write {option} NAME={what}")
        try:
            pairs[name] = kind(value)
        except ValueError:
            raise RunFileError(f"{option} {text}: {value!r} is not a number") from None
    return pairs
