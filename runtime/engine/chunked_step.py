"""A chunk: the next places of texts that are given, each of them a row of one step.

What a row of the batch is to a step that draws, a place of a text is here: it has the numbers of
its slot, and has read the text up to there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from ...formula import Term
from ..batch.batch import Batch
from ..batch.row_map import RowMap
from ..scores.context import Context, Reading
from ..scores.logprobs import Logits
from ..scores.operators import evaluate
from ..scores.stages import chain
from .step import Step, first_row_maps, source_of


class Chunk:
    """Places of the texts in a batch, side by side.

    Args:
        step: of the plan.
        batch: its slots; the lanes' texts go as far as the chunk before this one.
        read: per slot, what is read after the prompt, all of it.
        done: per slot, the places that came before.
        counts: per slot, the places of this chunk; place ``i`` has read ``i`` tokens.
    """

    def __init__(
        self,
        step: Step,
        batch: Batch,
        read: Sequence[Sequence[int]],
        done: Sequence[int],
        counts: Sequence[int],
    ) -> None:
        self.step, self.batch, self.counts = step, batch, counts
        each = list(zip(read, done, counts, strict=True))
        self._new = [ids[at : at + count] for ids, at, count in each]  # told at the place after
        self._unread = [ids[max(at - 1, 0) : at + count - 1] for ids, at, count in each]
        slots = [(slot, i) for slot, count in enumerate(counts) for i in range(count)]
        self.owner, self.ahead = torch.tensor(slots, device=batch.device).unbind(1)
        self._after: dict[int, list[list[int]]] = {}  # per seat and slot: see ``_feed``
        self._widths: dict[int, int] = {}
        self._said: dict[int, Tensor] = {}
        self._logits: dict[int, Logits] = {}
        self._first: Tensor | None = None
        self._feed()

    def context(self) -> Context:
        """What the step knows, a row per place."""
        batch, owner, bound = self.batch, self.owner, self.step.bound
        terms: dict[Term, Reading] = {}
        context = Context(
            batch.values[: batch.count][owner], bound.plan.columns, terms, batch.ranges,
            batch.steps[: batch.count][owner] + self.ahead, bound.vocabulary,
            bound.vocabulary + bool(batch.token_columns), self._seen(),
        )  # fmt: skip
        context.texts = self._texts
        for row_map in batch.row_maps:
            if row_map.term.address is None:
                reads = partial(self._read, row_map)
                terms[row_map.term.term] = reads if row_map.live else Context.nothing
        return context

    def scores(self, context: Context) -> Tensor:
        """``(places, V)``: the formula and its stages."""
        plan = self.step.bound.plan
        head = context.tokens(evaluate(plan.scores, context))
        if self.batch.unread is not None:
            head = head.masked_fill(self.batch.unread[self.owner], -torch.inf)
        return chain(head, context, None, plan.stages)

    def commit(self) -> None:
        """Go on behind the last place of each text."""
        batch = self.batch
        batch.steps[: batch.count] += torch.tensor(self.counts, device=batch.device)
        if batch.seen is not None and self._first is not None:
            batch.seen[: batch.count] |= self._first < max(self.counts)

    def _feed(self) -> None:
        """Give every lane what its rows have to read up to the last place.

        A term of another vocabulary reads several tokens for one; ``_after`` says how much of its
        text comes after each place.
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
        for number, told in texts.items():
            lane = self.step.bound.lanes[number]
            needed = max(end + len(ids) for end, ids in told.values())
            if needed > lane.rows.capacity:
                lane.grow(2 * needed)
            lane.rows.rewrite(told)

    def _read(self, row_map: RowMap, context: Context) -> Tensor:
        """One term's scores; its lane is read when the first of its terms is asked for."""
        lane, number = row_map.term.lane, row_map.number
        if lane not in self._said:
            self._said[lane] = self.step.bound.lanes[lane].along(self._widths[lane])
            self.step.forwards[lane] += 1
        if number not in self._logits:
            after = [one for some in self._after[number] for one in some]
            columns = self._widths[lane] - 1 - torch.tensor(after, device=self.owner.device)
            token_columns, all_said = self.batch.token_columns.get(lane), self._said[lane]
            picked = all_said[
                row_map.rows[self.owner].to(all_said.device), columns.to(all_said.device)
            ]
            self._logits[number] = Logits(
                picked.float().to(self.batch.device), context.width, token_columns
            )
        said, source = self._logits[number], source_of(row_map)
        wrong = said.broken & row_map.present[self.owner]
        if context.wanted is not None:
            wrong = wrong & context.wanted[:, 0]
        context.broken[source] = wrong | context.broken.get(source, wrong)
        return said.raw if row_map.term.term in self.step.unnormalised else said.logprobs

    def _seen(self) -> Tensor | None:
        """``(places, V)`` the tokens that were read before each place, where a stage asks."""
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
        """Per place, the ids that the first of its terms in the writing has read."""
        texts = []
        for slot, row_map in enumerate(first_row_maps(self.batch)):
            rows, row = self.step.bound.lanes[row_map.term.lane].rows, row_map.held[slot]
            whole = rows.texts[row, : rows.counts()[1][row]]
            for after in self._after[row_map.number][slot]:
                text = whole[: len(whole) - after]
                if row_map.term.token_map is not None:
                    text = text.new_tensor(row_map.term.formula_ids(text.tolist()))
                texts.append(text)
        return texts
