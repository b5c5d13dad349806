"""How far the slots of a batch are: their noise, their steps, and what only the device knows.

Steps are counted on both sides, so that the host can write them again. A text's scores in a search
and its tables are on the device alone: when slots change, each takes over what
another had, or starts with what the host says. All changes between two steps are one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ...models.upload import Changes, Mirror, fill
from ..requests.request import PROCESSED, Request
from ..scores.token_tables import BIAS, BREAKS, COUNTS, ENDS, SEEN, TEXT, TokenTable, filled


class Start(NamedTuple):
    """What a slot starts with.

    Attributes:
        search_scores: of its text, the log-probability by each language model of a search.
        tables: its row of each table, by token, without zeros.
        thought: the state of its text among the marks of thought, where the plan needs it.
    """

    search_scores: Sequence[float]
    tables: Mapping[TokenTable, Mapping[int, float]] = {}
    thought: int = 0


class DrawnTokens:
    """The tokens of a step on their way to the host; they are waited for when somebody looks.

    Args:
        results: on the host, once ``copied`` has happened: the tokens first, one per slot.
    """

    def __init__(self, results: Tensor, copied: torch.cuda.Event | None) -> None:
        self._results, self._copied = results, copied

    @cached_property
    def tokens(self) -> list[int]:
        """One per slot then."""
        if self._copied is not None:
            self._copied.synchronize()
        tokens: list[int] = self._results[0].tolist()
        return tokens


@dataclass
class HostAnswer:
    """What a slot has drawn, as the host knows it: tokens, and the places of those on their way."""

    tokens: list[int]
    pending: list[tuple[DrawnTokens, int]] = field(default_factory=list)

    def known(self) -> None:
        """Know all of its tokens; the last may be waited for."""
        self.tokens += [step.tokens[slot] for step, slot in self.pending]
        self.pending = []


Origin: TypeAlias = "int | Start"  # the slot whose scores and tokens a slot takes over, or its own


class SlotState:
    """The slots in use, which are numbered as in the batch.

    Args:
        device: where steps run.
        slots: how many there are at most.
        scalars: numbers of each.
        lane_rows: of all lanes.
        row_maps: how many.
        vocabulary: tokens of it.
        scored: language models that value the texts of a search.
        tables: that stages look at.
        thinks: whether it is told which texts are in a thought.
        capacity: tokens of a text at most.

    Attributes:
        mirror: what steps read and the host writes, of slots, lanes' rows and row maps.
        search_scores: ``(slots, scored)`` float32, each text's log-probability by the language
            models of a search, or None; and ``scores_before`` the last step.
        tables: ``(slots, V)`` each, of the texts; the text itself, ``(slots, capacity)``.
        thoughts: ``(slots,)`` int64, the state of each text among the marks of thought, or None.
        answers: per slot, what it has drawn, as far as somebody keeps it (``note``); None where the
            device alone knows.
        taken: steps that have been launched, by which the device has counted on; ``mark`` and the
            others are those of ``HostCounts``.
    """

    def __init__(
        self,
        device: torch.device,
        slots: int,
        scalars: int,
        lane_rows: int,
        row_maps: int,
        vocabulary: int,
        scored: int,
        tables: Sequence[TokenTable] = (),
        thinks: bool = False,
        capacity: int = 0,
    ) -> None:
        self._slots, self.taken = slots, 0
        self.mirror = Mirror(
            device,
            values=((slots, scalars), torch.float32),
            temperatures=((slots,), torch.float32),
            keys=((slots, 2), torch.int32),
            steps=((slots,), torch.long),
            processed=((slots,), torch.bool),
            proposed=((slots,), torch.long),
            by_component=((slots,), torch.bool),
            owners=((lane_rows,), torch.long),
            rows=((row_maps, slots), torch.long),
            present=((row_maps, slots), torch.bool),
        )
        self.search_scores: Tensor | None = None
        self.tables: dict[TokenTable, Tensor] = {}
        # What slots take over, with room behind them for what others start with; and how, if that
        # is a table.
        self._on_device: list[tuple[Tensor, TokenTable | None]] = []
        self.scores_before = torch.zeros(slots, scored, device=device)
        if scored:
            self._on_device.append((torch.zeros(2 * slots, scored, device=device), None))
            self.search_scores = self._on_device[-1][0][:slots]
        for table in tables:
            columns = capacity if table.by_position else vocabulary
            rows = torch.zeros(2 * slots, columns, dtype=table.dtype, device=device)
            self._on_device.append((rows, table))
            self.tables[table] = rows[:slots]
        self.thoughts: Tensor | None = None
        if thinks:
            states = torch.zeros(2 * slots, dtype=torch.long, device=device)
            self._on_device.append((states, None))
            self.thoughts = states[:slots]
        self._moves = torch.zeros(2 * slots, dtype=torch.long, device=device)
        self._moving = self._moves[:0].view(2, 0)  # to which slots, and from where
        self.clear()

    def clear(self) -> None:
        """No slot is in use any more."""
        self._keys: list[tuple[int, int]] = []
        self._first: list[int] = []  # of the steps taken, a slot's first
        self._origins: list[Origin] = []
        self.answers: list[HostAnswer | None] = []

    def join(self, key: tuple[int, int], start: Start) -> None:
        """Another slot, with this noise."""
        self._keys.append(key)
        self._first.append(self.taken)
        self._origins.append(start)
        self.answers.append(HostAnswer([]))

    def leave(self, slot: int) -> None:
        """Free a slot; the last takes its place."""
        lists: list[list[Any]] = [self._keys, self._first, self._origins, self.answers]
        for values in lists:
            values[slot] = values[-1]
            values.pop()

    def copy(self, sources: Sequence[int]) -> None:
        """Make each slot what its source was; its noise stays its own."""
        self._first = [self._first[source] for source in sources]
        self._origins = [self._origins[source] for source in sources]
        self.answers = [None] * len(sources)

    def rewrite(self, slot: int, key: tuple[int, int], drawn: int, start: Start) -> None:
        """Let a slot go on with other noise, after so many tokens."""
        self._keys[slot], self._origins[slot] = key, start
        self._first[slot] = self.taken - drawn
        self.answers[slot] = None

    def take_back(self, slot: int, drawn: int) -> None:
        """Let a slot have drawn so many tokens, and none after them."""
        self._first[slot] = self.taken - drawn

    def propose(self, counts: Sequence[int]) -> None:
        """Say how many tokens are drafted in each slot; the device has it with the next changes."""
        self.mirror.host.proposed.zero_()
        fill(self.mirror.host.proposed, counts)

    def go_on(self, counts: Sequence[int]) -> None:
        """Count so many tokens more in each slot."""
        self._first = [first - count for first, count in zip(self._first, counts, strict=True)]
        self.answers = [None] * len(self._first)

    def note(self, drawn: DrawnTokens) -> None:
        """Keep where each slot's next token is, which the step that was launched has drawn."""
        for slot, answer in enumerate(self.answers):
            if answer is not None:
                answer.pending.append((drawn, slot))

    def noise(self) -> tuple[list[tuple[int, int]], list[int]]:
        """The key of each slot, and how many tokens it has drawn, as the device has it now."""
        return self._keys, [self.taken - first for first in self._first]

    def changes(self, requests: Sequence[Request]) -> Changes:
        """What to copy to the device, before ``move``: all of the mirror, written anew."""
        host, self.mirror.stale = self.mirror.host, True
        fill(host.values, [request.values for request in requests])
        fill(host.temperatures, [request.temperature for request in requests])
        fill(host.processed, [request.logprobs_mode == PROCESSED for request in requests])
        fill(host.by_component, [request.sample_components for request in requests])
        keys, steps = self.noise()
        fill(host.keys, keys)
        fill(host.steps, steps)
        return [*self.mirror.changes(), *self._moved()]

    def _moved(self) -> Changes:
        """Which slots take over what others had, and what others start with."""
        moved = [(slot, origin) for slot, origin in enumerate(self._origins) if origin != slot]
        self._origins = [*range(len(self._origins))]
        if not moved or not self._on_device:
            return []
        starts = [origin for _, origin in moved if isinstance(origin, Start)]
        behind = iter(range(self._slots, self._slots + len(starts)))
        sources = [next(behind) if isinstance(each, Start) else each for _, each in moved]
        numbers = self._moves[: 2 * len(moved)]
        self._moving = numbers.view(2, len(moved))
        changes = [(numbers, torch.tensor([*(slot for slot, _ in moved), *sources]))]
        for tensor, table in self._on_device:
            room = tensor[self._slots : self._slots + len(starts)]
            if table is not None:
                rows = [start.tables.get(table, {}) for start in starts]
                changes.append((room, filled(table, rows, room.shape[1])))
            else:
                of_starts = _scores if tensor.is_floating_point() else _thoughts
                changes.append((room, of_starts(starts, room)))
        return changes

    def grow(self, tokens: int) -> None:
        """Room for so many tokens more in every text."""
        for i, (rows, table) in enumerate(self._on_device):
            if table is not None and table.by_position:
                rows = torch.cat((rows, rows.new_zeros(len(rows), tokens)), dim=1)
                self._on_device[i] = rows, table
                self.tables[table] = rows[: self._slots]

    def move(self) -> None:
        """Let what the device knows follow its slots: two launches a tensor."""
        if self._moving.numel():
            targets, sources = self._moving
            for tensor, _ in self._on_device:
                tensor.index_copy_(0, targets, tensor.index_select(0, sources))
            self._moving = self._moves[:0].view(2, 0)

    def mark(self) -> int:
        return self.taken

    def rewind(self, mark: int) -> None:
        self.taken = mark

    def progress(self, mark: int) -> int:
        return self.taken - mark

    def advance(self, progress: int) -> None:
        self.taken += progress


def _scores(starts: Sequence[Start], room: Tensor) -> Tensor:
    nothing = [0.0] * room.shape[1]
    return torch.tensor([[*start.search_scores] or nothing for start in starts]).view(room.shape)


def table_rows(
    bound: Any, request: Request, answer: Sequence[int]
) -> dict[TokenTable, Mapping[int, float]]:
    """A request's row of each table, by token and without zeros, after this answer."""
    rows: dict[TokenTable, Mapping[int, float]] = {}
    for table in bound.tables:
        row: Mapping[int, float] = {}
        if table is SEEN:
            prompts = zip(bound.terms, request.prompts, strict=True)
            read = (token for term, ids in prompts for token in term.formula_ids(ids))
            row = dict.fromkeys([*answer, *read], 1)
        elif table is COUNTS:
            row = Counter(answer)
        elif table is ENDS:
            row = dict.fromkeys(request.eos, 1)
        elif table is BIAS:
            row = request.logit_bias
        elif table is BREAKS:
            row = dict.fromkeys(bound.breakers.tokens(request.dry_sequence_breakers), 1)
        elif table is TEXT:
            ids = bound.terms[bound.text_term].formula_ids(request.prompts[bound.text_term])
            rows[table] = {at: token + 1 for at, token in enumerate([*ids, *answer])}
            continue
        rows[table] = {token: each for token, each in row.items() if token < bound.vocabulary}
    return rows


def _thoughts(starts: Sequence[Start], room: Tensor) -> Tensor:
    return torch.tensor([start.thought for start in starts], dtype=torch.long)
