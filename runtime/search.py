"""Search over whole continuations: several slots per request, judged and copied block by block.

`best_of(r, n)` is one block of n samples; `blockwise(r, beams, samples, length)` goes on from the
best beams (controlled decoding, Mudgal et al. 2024; weak-to-strong search, Zhou et al. 2024). The
prompt is read once, every token is read once, and a beam that is left is overwritten by a copy of
one that is kept.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..formula.stages import BestOf, Blockwise
from .batch import Batch
from .engine import Engine, labelled
from .noise import seed_key
from .requests import Answer, Request


@dataclass
class _Group:
    """One request's answers in the making, a slot each: `beams` times `samples`."""

    answers: list[Answer]
    beams: int
    block: int
    steps: int = 0

    @property
    def over(self) -> bool:
        """Whether every answer has ended."""
        return all(answer.finish_reason for answer in self.answers)

    @property
    def due(self) -> bool:
        """Whether a block has ended."""
        return self.over or self.steps % self.block == 0


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
        waiting = deque(self._group(request) for request in requests)
        widest = max((len(group.answers) for group in waiting), default=0)
        batch = self._engine.begin(requests, max(slots, widest))
        groups: list[_Group] = []
        while waiting or groups:
            while waiting and batch.count + len(waiting[0].answers) <= batch.slots:
                groups.append(waiting.popleft())
                self._join(batch, groups[-1])
            best = self._step(batch, groups)
            for group in [group for group in groups if group.over]:
                groups.remove(group)
                yield [group.answers[best[id(group)]]]
                batch.finish(_slots(batch, group))

    def _group(self, request: Request) -> _Group:
        """A request's rows: one request each, with noise of its own."""
        columns, stage, values = self._bound.plan.columns, self._stage, request.values
        if isinstance(stage, BestOf):
            beams, samples, block = 1, int(values[columns[stage.n]]), request.max_new_tokens
        else:
            assert isinstance(stage, Blockwise)
            numbers = (stage.beams, stage.samples, stage.length)
            beams, samples, block = (int(values[columns[number]]) for number in numbers)
        high, low = request.key
        keys = [seed_key((high << 32) ^ low, i) for i in range(beams * samples)]
        rows = [replace(request, key=key) for key in keys]
        return _Group([Answer(row, self._bound.tokenizer, 0.0) for row in rows], beams, block)

    def _join(self, batch: Batch, group: _Group) -> None:
        now = time.perf_counter()
        batch.admit([answer.request for answer in group.answers])
        for answer in group.answers:
            answer.started = now

    def _step(self, batch: Batch, groups: list[_Group]) -> dict[int, int]:
        """One token for every slot; judges and copies where a block ends.

        Returns:
            For each group that was judged, by identity, which of its answers is best.
        """
        before = batch.judged[: batch.count].clone()
        tokens = self._engine.advance(batch)
        frozen, lengths = [], [0] * batch.count
        for group in groups:
            group.steps += 1
            for slot, answer in zip(_slots(batch, group), group.answers, strict=True):
                if answer.finish_reason:
                    frozen.append(slot)
                else:
                    answer.add(tokens[slot])
                lengths[slot] = len(answer.tokens)
        batch.judged[frozen] = before[frozen]  # what is drawn after the end does not count
        due = [group for group in groups if group.due]
        best: dict[int, int] = {}
        if due:
            values = self._values(batch, lengths).tolist()
            sources = list(range(batch.count))
            for group in due:
                slots = _slots(batch, group)
                scores = [values[slot] for slot in slots]
                best[id(group)] = max(range(len(scores)), key=scores.__getitem__)
                if not group.over:
                    for slot, i in zip(slots, _keep(group, scores), strict=True):
                        sources[slot] = slots[i]
            batch.copy(sources)
        return best

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


def _slots(batch: Batch, group: _Group) -> list[int]:
    """Where a group's answers are; slots change when others leave."""
    where = {id(request): slot for slot, request in enumerate(batch.requests)}
    return [where[id(answer.request)] for answer in group.answers]


def _keep(group: _Group, scores: Sequence[float]) -> list[int]:
    """For each of a group's slots, which answer it goes on with: the best beams, repeated.

    A text that was drawn twice counts once.
    """
    texts: dict[tuple[int, ...], int] = {}
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        texts.setdefault(tuple(group.answers[i].tokens), i)
    kept = list(texts.values())[: group.beams]
    chosen = [kept[i * len(kept) // len(scores)] for i in range(len(scores))]
    pairs = zip(chosen, group.answers, strict=True)
    group.answers = [group.answers[i].copied(own.request) for i, own in pairs]
    return chosen
