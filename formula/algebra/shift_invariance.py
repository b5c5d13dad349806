"""Shift invariance: the reads whose raw logits serve, without a log-softmax.

A log-softmax subtracts one number per row from all the logits. Where the formula's scores then
shift by one number too, or do not change, no choice of a token depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..nodes import Read, Staged, of_states, weighted_children
from ..plan import Plan
from ..words.operators import Operator
from ..words.signature import Shift
from ..words.stages import Stage


def unnormalised(plan: Plan) -> frozenset[Read]:
    """What the scores read whose raw logits serve, since a shift changes no choice.

    The terms of a search's reward are never among them: their sums are compared.
    """
    return frozenset(plan.reads) - set(_exact(plan))


def _exact(plan: Plan) -> Iterator[Read]:
    """The reads that must be log-probabilities: where a shift of a node is not harmless.

    A number of the state is of a softmax: a shift of what it is of is.
    """
    head, *of_stages = plan.roots
    todo, visited = [(head, _free(plan.stages, True)), *((each, True) for each in of_stages)], set()
    while todo:
        each, free = todo.pop()
        if (id(each), free) in visited:
            continue
        visited.add((id(each), free))
        todo += [(scores, True) for _, scores in of_states(each)]
        match each:
            case Read():
                if not free:
                    yield each
            case Staged(stages=stages):
                free = _free(stages, free)
            case Operator():
                free = _free((each,), free)
        todo += [(child, free) for _, child in weighted_children(each)]


def _free(stages: Sequence[Stage | Operator], free: bool) -> bool:
    """Whether a shift before some stages is harmless, given whether one after them is."""
    for stage in reversed(stages):
        free = stage.on_shift is Shift.ABSORBED or (free and stage.on_shift is Shift.PASSED)
    return free
