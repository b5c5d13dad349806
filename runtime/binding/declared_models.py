"""Models that are declared while formulas run, and those that are declared no more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ...errors import ArgumentError
from ...formula import Names, Plan, make_plan
from ...models import Heads, ModelSpec, make_spec, resolve
from ...models.loading.declared import describe_declared
from .bind import bind
from .bound import Bound
from .draft import DraftBinder


def with_model(specs: Mapping[str, ModelSpec], name: str, spec: Any) -> dict[str, ModelSpec]:
    """The declared models, and one more.

    Raises:
        ArgumentError: there is one of this name, or no formula could spell it.
        ModelError: an unknown option, or a base that is not declared.
    """
    if name in specs:
        raise ArgumentError(f"there is a model {name} already; remove it first, or take a new name")
    Names(frozenset([name]))
    added = {**specs, name: make_spec(name, spec)}
    resolve(name, added)
    return added


def without_model(
    specs: Mapping[str, ModelSpec], name: str, bounds: Iterable[Bound]
) -> dict[str, ModelSpec]:
    """The declared models but one, which none of these plans has, nor what drafts for it.

    Raises:
        ArgumentError: there is none of this name, or it is needed.
    """
    if name not in specs:
        raise ArgumentError(f"there is no model {name}; there are {', '.join(specs)}")
    for bound in bounds:
        for plan in plans_of(bound):
            if has_model(plan, name):
                raise ArgumentError(f"{name} is in {plan.formula}, which is compiled")
    if others := [other for other, spec in specs.items() if spec.on == name]:
        raise ArgumentError(f"{', '.join(others)} is on {name}; remove it first")
    return {other: spec for other, spec in specs.items() if other != name}


def plans_of(bound: Bound) -> list[Plan]:
    """A bound plan, and those that draft for it."""
    return [bound.plan, *(draft.plan for draft in bound.draft_plans)]


def has_model(plan: Plan, name: str) -> bool:
    """Whether a plan has a declared model: its weights, an addition to others, or a head."""
    return name in plan.declared or any(term.model == name for term in plan.spans)


def declare(models: DraftBinder, name: str, spec: Any) -> None:
    """Declare one more model; errors are those of ``with_model``."""
    _set(models, with_model(models.specs, name, spec))


def forget(models: DraftBinder, name: str, bounds: Iterable[Bound]) -> None:
    """Declare a model no more, and let go of weights that no other has.

    Raises:
        ArgumentError: as ``without_model``.
    """
    specs, others = models.specs, without_model(models.specs, name, bounds)
    weights = {_weights(models, specs, each) for each in (name, *others)}
    for each in weights - {_weights(models, others, other) for other in others}:
        models.pool.weights.pop(each, None)
    _set(models, others)


def unload(lane: Any, name: str) -> None:
    """Unload an adapter or a vector from a lane, none of whose rows has it."""
    if hasattr(lane, "adapters"):
        lane.adapters.remove(name)


def bound_formula(models: DraftBinder, formula: str, params: Mapping[str, float]) -> Bound:
    """A formula over declared models; what is in memory is not read again.

    Raises:
        FormulaError, ModelError: as ``bind``.
    """
    plan = make_plan(formula, replace(models.names, params=frozenset(params)))
    if plan.params:
        plan.values(dict(params))
    return bind(plan, models.specs, models.dtype, models.device, pool=models.pool)


def _weights(models: DraftBinder, specs: Mapping[str, ModelSpec], name: str) -> tuple[Any, ...]:
    """The key of a model's weights in memory; of a head, none."""
    if specs[name].head is not None:
        return ()
    return describe_declared(resolve(name, specs), models.dtype, models.device).weights


def _set(models: DraftBinder, specs: Mapping[str, ModelSpec]) -> None:
    models.names = replace(models.names, models=frozenset(specs), heads=Heads(specs))
    models.specs = specs
