"""What the rows of a batch have read, as the formula's tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from ..constraints.masks import Masks
from ..scores.row_states import RowStates
from ..scores.thoughts import TextThoughts
from .slot_state import HostAnswer

# Of a step: whose rows they are, how many with idle ones, and what gives the answer of each.
Constrained: TypeAlias = "tuple[Sequence[Any], int, Callable[[], Sequence[Sequence[int]]]]"


class HasTexts(Protocol):
    """A batch, as far as its texts go."""

    bound: Any
    row_maps: list[Any]
    count: int
    requests: list[Any]
    state: Any


def text_owners(batch: HasTexts) -> list[Any]:
    """Per slot, the row map of the first of its terms as written; aligned ones come last."""
    spans = batch.bound.plan.spans
    row_maps = [each for each in batch.row_maps if each.term.address is None]
    row_maps = [each for each in row_maps if not each.only_draft]
    row_maps.sort(key=lambda each: (each.term.token_map is not None, spans[each.term.term]))
    slots = range(batch.count)
    return [next(each for each in row_maps if each.held[slot] is not None) for slot in slots]


def formula_text(row_map: Any, ids: Tensor) -> Tensor:
    """Ids that a term has read, as the formula's tokens."""
    aligned = row_map.term.token_map is not None
    return ids.new_tensor(row_map.term.formula_ids(ids.tolist())) if aligned else ids


def texts_of(batch: HasTexts) -> list[Tensor]:
    """Per slot, the ids that the first of its terms has read."""
    return [
        formula_text(row_map, batch.bound.lanes[row_map.term.lane].rows.text(row_map.held[slot]))
        for slot, row_map in enumerate(text_owners(batch))
    ]


def starts_of(batch: HasTexts) -> list[int]:
    """Per slot, how many of those ids come before the answer."""
    owners = zip(text_owners(batch), batch.requests, strict=True)
    return [len(row_map.term.formula_ids(row_map.prompt(request))) for row_map, request in owners]


def states_of(batch: HasTexts, goes_back: bool) -> list[RowStates]:
    """Per slot, the states of its stages and operators.

    Args:
        batch: its slots.
        goes_back: whether any row may; those that are drafted may anyway.
    """
    return [
        RowStates(request.states, drawn, goes_back or request.draft is not None)
        for request, drawn in zip(batch.requests, batch.state.noise()[1], strict=True)
    ]


def thoughts_of(batch: Any) -> TextThoughts | None:
    """Where the texts of a step's slots are among the marks of thought, if a number needs it."""
    return batch.thoughts and batch.thoughts.of_step(batch.width)  # type: ignore[no-any-return]


def answers_of(batch: HasTexts) -> list[list[int]]:
    """Per slot, the tokens that it has drawn, on the host.

    What a step has drawn is waited for, and not what was launched after it; where the host has lost
    sight of a text, because it was rewritten or drafted, it asks the device.
    """
    state = batch.state
    for each in filter(None, state.answers):
        each.known()
    drawn = zip(state.answers, state.noise()[1], strict=True)
    if any(each is None or len(each.tokens) != count for each, count in drawn):
        pairs = zip(texts_of(batch), starts_of(batch), strict=True)
        state.answers = [HostAnswer(text[start:].tolist()) for text, start in pairs]
    return [each.tokens for each in state.answers]


def masks_of(
    step: Any,
    batch: Any,
    rows: Constrained | None = None,
) -> Masks | None:
    """The masks of a step's rows; None of what is only proposed, which goes without.

    Args:
        step: of the plan, and ``batch``, its slots.
        rows: those of the step; left out, the slots.
    """
    if step.proposes:
        return None
    requests, width, answers = rows or (batch.requests, batch.width, partial(answers_of, batch))
    return Masks(step.bound.constraints, requests, answers, width, batch.device)
