"""``descant explain``: the plan of a formula or a run file, without reading weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .runfile import RunFile, RunFileError, read_run_file


def explained(formula: str, models: Sequence[str], params: Sequence[str]) -> str:
    """The plan's text.

    Args:
        formula: a formula over declared and demo models, or the path of a run file.
        models: ``NAME=PATH`` each.
        params: ``NAME=VALUE`` each.

    Raises:
        FormulaError, ModelError, RunFileError: as compiling would.
    """
    if formula.endswith((".yaml", ".yml")) or Path(formula).is_file():
        run = read_run_file(formula)
        specs: dict[str, Any] = {**run.models, **_merged(run), **_models(models)}
        values = {**run.params, **_params(params)}
        plans = {
            name: str(plan_report(text, specs, values, run.prompts, run))
            for name, text in run.named.items()
        }
        if not run.formulas:
            return plans["formula"]
        return "\n\n".join(f"{name}\n{plan}" for name, plan in plans.items())
    from .demo import models as demo_models

    return str(plan_report(formula, {**demo_models(), **_models(models)}, _params(params), {}))


def plan_report(
    formula: str,
    models: Mapping[str, Any],
    params: Mapping[str, float],
    prompts: Mapping[str, str],
    run: RunFile | None = None,
) -> Any:
    """The report of a plan that is bound to the shapes of its models alone."""
    from .api import declared, plan_of, where
    from .runtime import Report, bind

    specs = declared(models)
    plan = plan_of(formula, specs, params, prompts)
    needed = {name: spec for name, spec in specs.items() if run is not None or name in plan.models}
    homes = {spec.on: specs[spec.on] for spec in needed.values() if spec.on in specs}
    dtype, device = where(run.dtype if run else None, run.device if run else None)
    return Report(bind(plan, {**needed, **homes}, dtype, device, skeleton=True), params)


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
