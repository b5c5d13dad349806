"""A chunked step: the next positions of given texts, each of them a row of one step.

What a row of the batch is to a step that draws, a position of a text is here: it has the numbers of
its slot, and has read the text up to there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from ...formula import Term
from ..batch.batch import Batch
from ..batch.rewrite import grow
from ..batch.row_map import RowMap
from ..scores.context import Context, Reading, numbers_of
from ..scores.logprobs import Logits
from .step import Step, formula_text, text_owners


@dataclass
class Chunk:
    """Positions of the texts in a batch, side by side.

    Attributes:
        step: of the plan.
        batch: its slots; the lanes' texts go as far as the chunk before this one.
        read: per slot, what is read after the prompt, all of it.
        done: per slot, the positions that came before.
        counts: per slot, the positions of this chunk; position ``i`` has read ``i`` tokens.
    """

    step: Step
    batch: Batch
    read: Sequence[Sequence[int]]
    done: Sequence[int]
    counts: Sequence[int]

    def __post_init__(self) -> None:
        texts = list(zip(self.read, self.done, self.counts, strict=True))
        self._new = [ids[at : at + count] for ids, at, count in texts]  # fed at the next position
        self._unread = [ids[max(at - 1, 0) : at + count - 1] for ids, at, count in texts]
        slots = [(slot, i) for slot, count in enumerate(self.counts) for i in range(count)]
        self._slots = [slot for slot, _ in slots]
        self.owner, self.ahead = torch.tensor(slots, device=self.batch.device).unbind(1)
        self._after: dict[int, list[list[int]]] = {}  # per term and slot: see ``_feed``
        self._widths: dict[int, int] = {}
        self._outputs: dict[int, Tensor] = {}
        self._first: Tensor | None = None
        self._feed()

    def context(self) -> Context:
        """What the step knows, a row per position."""
        batch, owner, bound = self.batch, self.owner, self.step.bound
        prepared = batch.prepared or self.step.prepare(batch)
        values = prepared.values[owner]
        terms: dict[Term, Reading] = {
            row_map.term.term: partial(self._read, row_map) if row_map.live else Context.zeros
            for row_map in batch.row_maps
            if row_map.term.address is None
        }
        rows = [batch.requests[slot].values for slot in self._slots]
        return Context(
            values, numbers_of(values, rows), bound.plan.columns, terms,
            prepared.steps[owner] + self.ahead, bound.vocabulary,
            bound.vocabulary + bool(batch.token_columns), self._seen(),
            None if batch.unread is None else batch.unread[owner], texts=self._texts,
        )  # fmt: skip

    def commit(self) -> None:
        """Go on behind the last position of each text."""
        batch = self.batch
        batch.state.go_on(self.counts)
        batch.changed()
        if batch.seen is not None and self._first is not None:
            batch.seen[: batch.count] |= self._first < max(self.counts)

    def _feed(self) -> None:
        """Give every lane what its rows have to read up to the last position.

        A term of another vocabulary reads several tokens for one; ``_after`` says how much of its
        text comes after each position.
        """
        texts: dict[int, dict[int, tuple[int, Sequence[int]]]] = {}
        for row_map in self.batch.row_maps:
            if row_map.term.address is not None:
                continue
            lane, after = row_map.term.lane, []
            ends = self.step.bound.lanes[lane].rows.counts()[1]
            for row, ids, count in zip(row_map.held, self._unread, self.counts, strict=True):
                own = [len(row_map.term.term_ids([token])) for token in ids[len(ids) + 1 - count :]]
                after.append([*accumulate(reversed(own), initial=0)][::-1])
                if row is None:
                    after[-1] = [0] * count
                    continue
                texts.setdefault(lane, {})[row] = (ends[row], row_map.term.term_ids(ids))
                self._widths[lane] = max(self._widths.get(lane, 0), after[-1][0] + 1)
            self._after[row_map.number] = after
        for number, rewritten in texts.items():
            lane = self.step.bound.lanes[number]
            grow(lane, max(end + len(ids) for end, ids in rewritten.values()))
            if any(ids for _, ids in rewritten.values()):
                lane.rows.rewrite(rewritten)

    def _read(self, row_map: RowMap, context: Context) -> Tensor:
        """One term's scores; its lane runs when the first of its terms is needed."""
        lane, key = row_map.term.lane, ("term", row_map.number)
        if lane not in self._outputs:
            runs, width = self.step.bound.lanes[lane], self._widths[lane]
            self.step.forwards[lane] += width > 1 or not runs.ready
            self._outputs[lane] = runs.logits_of_last(width)
        if key not in context.logits:
            after = [behind for texts in self._after[row_map.number] for behind in texts]
            columns = self._widths[lane] - 1 - torch.tensor(after, device=self.owner.device)
            outputs = self._outputs[lane]
            rows = row_map.rows[self.owner].to(outputs.device)
            picked = outputs[rows, columns.to(outputs.device)].float().to(self.batch.device)
            token_columns = self.batch.token_columns.get(lane)
            context.logits[key] = Logits(picked, context.width, token_columns)
        return self.step.term_scores(context.logits[key], row_map, context, self.owner)

    def _seen(self) -> Tensor | None:
        """``(positions, V)`` the tokens that were read before each, where a stage needs them."""
        batch = self.batch
        if batch.seen is None:
            return None
        shape = (batch.count, self.step.bound.vocabulary)
        self._first = torch.full(shape, max(self.counts), device=batch.device)
        for first, ids in zip(self._first, self._new, strict=True):
            where = torch.arange(len(ids), device=batch.device)
            first.scatter_reduce_(0, torch.tensor(ids, dtype=torch.long).to(where), where, "amin")
        return batch.seen[self.owner] | (self._first[self.owner] < self.ahead[:, None])

    def _texts(self) -> list[Tensor]:
        """Per position, the ids that the first of its terms has read."""
        texts = []
        for slot, row_map in enumerate(text_owners(self.batch)):
            rows, row = self.step.bound.lanes[row_map.term.lane].rows, row_map.held[slot]
            read = rows.text(row)
            for after in self._after[row_map.number][slot]:
                texts.append(formula_text(row_map, read[: len(read) - after]))
        return texts
