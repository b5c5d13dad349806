"""What a step leaves to the draw, and what the host is told of each row.

A kernel adds up terms that are read as raw logits, and does the last stages, if those keep the best
tokens or divide by a number. What comes before that is scores, worked out as by anyone who asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain as chained
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...formula import Plan, Read
from ...formula.nodes import Linear
from ...formula.words import stages as words
from ...formula.words.stages import Stage
from ...models.kernels.drawing.draw_sum import MIN_P, TEMPERATURE, TOP_K, TOP_P
from .context import Columns, Context
from .logprobs import Logits

_KINDS: dict[type[Stage], tuple[int, str]] = {
    words.Temperature: (TEMPERATURE, "t"),
    words.TopK: (TOP_K, "k"),
    words.TopP: (TOP_P, "p"),
    words.RequestTopP: (TOP_P, "p"),
    words.MinP: (MIN_P, "p"),
}
_IDLE: dict[type[Stage], str] = {  # what changes nothing where its number is 0 for every row
    words.PresencePenalty: "x",
    words.FrequencyPenalty: "x",
    words.MinTokens: "n",
    words.MinP: "p",
    words.EpsilonCutoff: "x",
    words.EtaCutoff: "x",
    words.TopNSigma: "n",
    words.Xtc: "probability",
    words.NoRepeatNgram: "n",
    words.Dry: "multiplier",
}
Stages = tuple[Sequence[Stage], Sequence[Stage], Sequence[Stage]]


class Undrawn(NamedTuple):
    """What the draw goes on from: a sum of terms, or scores, and stages.

    Attributes:
        logits: per term, of its lane's rows; or the ``(slots, V)`` scores alone.
        rows, weights, presents, shifts, wrongs, finished: as in ``draw_sum``.
        stages: the last, in their order; those that change nothing are left out.
        sources: what an alarm means.
    """

    logits: list[Tensor]
    stages: list[Stage]
    sources: list[tuple[str, object]]
    rows: list[Tensor] = []  # noqa: RUF012  nobody writes to these
    weights: list[Tensor] = []  # noqa: RUF012
    presents: list[Tensor] = []  # noqa: RUF012
    shifts: list[Tensor] = []  # noqa: RUF012
    wrongs: list[Tensor] = []  # noqa: RUF012
    finished: list[Tensor] = []  # noqa: RUF012

    @property
    def kinds(self) -> list[int]:
        """The kinds of the stages."""
        return [_KINDS[type(stage)][0] for stage in self.stages]

    def numbers(self, context: Context) -> list[Tensor]:
        """``(slots, 1)`` each, the numbers of the stages."""
        return [context.number(getattr(each, _KINDS[type(each)][1])) for each in self.stages]


class Terms(NamedTuple):
    """A formula that is a sum of raw logits.

    Attributes:
        parts: the column of each weight, or None for 1, and what it stands before.
        shift: the column of what is added, or None.
        one: ``(1, 1)`` float32, a weight of 1.
    """

    parts: Sequence[tuple[int | None, Read]]
    shift: int | None
    one: Tensor


def terms_of_sum(
    plan: Plan, columns: Columns, raw: frozenset[Read], device: torch.device
) -> Terms | None:
    """The terms of a plan's scores, where those are a sum of reads that are among the raw ones."""
    node = plan.scores
    if isinstance(node, Read):
        parts: Sequence[tuple[Any, Any]] = [(None, node)]
        shift = None
    elif isinstance(node, Linear):
        parts, shift = node.parts, node.shift
    else:
        return None
    numbers = [*(number for number, _ in parts), shift]
    if any(number is not None and number.states for number in numbers):
        return None
    if any(not isinstance(read, Read) or read.head or read not in raw for _, read in parts):
        return None
    placed = [(None if number is None else columns[number], read) for number, read in parts]
    one = torch.ones(1, 1, device=device)
    return Terms(placed, None if shift is None else columns[shift], one)


def last_stages(context: Context, stages: Stages) -> tuple[int, list[Stage]]:
    """How many stages at the end of the chains the draw does, and those that change anything."""
    count, last = 0, list[Stage]()
    before, own, after = stages
    movable = (own, after) if context.masks is not None else (before, own, after)
    for stage in reversed([*chained(*movable)]):
        if not _idle(stage, context):
            if type(stage) not in _KINDS:
                break
            last.insert(0, stage)
        count += 1
    return count, last


def without(stages: Stages, last: int) -> Stages:
    """The chains without so many stages at the end."""
    kept = []
    for each in reversed(stages):
        cut = min(last, len(each))
        kept.append(each[: len(each) - cut])
        last -= cut
    return kept[2], kept[1], kept[0]


def of_sum(
    terms: Terms | None, stages: list[Stage], context: Context, row_maps: Mapping[Read, Any]
) -> Undrawn | None:
    """A sum of the logits in a context, or None where they are not as they come from a lane."""
    if terms is None or context.unreadable is not None or context.masks is not None:
        return None
    out = Undrawn([], stages, [], [], [], [], [])
    for column, read in terms.parts:
        row_map = row_maps[read]
        if column is not None and context.numbers[column].idle:
            continue
        logits: Logits | None = context.logits.get(row_map.term.lane)
        if logits is None or logits.own is None or row_map.source in out.sources:
            return None
        out.logits.append(logits.own)
        out.rows.append(row_map.rows)
        out.presents.append(row_map.present)
        one = terms.one.expand(len(row_map.rows), 1)
        out.weights.append(one if column is None else context.numbers[column].values)
        out.sources.append(row_map.source)
    if terms.shift is not None:
        out.shifts.append(context.numbers[terms.shift].values)
    return out if out.logits else None


def of_scores(scores: Tensor, stages: list[Stage], context: Context) -> Undrawn:
    """Scores that are there, and what has gone wrong in them."""
    finished = [] if context.masks is None else [context.masks.over]
    wrongs = [*context.broken.values()]
    return Undrawn([scores], stages, [*context.broken], wrongs=wrongs, finished=finished)


def alarms(context: Context, best: Tensor) -> Tensor:
    """``(slots,)`` int64: 0, or 1 + the number of the first source that went wrong.

    ``best``, ``(slots,)``, is the best score of each: NaN where any is.
    """
    empty = best == -torch.inf
    if context.masks is not None:
        empty = empty & ~context.masks.over
    wrong = torch.stack([*context.broken.values(), best.isnan(), empty])
    return torch.where(wrong.any(dim=0), wrong.byte().argmax(dim=0) + 1, 0)


def _idle(stage: Stage, context: Context) -> bool:
    """Whether a stage changes nothing for any row, as the host knows."""
    if (name := _IDLE.get(type(stage))) is not None:
        return not context.runs(getattr(stage, name))
    match stage:
        case words.TopK(k=k):
            return context.known(k).least >= context.vocabulary
        case words.RequestTopP(p=x) | words.TypicalP(p=x) | words.Temperature(t=x):
            return context.known(x).one
        case words.RepetitionPenalty(x=x):
            return context.known(x).one
    return False
