"""The engine: the loop that keeps a batch's slots full, step by step.

One copy to the host per step brings the tokens and the alarms.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..formula.nodes import Staged, walk
from ..formula.stages import RepetitionPenalty
from ..grammar import Span
from .batch import Batch
from .bind import Bound
from .capture import Capture, cuda_graphs
from .context import Context
from .cost import Spent, read_bytes
from .requests import Answer, Request, ids_of
from .step import Step, alarms, source_of

MEASURE = 32  # tokens of capacity are reserved in multiples of this


class Engine:
    """Decodes requests through one bound plan.

    Args:
        bound: the plan and its lanes.
        capture: replay repeated steps as CUDA graphs, where all lanes are on a GPU.
    """

    def __init__(self, bound: Bound, capture: bool = False) -> None:
        self.bound = bound
        self.step = Step(bound)
        on_gpu = all(lane.device.type == "cuda" for lane in bound.lanes)
        self.capture = Capture(self.step, cuda_graphs() if capture and on_gpu else None)
        self.spent = Spent()
        self._weights = [lane.weight_bytes() for lane in bound.lanes]
        self._run: object = None
        staged = [node for node in walk(bound.plan.scores) if isinstance(node, Staged)]
        stages = [*bound.plan.stages, *(stage for node in staged for stage in node.stages)]
        self._track_seen = any(isinstance(stage, RepetitionPenalty) for stage in stages)

    def run(self, requests: Sequence[Request], slots: int) -> Iterator[list[Answer]]:
        """Decode until every request has ended.

        Args:
            requests: any number; the longest prompts go first, so that neighbours are alike.
            slots: how many are decoded at once.

        Yields:
            After each step, the answers that got a token; those that ended say why.

        Raises:
            FormulaError: NaN, or a step in which every token is excluded.
        """
        run = self._begin()
        waiting = deque(sorted(requests, key=lambda request: -len(request.prompts[0])))
        batch = self._batch(requests, min(slots, len(requests)))
        answers: list[Answer] = []  # one per slot
        while waiting or answers:
            if self._run is not run:
                raise RuntimeError("another run has begun on this decoder; finish one, then begin")
            room = min(batch.slots - batch.count, len(waiting))
            joining = [waiting.popleft() for _ in range(room)]
            if joining:
                now = time.perf_counter()
                batch.admit(joining)
                answers += [Answer(request, self.bound.tokenizer, now) for request in joining]
            for answer, token in zip(answers, self.advance(batch), strict=True):
                answer.add(token)
            yield list(answers)
            ended = [slot for slot, answer in enumerate(answers) if answer.finish_reason]
            batch.finish(ended)
            for slot in reversed(ended):
                answers[slot] = answers[-1]
                answers.pop()

    @torch.no_grad()
    def score(self, request: Request, tokens: Sequence[int]) -> Tensor:
        """Scores before each of the given tokens and after the last.

        Returns:
            ``(len(tokens) + 1, V)`` float32, minus infinity where a token is excluded.
        """
        self._begin()
        batch = self._batch([request], 1)
        batch.admit([request])
        rows: list[Tensor] = []
        for token in [*tokens, 0]:  # nothing is read after the last row of scores
            forced = torch.tensor([token], device=batch.device)
            context = self.step.context(batch, forced)
            masked = self.step.scores(batch, context)
            self._raise_for(batch, alarms(context, masked).tolist(), context, len(rows))
            rows.append(masked[0])
            if len(rows) <= len(tokens):
                self.step.commit(batch, context, forced)
                batch.read_on([token])
        return torch.stack(rows)

    def begin(self, requests: Sequence[Request], slots: int) -> Batch:
        """Empty slots for these requests; whatever ran before can run no more."""
        self._begin()
        return self._batch(requests, slots)

    def _batch(self, requests: Sequence[Request], slots: int) -> Batch:
        longest = max(
            len(ids) + request.max_new_tokens
            for request in requests
            for ids in ids_of(request.prompts, request.rewards)
        )
        columns = [self.bound.plan.columns[stage.k] for _, stage in self.bound.plan.reranks]
        wide = [int(request.values[column]) + 1 for request in requests for column in columns]
        capacity = -(-(longest + max(wide, default=0)) // MEASURE) * MEASURE
        batch = Batch(self.bound, slots, capacity, self._track_seen)
        self.spent.shares = [
            (self.bound.lane_names[lane], there.share) for lane, there in batch.there.items()
        ]
        return batch

    @torch.no_grad()
    def advance(self, batch: Batch) -> list[int]:
        """One step: a token per slot; ``batch.unsure`` says where their scores were unsure."""
        start, before = time.perf_counter(), [*self.step.forwards]
        texts = [lane.rows.total for lane in self.bound.lanes]
        context, drawn = self.capture.draw(batch)
        told, wrong, *unsure = drawn.tolist()
        self._raise_for(batch, wrong, context)
        batch.read_on(told)
        batch.unsure = unsure[0] if unsure else [0] * batch.count
        ran = [now - then for now, then in zip(self.step.forwards, before, strict=True)]
        read = read_bytes(self.bound, self._weights, ran, texts)
        self.spent.add(batch.count, time.perf_counter() - start, read)
        return told  # type: ignore[no-any-return]

    def _raise_for(
        self, batch: Batch, alarms: Sequence[int], context: Context, step: int | None = None
    ) -> None:
        """Raise for the first slot with an alarm, naming the source, the row and the token."""
        alarmed = [slot for slot, alarm in enumerate(alarms) if alarm]
        if not alarmed:
            return
        slot = min(alarmed, key=lambda slot: alarms[slot])  # one whose source is known, if any is
        plan, sources = self.bound.plan, list(context.broken)
        step = int(batch.steps[slot]) - 1 if step is None else step
        where = f"for row {batch.requests[slot].index}, token {step}"
        alarm = alarms[slot] - 1
        if alarm >= len(sources):
            what = "the scores are NaN" if alarm == len(sources) else "every token is excluded"
            raise plan.error(f"{what} {where}", Span(0, len(plan.source)))
        kind, which = sources[alarm]
        terms = [seat.reader.term for seat in batch.seats if source_of(seat) == (kind, which)]
        raise plan.error(
            f"{' or '.join(map(str, terms))} gave NaN {where}",
            plan.spans[terms[0]],
            "check its weights and dtype: float16 overflows where bfloat16 does not",
        )

    def _begin(self) -> object:
        self._run = object()
        self.spent.clear()
        return self._run
