"""``descant explain``: the plan of a formula or a run file, without reading weights.

And what each of its models reads of a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .run import read_prompts
from .runfile import RunFile, RunFileError, read_run_file

if TYPE_CHECKING:
    from .runtime import Bound
    from .runtime.rendered import Rendered


def explained(formula: str, models: Sequence[str], params: Sequence[str]) -> str:
    """The plan's text.

    Args:
        formula: a formula over declared and demo models, or the path of a run file.
        models: ``NAME=PATH`` each.
        params: ``NAME=VALUE`` each.

    Raises:
        FormulaError, ModelError, RunFileError: as compiling would.
    """
    plans = {
        name: str(plan_report(*asked)) for name, asked in _asked(formula, models, params).items()
    }
    if len(plans) == 1:
        return next(iter(plans.values()))
    return "\n\n".join(f"{name}\n{plan}" for name, plan in plans.items())


def rendering(
    formula: str, models: Sequence[str], params: Sequence[str], prompt: str | None
) -> list[Rendered]:
    """What each model reads of a prompt.

    Args:
        formula: as for ``explained``.
        models: ``NAME=PATH`` each.
        params: ``NAME=VALUE`` each.
        prompt: text, or the path of a JSON file that holds a prompt: text, chat messages or token
            ids. None for the first prompt of the run file's data.

    Raises:
        FormulaError, ModelError, RunFileError: as compiling would, or no prompt to read.
    """
    from .runtime.rendered import rendered

    found: dict[str, Rendered] = {}
    for asked in _asked(formula, models, params).values():
        for one in rendered(_bound(*asked), _prompt(prompt, asked[-1])):
            found.setdefault(str(one), one)
    return list(found.values())


Asked = tuple[str, dict[str, Any], dict[str, float], dict[str, str], RunFile | None]


def _asked(formula: str, models: Sequence[str], params: Sequence[str]) -> dict[str, Asked]:
    """Formulas by name, their models, parameters and prompts, and the run file they are of."""
    if formula.endswith((".yaml", ".yml")) or Path(formula).is_file():
        run = read_run_file(formula)
        specs: dict[str, Any] = {**run.models, **_merged(run), **_models(models)}
        values = {**run.params, **_params(params)}
        return {name: (text, specs, values, run.prompts, run) for name, text in run.named.items()}
    from .demo import models as demo_models

    return {"formula": (formula, {**demo_models(), **_models(models)}, _params(params), {}, None)}


def _prompt(given: str | None, run: RunFile | None) -> Any:
    if given is None:
        if run is None or run.data is None:
            raise RunFileError("there is no run file with data here; give the prompt: --render …")
        return read_prompts(run.data.model_copy(update={"limit": 1}))[0]
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
    from .runtime import Report

    return Report(_bound(formula, models, params, prompts, run), params)


def _bound(
    formula: str,
    models: Mapping[str, Any],
    params: Mapping[str, float],
    prompts: Mapping[str, str],
    run: RunFile | None,
) -> Bound:
    from .api import declared, plan_of, where
    from .runtime import bind

    specs = declared(models)
    plan = plan_of(formula, specs, params, prompts)
    needed = {name: spec for name, spec in specs.items() if run is not None or name in plan.models}
    homes = {spec.on: specs[spec.on] for spec in needed.values() if spec.on in specs}
    dtype, device = where(run.dtype if run else None, run.device if run else None)
    return bind(plan, {**needed, **homes}, dtype, device, skeleton=True)


def _merged(run: RunFile) -> dict[str, Any]:
    """A merged adapter costs what any adapter does: one of its parts stands for it."""
    from .sweep.rows import sums_of

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
