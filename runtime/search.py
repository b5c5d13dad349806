"""Search over whole continuations: several slots per request, judged and copied as a group asks.

`best_of(r, n)` is one block of n samples; `blockwise(r, beams, samples, length)` goes on from the
best beams (controlled decoding, Mudgal et al. 2024; weak-to-strong search, Zhou et al. 2024);
`reject(r, …)` goes on from the first segment that is accepted (CARDS, Li et al. 2024). The prompt
is read once, every token is read once, and a row that is left is overwritten by a copy of one that
is kept, or goes back to where its segment began.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from .batch import Batch, Draft
from .engine import Engine
from .groups import Group, group_of
from .requests import Answer, Request
from .step import labelled


class Searcher:
    """Decodes requests through a plan whose last stage searches."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._bound = engine, engine.bound
        assert self._bound.plan.search is not None
        self._place, self._stage = self._bound.plan.search

    def run(self, requests: Sequence[Request], slots: int) -> Iterator[list[Answer]]:
        """Decode until every request has ended.

        Args:
            requests: in the order in which they are admitted.
            slots: how many rows are decoded at once; a request takes all of its rows together.

        Yields:
            When a request has ended, the best of its answers.
        """
        columns, tokenizer = self._bound.plan.columns, self._bound.tokenizer
        waiting = deque(group_of(one, self._stage, columns, tokenizer) for one in requests)
        widest = max((len(group.answers) for group in waiting), default=0)
        batch = self._engine.begin(requests, max(slots, widest))
        groups: list[Group] = []
        while waiting or groups:
            while waiting and batch.count + len(waiting[0].answers) <= batch.slots:
                groups.append(waiting.popleft())
                self._join(batch, groups[-1])
            self._judge(batch, groups)
            self._step(batch, groups)
            self._judge(batch, groups)
            for group in [group for group in groups if group.over]:
                groups.remove(group)
                yield [group.best]
                batch.finish(_slots(batch, group))

    def _join(self, batch: Batch, group: Group) -> None:
        now = time.perf_counter()
        batch.admit([answer.request for answer in group.answers])
        while not batch.read():
            pass
        for answer in (*group.answers, group.best):
            answer.started = now

    def _step(self, batch: Batch, groups: Sequence[Group]) -> None:
        """One token for every slot; what is drawn after a row's end does not count."""
        before = batch.judged[: batch.count].clone()
        tokens = self._engine.advance(batch)
        still: list[int] = []
        for group in groups:
            slots = _slots(batch, group)
            rows = group.take([tokens[i] for i in slots], [batch.unsure[i] for i in slots])
            still += [slots[row] for row in rows]
        batch.judged[still] = before[still]

    def _judge(self, batch: Batch, groups: Sequence[Group]) -> None:
        """Tell the groups that are due what their answers are worth, and move their rows."""
        due = [group for group in groups if group.due]
        if not due:
            return
        lengths = [0] * batch.count
        for group in groups:
            for slot, answer in zip(_slots(batch, group), group.answers, strict=True):
                lengths[slot] = len(answer.tokens)
        values = self._values(batch, lengths).tolist()
        sources, drafts = list(range(batch.count)), dict[int, Draft]()
        for group in due:
            slots = _slots(batch, group)
            chosen, written = group.judged([values[slot] for slot in slots])
            if not group.over:
                for slot, row in zip(slots, chosen, strict=True):
                    sources[slot] = slots[row]
                drafts |= dict(zip(slots, written, strict=False))
        batch.copy(sources)
        batch.rewrite(drafts)

    def value(self, batch: Batch, length: int, judged: Sequence[float | None]) -> float:
        """The judgement of one text that the batch has read.

        Args:
            batch: of one slot.
            length: tokens of the answer.
            judged: what each of them added, where language models judge.
        """
        batch.judged[0] = sum(one or 0.0 for one in judged)
        return float(self._values(batch, [length])[0])

    @torch.no_grad()
    def _values(self, batch: Batch, lengths: Sequence[int]) -> torch.Tensor:
        """``(slots,)`` the judgement of every text so far."""
        plan, readers, r = self._bound.plan, self._bound.rewards[self._place], self._stage.r
        if readers[0].language:
            return batch.judged[: batch.count]
        total = torch.zeros(batch.count, device=batch.device)
        here = slice(batch.count)
        for seat in batch.seats:
            if seat.reader.place == self._place and seat.live:
                outputs = batch.text_rewards(seat.reader.lane, lengths)
                coefficient = batch.values[here, plan.columns[r.parts[seat.number][0]]]
                total += torch.where(seat.present, coefficient * labelled(outputs, seat), 0.0)
        if r.shift is not None:
            total += batch.values[here, plan.columns[r.shift]]
        if bool(total.isnan().any()):
            names = " or ".join(str(reader.term) for reader in readers)
            raise plan.error(f"{names} gave NaN", plan.spans[readers[0].term])
        return total


def _slots(batch: Batch, group: Group) -> list[int]:
    """Where a group's answers are; slots change when others leave."""
    where = {id(request): slot for slot, request in enumerate(batch.requests)}
    return [where[id(answer.request)] for answer in group.answers]
