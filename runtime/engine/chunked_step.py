"""A chunked step: several positions of every text, each of them a row of one step.

What a row of the batch is to a step that draws, a position of a text is here: it has the numbers of
its slot, and has read the text up to there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from ...formula import Read
from ..batch.batch import Batch
from ..batch.row_map import RowMap, reads_of
from ..batch.texts import formula_text, masks_of, starts_of, states_of, text_owners
from ..binding.bound import Bound
from ..scores.context import Columns, Context, Needing, Reading, numbers_of
from ..scores.logprobs import Logits
from ..scores.row_states import RowStates
from ..scores.thoughts import TextThoughts
from ..scores.token_tables import TokenTable, add_tokens, along


class PlanStep(Protocol):
    """A plan's step, as far as it knows its terms."""

    bound: Bound
    columns: Columns
    syncs: bool
    proposes: bool
    goes_back: bool

    def prepare(self, batch: Batch) -> Any:
        """What holds until the slots of a batch change."""

    def count(self, lanes: Sequence[int]) -> None:
        """Count a forward of each."""

    def read_scores(
        self,
        logits: Logits,
        row_map: RowMap,
        read: Read,
        raw: bool,
        context: Context,
        owner: Tensor | None = None,
    ) -> Tensor:
        """One term's scores, or what a head says of its row."""

    def is_raw(self, row_map: RowMap, read: Read) -> bool:
        """Whether raw logits serve."""


@dataclass
class Chunk:
    """The last positions of the texts in a batch, side by side.

    The lanes' texts go up to the last position already; what of them is unread is read here.

    Attributes:
        step: of the plan.
        batch: its slots.
        counts: per slot, its positions; position ``i`` has read ``i`` tokens more than the first.
        tokens: per slot, those that are read after each position. Without one after the last, its
            ``count - 1`` are all that is needed.
        drafted: per lane that has drafted, its logits: in order, for each position but the last of
            the longest slot.
        keys, steps, temperatures, processed: of the batch, ``(width, …)``, a row per position; and
            ``samples``, ``any_processed`` and ``top_logprobs`` are the batch's.
    """

    step: PlanStep
    batch: Batch
    counts: Sequence[int]
    tokens: Sequence[Sequence[int]]
    drafted: Mapping[int, Sequence[Logits]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.slots = [slot for slot, count in enumerate(self.counts) for _ in range(count)]
        self.owner, self.ahead, self.after = _places(tuple(self.counts), self.batch.device)
        batch, owner = self.batch, self.owner
        if self.step not in batch.prepared:
            self.step.prepare(batch)  # the devices have all changes then
        self.keys = batch.keys.index_select(0, owner)
        self.steps = batch.steps.index_select(0, owner) + self.ahead
        self.temperatures = batch.temperatures.index_select(0, owner)
        self.processed = batch.processed.index_select(0, owner)
        self.samples, self.any_processed = batch.samples, batch.any_processed
        self.top_logprobs = batch.top_logprobs
        self._lane_logits: dict[int, Tensor] = {}
        self._columns, self._widths = self._mapped_columns()

    @property
    def width(self) -> int:
        """Rows of the step: positions of all slots."""
        return len(self.slots)

    def of(self, step: PlanStep) -> Chunk:
        """The same positions in another plan's step, over the same logits."""
        other = copy(self)
        other.step = step
        return other

    def context(self, noisy: bool = False) -> Context:
        """What the step knows, a row per position; with their noise where tokens are drawn."""
        batch, owner, bound = self.batch, self.owner, self.step.bound
        prepared = batch.prepared.get(self.step) or self.step.prepare(batch)
        values = prepared.values.index_select(0, owner)
        reads: list[Reading] = [
            partial(self._read, row_map, read) if row_map.live else Context.zeros
            for read, row_map in reads_of(bound.plan, batch.row_maps)
        ]
        where = owner, self.ahead, self.after, max(self.counts)
        rewarders = {at: each.along(*where) for at, each in prepared.rewarders.items()}
        search = [
            (
                each,
                partial(self._read, each, Read(each.term.term)) if each.live else Context.zeros,
            )
            for each, _ in prepared.search_terms
        ]
        rows = [batch.requests[slot].values for slot in self.slots]
        return Context(
            values, numbers_of(values, rows), self.step.columns, reads, self.steps,
            bound.vocabulary, bound.vocabulary + bool(batch.token_columns), self._tables(),
            None if batch.unread is None else batch.unread.index_select(0, owner),
            rewarders, search, texts=self._texts, syncs=self.step.syncs,
            starts=self._starts, row_states=None if self.step.proposes else self._states,
            needing={node: self._along(each) for node, each in prepared.needing.items()},
            masks=self._masks() if batch.constrained else None, own_apart=batch.logprobs,
            mass_temperatures=self.temperatures if bound.weighs_masks else None,
            thoughts=self._thoughts(), keys=self.keys if noisy else None,
        )  # fmt: skip

    def commit(self) -> None:
        """Go on behind the last position of each text, with the token after it."""
        batch = self.batch
        batch.state.go_on(self.counts)
        batch.changed()
        add_tokens(batch.tables, self.tokens)
        if batch.thoughts is not None:
            batch.thoughts.read_all(self.tokens)

    def _mapped_columns(self) -> tuple[dict[int, Tensor], dict[int, int]]:
        """Per row map of another vocabulary, the tokens of its text behind each position.

        Such a model reads several tokens for one. And per lane, the tokens that it gives logits of.
        """
        columns, widths = dict[int, Tensor](), dict[int, int]()
        most = max(self.counts)
        for index, row_map in enumerate(self.batch.row_maps):
            lane, term = row_map.term.lane, row_map.term
            if term.token_map is None:
                widths[lane] = max(widths.get(lane, 0), most)
                continue
            after: list[int] = []
            for row, ids, count in zip(row_map.held, self.tokens, self.counts, strict=True):
                own = [len(term.term_ids([token])) for token in ids[: count - 1]]
                behind = [*accumulate(reversed(own), initial=0)][::-1]
                after += behind if row is not None else [0] * count
            columns[index] = torch.tensor(after, device=self.batch.device)
            widths[lane] = max(widths.get(lane, 0), 1 + max(after, default=0))
        return columns, widths

    def _after(self, row_map: RowMap) -> Tensor:
        """``(width,)`` int64, tokens of a row map's texts behind each position."""
        return self._columns.get(self.batch.row_maps.index(row_map), self.after)

    def _read(self, row_map: RowMap, read: Read, context: Context) -> Tensor:
        """One term's scores, or a head's; its lane runs when the first of them is needed."""
        key = ("term", row_map)
        if key not in context.logits:
            rows = row_map.rows.index_select(0, self.owner)
            drafted = self.drafted.get(row_map.term.lane)
            context.logits[key] = (
                self._read_text(row_map, rows, context)
                if drafted is None
                else self._drafted(row_map, rows, drafted, context)
            )
        raw = self.step.is_raw(row_map, read)
        return self.step.read_scores(context.logits[key], row_map, read, raw, context, self.owner)

    def _read_text(self, row_map: RowMap, rows: Tensor, context: Context) -> Logits:
        """A term's logits of every position, by one forward of its lane."""
        number = row_map.term.lane
        width, lane = self._widths[number], self.step.bound.lanes[number]
        if number not in self._lane_logits:
            if width > 1 or not lane.ready:
                self.step.count([number])
            self._lane_logits[number] = lane.logits_of_last(width)
        logits = self._lane_logits[number]
        columns = width - 1 - self._after(row_map)
        picked = logits[rows.to(logits.device), columns.to(logits.device)].float()
        token_columns = self.batch.token_columns.get(number)
        picked = picked.to(self.batch.device)
        return Logits(picked, context.width, token_columns, lane.vocabulary)

    def _drafted(
        self, row_map: RowMap, rows: Tensor, drafted: Sequence[Logits], context: Context
    ) -> Logits:
        """The same, of a lane that has drafted: only the last position is read."""
        number = row_map.term.lane
        key = ("drafted", number)
        if key not in context.logits:
            lane = self.step.bound.lanes[number]
            if lane.forward():
                self.step.count([number])
            token_columns = self.batch.token_columns.get(number)
            outputs = lane.logits().to(self.batch.device)
            last = Logits(outputs, context.width, token_columns, lane.vocabulary)
            context.logits[key] = Logits.joined([*drafted, last])
        joined: Logits = context.logits[key]
        lane_rows = len(joined.raw) // (len(drafted) + 1)
        return joined.selected(self.ahead * lane_rows + rows)

    def _tables(self) -> dict[TokenTable, Tensor]:
        """``(width, V)`` each, with the tokens that were read before each position."""
        return along(self.batch.tables, self.owner, self.counts, self.tokens)

    def _thoughts(self) -> TextThoughts | None:
        """Where the text before each position is, where a number needs it."""
        if self.batch.thoughts is None:
            return None
        read = [ids[: count - 1] for ids, count in zip(self.tokens, self.counts, strict=True)]
        texts = self.batch.thoughts.of_step(self.batch.count)
        return texts._replace(states=texts.along(read)[self.owner, self.ahead])

    def _texts(self) -> list[Tensor]:
        """Per position, the ids that the first of its terms has read."""
        texts = []
        starts = [0, *accumulate(self.counts)]
        for slot, row_map in enumerate(text_owners(self.batch)):
            rows, row = self.step.bound.lanes[row_map.term.lane].rows, row_map.held[slot]
            read = rows.text(row)
            for after in self._after(row_map)[starts[slot] : starts[slot + 1]].tolist():
                texts.append(formula_text(row_map, read[: len(read) - after]))
        return texts

    def _starts(self) -> list[int]:
        """Per position, how many of those ids come before the answer."""
        starts = starts_of(self.batch)
        return [starts[slot] for slot in self.slots]

    def _masks(self) -> Any:
        """Of every position."""
        requests = [self.batch.requests[slot] for slot in self.slots]
        return masks_of(self.step, self.batch, (requests, self.width, self._answers))

    def _answers(self) -> list[list[int]]:
        """Per position, the tokens of its answer, on the host."""
        pairs = zip(self._texts(), self._starts(), strict=True)
        return [text[start:].tolist() for text, start in pairs]

    def _along(self, needing: Needing) -> Needing:
        """The same rows, by position."""
        mask = needing.mask
        rows = [needing.rows[slot] for slot in self.slots]
        return Needing(rows, None if mask is None else mask.index_select(0, self.owner))

    def _states(self) -> list[RowStates]:
        """Per position, the states of its slot's stages and operators."""
        slots = zip(states_of(self.batch, self.step.goes_back), self.counts, strict=True)
        return [
            row._replace(drawn=row.drawn + ahead) for row, count in slots for ahead in range(count)
        ]


@lru_cache(maxsize=64)  # of tensors that a device reads again and again
def _places(counts: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """``(width,)`` int64 each: a position's slot, its number, and how many come after it."""
    places = [(slot, i, count - 1 - i) for slot, count in enumerate(counts) for i in range(count)]
    owner, ahead, after = torch.tensor(places, device=device).unbind(1)
    return owner, ahead, after
