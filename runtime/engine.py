"""The engine: the loop that keeps a batch's slots full, step by step.

One copy to the host per step brings the tokens and the alarms; on a GPU the next step is under way
before they are looked at.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..formula.nodes import Staged, walk
from ..formula.stages import RepetitionPenalty
from ..grammar import Span
from .batch import Batch
from .bound import Bound
from .capture import Capture, cuda_graphs
from .context import Context, Record
from .cost import Spent, read_bytes
from .requests import Answer, Request, ids_of
from .seats import seats_of
from .step import Source, Step, alarms, likely, source_of

MEASURE = 32  # tokens of capacity are reserved in multiples of this


@dataclass(frozen=True)
class Flight:
    """A step that has been given to the device.

    Attributes:
        sources: what its alarms mean.
        requests: per slot then, and ``answers``, where the engine keeps them.
        told: on the host, what ``Step.draw`` gives, once ``copied`` has happened.
    """

    batch: Batch
    sources: list[Source]
    requests: list[Request]
    answers: list[Answer]
    told: Tensor
    copied: torch.cuda.Event | None


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
        mapped = any(reader.counterparts for reader in bound.every)  # the host gives them the rest
        self.ahead = int(on_gpu and not mapped)  # steps begun before the last one is looked at
        self._run: object = None
        staged = [node for node in walk(bound.plan.scores) if isinstance(node, Staged)]
        stages = [*bound.plan.stages, *(stage for node in staged for stage in node.stages)]
        self._track_seen = any(isinstance(stage, RepetitionPenalty) for stage in stages)

    def run(self, requests: Sequence[Request], slots: int) -> Iterator[list[Answer]]:
        """Decode until every request has ended.

        On a GPU the host is a step behind: a row whose last token it does not know yet is given one
        token too many, which is dropped.

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
        flying: deque[Flight] = deque()
        while waiting or answers or flying or batch.arriving:
            if self._run is not run:
                raise RuntimeError("another run has begun on this decoder; finish one, then begin")
            if joining := [waiting.popleft() for _ in range(min(batch.room, len(waiting)))]:
                batch.admit(joining)
            if batch.read():
                now, came = time.perf_counter(), batch.requests[len(answers) :]
                answers += [Answer(request, self.bound.tokenizer, now) for request in came]
            start = time.perf_counter()
            if answers:
                flying.append(self.launch(batch, answers))
            told = self._landed(flying, ahead=self.ahead if answers else 0)
            self.spent.seconds += time.perf_counter() - start
            if told:
                yield told
            over = [slot for slot, answer in enumerate(answers) if answer.over]
            batch.finish(over)
            for slot in reversed(over):
                answers[slot] = answers[-1]
                answers.pop()

    def _landed(self, flying: deque[Flight], ahead: int) -> list[Answer]:
        """The answers that got a token from the oldest step, if more than ``ahead`` fly."""
        if len(flying) <= ahead:
            return []
        flight = flying.popleft()
        tokens, told = self.land(flight), []
        said = flight.batch.likely or [0.0] * len(tokens)
        for answer, token, logprob in zip(flight.answers, tokens, said, strict=True):
            if answer.finish_reason is None:
                answer.logprobs.append(logprob)
                answer.add(token)
                told.append(answer)
        return told

    @torch.no_grad()
    def score(self, request: Request, tokens: Sequence[int]) -> Tensor:
        """Scores before each of the given tokens and after the last.

        Returns:
            ``(len(tokens) + 1, V)`` float32, minus infinity where a token is excluded.
        """
        steps = self.forced(request, [*tokens, 0])  # nothing is read after the last row of scores
        return torch.stack([scores[0] for _, _, scores in steps])

    @torch.no_grad()
    def forced(
        self, request: Request, tokens: Sequence[int], record: bool = False
    ) -> Iterator[tuple[Batch, Context, Tensor]]:
        """Read the given tokens, one after the other, whatever the scores say.

        Args:
            request: whose tokens they are.
            tokens: all but the last are read.
            record: whether each context keeps what the stages did.

        Yields:
            Before each token: the batch, what the step knows, and the ``(1, V)`` scores.

        Raises:
            FormulaError: NaN, or a step in which every token is excluded, as soon as the next is
                asked for.
        """
        self._begin()
        batch = self._batch([request], 1)
        batch.admit([request])
        batch.read()
        for step, token in enumerate(tokens):
            forced = torch.tensor([token], device=batch.device)
            context = self.step.context(batch, forced)
            context.record = Record() if record else None
            scores = self.step.scores(batch, context)
            yield batch, context, scores
            wrong = alarms(context, scores).tolist()
            self.raise_for([request], wrong, list(context.broken), [step])
            if step < len(tokens) - 1:
                self.step.commit(batch, context, forced)
                batch.read_on([token])

    def begin(self, requests: Sequence[Request], slots: int) -> Batch:
        """Empty slots for these requests; whatever ran before can run no more."""
        self._begin()
        return self._batch(requests, slots)

    def _batch(self, requests: Sequence[Request], slots: int) -> Batch:
        if self.bound.ranks is not None:
            self.bound.ranks.check_alike((slots, requests))
        longest = max(
            len(ids) + request.max_new_tokens
            for request in requests
            for ids in ids_of(request.prompts, request.rewards)
        )
        columns = [self.bound.plan.columns[stage.k] for _, stage in self.bound.plan.reranks]
        wide = [int(request.values[column]) + 1 for request in requests for column in columns]
        capacity = -(-(longest + max(wide, default=0)) // MEASURE) * MEASURE
        logprobs = any(request.logprobs for request in requests)
        batch = Batch(self.bound, slots, capacity, self._track_seen, logprobs)
        self.spent.shares = [
            (self.bound.lane_names[lane], there.share) for lane, there in batch.there.items()
        ]
        return batch

    def advance(self, batch: Batch) -> list[int]:
        """One step: a token per slot; ``batch.unsure`` says where their scores were unsure."""
        start = time.perf_counter()
        tokens = self.land(self.launch(batch))
        self.spent.seconds += time.perf_counter() - start
        return tokens

    @torch.no_grad()
    def launch(self, batch: Batch, answers: Sequence[Answer] = ()) -> Flight:
        """Begin a step, and the copy of what it draws to the host."""
        before, texts = [*self.step.forwards], [lane.rows.total for lane in self.bound.lanes]
        sources, drawn = self.capture.draw(batch)
        for answer in answers:
            answer.drawn += 1
        ran = [now - then for now, then in zip(self.step.forwards, before, strict=True)]
        self.spent.add(batch.count, read_bytes(self.bound, self._weights, ran, texts))
        return Flight(batch, sources, [*batch.requests], [*answers], *to_host(drawn))

    def land(self, flight: Flight) -> list[int]:
        """What a step drew, once it is known.

        Raises:
            FormulaError: NaN, or every token excluded.
        """
        if flight.copied is not None:
            flight.copied.synchronize()
        tokens, wrong, steps, *more = flight.told.tolist()
        self.raise_for(flight.requests, wrong, flight.sources, [step - 1 for step in steps])
        flight.batch.read_on(tokens)
        if flight.batch.logprobs:
            flight.batch.likely = likely(flight.told[3])
            more = more[1:]
        flight.batch.unsure = more[0] if more else [0] * len(tokens)
        return tokens  # type: ignore[no-any-return]

    def raise_for(
        self,
        requests: Sequence[Request],
        alarms: Sequence[int],
        sources: Sequence[Source],
        steps: Sequence[int],
    ) -> None:
        """Raise for the first slot with an alarm, naming the source, the row and the token."""
        alarmed = [slot for slot, alarm in enumerate(alarms) if alarm]
        if not alarmed:
            return
        slot = min(alarmed, key=lambda slot: alarms[slot])  # one whose source is known, if any is
        plan = self.bound.plan
        where = f"for row {requests[slot].index}, token {steps[slot]}"
        alarm = alarms[slot] - 1
        if alarm >= len(sources):
            what = "the scores are NaN" if alarm == len(sources) else "every token is excluded"
            raise plan.error(f"{what} {where}", Span(0, len(plan.source)))
        terms = [
            seat.reader.term for seat in seats_of(self.bound) if source_of(seat) == sources[alarm]
        ]
        raise plan.error(
            f"{' or '.join(map(str, terms))} gave NaN {where}",
            plan.spans[terms[0]],
            "check its weights and dtype: float16 overflows where bfloat16 does not",
        )

    def _begin(self) -> object:
        self._run = object()
        self.spent.clear()
        return self._run


def to_host(drawn: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Begin a copy to the host; and what happens when it is there, None where it is at once."""
    if drawn.device.type != "cuda":
        return drawn, None
    told = torch.empty(drawn.shape, dtype=drawn.dtype, pin_memory=True)
    told.copy_(drawn, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(drawn.device))
    return told, copied
