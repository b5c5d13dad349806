"""``descant explain``: the plan of a formula or a run file, without reading weights.

And what each of its models reads of a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..inputs.prompts import read_items
from ..inputs.runfile import RunFile, RunFileError, read_run_file
from ..runs.run import of_one_formula

if TYPE_CHECKING:
    from ..runtime import Bound
    from ..runtime.explain.prompt_view import Rendered


@dataclass(frozen=True)
class Asked:
    """What a user asks about.

    Attributes:
        formula: over declared and demo models; or the path of a run file.
        models: ``NAME=PATH`` each.
        params: ``NAME=VALUE`` each.
        overrides: of a run file, as ``--set`` takes them.
        name: which of a run file's formulas; all of them where None.
    """

    formula: str
    models: Sequence[str] = ()
    params: Sequence[str] = ()
    overrides: Sequence[str] = ()
    name: str | None = None

    def plans(self) -> dict[str, Plan]:
        """Formulas by name, their models, parameters and prompts, and the run file they are of."""
        models, params = _models(self.models), _params(self.params)
        if self.formula.endswith((".yaml", ".yml")) or Path(self.formula).is_file():
            run = read_run_file(self.formula, self.overrides)
            if self.name is not None:
                run = of_one_formula(run, self.name)
            specs: dict[str, Any] = {**run.models, **_merged(run), **models}
            values = {**run.params, **params}
            return {name: (one, specs, values, run.prompts, run) for name, one in run.named.items()}
        for option, said in (("--set", self.overrides), ("--formula", self.name)):
            if said:
                raise RunFileError(f"{option} is for a run file, and {self.formula} is a formula")
        from ..demo import models as demo_models

        return {"formula": (self.formula, {**demo_models(), **models}, params, {}, None)}


Plan = tuple[str, dict[str, Any], dict[str, float], dict[str, str], RunFile | None]


def explained(asked: Asked) -> str:
    """The plan's text.

    Raises:
        FormulaError, ModelError, RunFileError: as compiling would.
    """
    plans = {name: str(plan_report(*one)) for name, one in asked.plans().items()}
    if len(plans) == 1:
        return next(iter(plans.values()))
    return "\n\n".join(f"{name}\n{plan}" for name, plan in plans.items())


def rendering(asked: Asked, prompt: str | None) -> list[Rendered]:
    """What each model reads of a prompt.

    Args:
        asked: the models.
        prompt: text, or the path of a JSON file that holds a prompt: text, chat messages or token
            ids. None for the first prompt of the run file's data.

    Raises:
        FormulaError, ModelError, RunFileError: as compiling would, or no prompt to read.
    """
    from ..runtime.explain.prompt_view import rendered

    found: dict[str, Rendered] = {}
    for one in asked.plans().values():
        for read in rendered(_bound(*one), _prompt(prompt, one[-1])):
            found.setdefault(str(read), read)
    return list(found.values())


def _prompt(given: str | None, run: RunFile | None) -> Any:
    if given is None:
        if run is None or run.data is None:
            raise RunFileError("there is no run file with data here; give the prompt: --render …")
        return read_items(run.data.model_copy(update={"limit": 1}))[0].prompt
    if not given.endswith(".json"):
        return given
    if not Path(given).is_file():
        raise RunFileError(f"there is no prompt file {given}")
    try:
        return json.loads(Path(given).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunFileError(f"{given} is not JSON: {error}") from None


def plan_report(
    formula: str,
    models: Mapping[str, Any],
    params: Mapping[str, float],
    prompts: Mapping[str, str],
    run: RunFile | None = None,
) -> Any:
    """The report of a plan that is bound to the shapes of its models alone."""
    from ..runtime import Report

    return Report(_bound(formula, models, params, prompts, run), params)


def _bound(
    formula: str,
    models: Mapping[str, Any],
    params: Mapping[str, float],
    prompts: Mapping[str, str],
    run: RunFile | None,
) -> Bound:
    from ..api import declared, plan_of, where
    from ..runtime import bind

    specs = declared(models)
    plan = plan_of(formula, specs, params, prompts)
    needed = {name: spec for name, spec in specs.items() if run is not None or name in plan.models}
    homes = {spec.on: specs[spec.on] for spec in needed.values() if spec.on in specs}
    dtype, device = where(run.dtype if run else None, run.device if run else None)
    return bind(plan, {**needed, **homes}, dtype, device, skeleton=True)


def _merged(run: RunFile) -> dict[str, Any]:
    """A merged adapter costs what any adapter does: one of its parts stands for it."""
    from ..inputs.expand import sums_of

    return {name: run.models[merged.names[0]] for name, merged in sums_of(run).items()}


def _models(given: Sequence[str]) -> dict[str, str]:
    return dict(_pair(item, "--model", "PATH") for item in given)


def _params(given: Sequence[str]) -> dict[str, float]:
    found = {}
    for item in given:
        name, value = _pair(item, "--param", "VALUE")
        try:
            found[name] = float(value)
        except ValueError:
            raise RunFileError(f"--param {item}: {value!r} is not a number") from None
    return found


def _pair(item: str, option: str, what: str) -> tuple[str, str]:
    name, sign, value = item.partition("=")
    if not (name and sign and value):
        raise RunFileError(f"{option} {item}: write {option} NAME={what}")
    return name, value
