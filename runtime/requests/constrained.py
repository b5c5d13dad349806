"""What requests say of their answers, ``structured_outputs``, as constraints that compile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ArgumentError
from ...extras import pip_install
from ..binding.bound import Bound
from ..constraints.compiled import compiled
from ..constraints.spec import FIELD, Constraint, constraint_of
from ..constraints.states import AfterThought
from .request import Request


def constraints_of(structured_outputs: Any, rows: int, bound: Bound) -> list[Constraint | None]:
    """The constraint of every row; None where it has none.

    Args:
        structured_outputs: one for all, or a list with one per row, None among them.
        rows: how many.
        bound: the plan, whose vocabulary they are compiled for.

    Raises:
        ConstraintError: no such form, or none that compiles.
        ArgumentError: a list of another length; models without a tokenizer.
    """
    several = isinstance(structured_outputs, list | tuple)
    forms = list(structured_outputs) if several else [structured_outputs]
    if several and len(forms) != rows:
        raise ArgumentError(f"{FIELD} has {len(forms)} values and there are {rows} rows")
    names = [f"{FIELD}[{i}]" for i in range(rows)] if several else [FIELD]
    made: dict[int, Constraint | None] = {}
    for name, form in zip(names, forms, strict=True):
        if id(form) not in made:
            constraint = made[id(form)] = constraint_of(form, name)
            if constraint is not None:
                _compile(constraint, bound)
    constraints = [made[id(form)] for form in forms]
    return constraints if several else constraints * rows


def check_constrained(constraints: list[Constraint | None], options: Mapping[str, Any]) -> None:
    """Refuse what does not go with a constraint, by an ``ArgumentError``."""
    if any(constraints) and options.get("sample_components"):
        why = "a constraint is on the whole mixture, and only one of its components is run"
        raise ArgumentError(f"{why} with sample_components=True; leave one of them out")


def thought_before(bound: Bound, request: Request) -> AfterThought | None:
    """The thought that a request's prompt has opened, which its answer ends before it is to fit."""
    if (thoughts := bound.thoughts) is None:
        return None
    state = thoughts.after_prompt([*request.prompts, *request.draft_prompts][bound.thinking_term])
    return AfterThought(thoughts, state) if state >= thoughts.inside else None


def _compile(constraint: Constraint, bound: Bound) -> None:
    if bound.tokenizer is None:
        raise ArgumentError(f"{FIELD} need a tokenizer; give tokenizer: … with the model")
    try:
        compiled(constraint, bound.constraints.tokens)
    except ImportError:
        raise ArgumentError(f"{FIELD} need llguidance: {pip_install('constrain')}") from None
