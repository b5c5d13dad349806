"""Which formulas may draft for others: those whose every token costs one cheap step."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ...grammar import Call, FormulaError, Name, Node, Span, parse
from ..plan import Plan
from ..words.constraints import ConstraintStage

PROMPT, AUTO = "prompt", "auto"  # drafts that are no formulas, and never models' names
LONGEST_DRAFT = 64  # tokens


def why_no_draft(plan: Plan) -> FormulaError | None:
    """Why a plan cannot draft, or None.

    It may not choose among texts, ask reward models, keep states, constrain, or have another
    vocabulary.
    """
    searching = plan.search[1].name if plan.search else "rerank" if plan.reranks else ""
    if searching:
        span = _span_of(parse(plan.source), searching) or Span(0, len(plan.source))
        why = "chooses among texts" if plan.search else "asks a reward model about every token"
        cure = f"leave {searching} out: the formula's own is asked when the draft is verified"
        return plan.error(f"{searching} {why}, and a draft is to be cheap", span, cure)
    if plan.stateful:
        problem = f"{plan.stateful[0].name} keeps a state, and a draft keeps none"
        cure = "leave it out: the formula's own is asked when the draft is verified"
        return plan.error(problem, plan.stateful[0].span, cure)
    for _, stage in plan.all_stages:
        if isinstance(stage, ConstraintStage):
            problem = f"{stage.name} masks what is verified, and a draft goes without"
            cure = "leave it out: the formula's own is asked when the draft is verified"
            return plan.error(problem, stage.span, cure)
    if aligned := next((term for term in plan.terms if term.aligned), None):
        problem = f"{aligned} has another vocabulary, and a draft has the formula's"
        return plan.error(problem, plan.spans[aligned], "draft by a model of the formula's own")
    return None


def _span_of(node: Node, stage: str) -> Span | None:
    """Where a stage of this name stands first, in a tree."""
    match node:
        case Call(Name(name), arguments):
            if name == stage:
                return node.span
            inner = [each.value for each in arguments]
        case _:
            inner = [
                each
                for field_ in fields(node)
                for each in _several(getattr(node, field_.name))
                if isinstance(each, Node)
            ]
    return next(filter(None, (_span_of(each, stage) for each in inner)), None)


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
