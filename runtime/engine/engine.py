"""The engine: a plan's step given to the device, and what comes back of it.

One copy to the host per step brings the tokens and the alarms; on a GPU the next step is under way
before they are looked at.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import NamedTuple

import torch
from torch import Tensor

from ...formula.nodes import Staged, walk
from ...formula.words.stages import RepetitionPenalty
from ...grammar import FormulaError, Span
from ..batch.batch import Batch
from ..batch.cost import RunStats, read_bytes
from ..batch.row_map import row_maps_of
from ..binding.bound import Bound
from ..requests.request import Answer, Request, ids_of
from ..scores.context import Context, Record
from .cuda_graphs import StepGraphs, cuda_graphs
from .step import Source, Step, alarms, draw_together, likely, source_of

MEASURE = 32  # tokens of capacity are reserved in multiples of this


@dataclass(frozen=True)
class PendingStep:
    """A step that has been given to the device.

    Attributes:
        sources: what its alarms mean.
        requests: per slot then, and ``answers``, where the engine keeps them.
        logprobs: whether it says how likely its tokens were.
        told: on the host, what ``Step.draw`` gives, once ``copied`` has happened.
    """

    batch: Batch
    sources: list[Source]
    requests: list[Request]
    answers: list[Answer]
    logprobs: bool
    told: Tensor
    copied: torch.cuda.Event | None


class ScheduledBatch(NamedTuple):
    """Rows that are to take a step: a batch, and its answers where the engine keeps them."""

    engine: Engine
    batch: Batch
    answers: Sequence[Answer] = ()


class Engine:
    """Takes batches through the steps of one bound plan.

    Args:
        bound: the plan and its lanes.
        capture: replay repeated steps as CUDA graphs, where all lanes are on a GPU.

    Attributes:
        claim: of whoever came last, who alone may go on.
        served: whether the lanes are a service's, and nobody else may claim them.
        ahead: steps that are begun before the last one is looked at: on a GPU the host is a step
            behind. A row whose last token it does not know yet draws one more, which is dropped.
    """

    def __init__(self, bound: Bound, capture: bool = False) -> None:
        self.bound = bound
        self.step = Step(bound)
        on_gpu = all(lane.device.type == "cuda" for lane in bound.lanes)
        self.graphs = StepGraphs(self.step, cuda_graphs() if capture and on_gpu else None)
        self.stats = RunStats()
        self.footprints = [lane.footprint() for lane in bound.lanes]
        mapped = any(
            bound_term.token_map for bound_term in bound.all_terms
        )  # the host gives them the rest
        self.ahead = int(on_gpu and not mapped)
        self.claim: object = None
        self._lock = RLock()
        self.served = False
        staged = [node for node in walk(bound.plan.scores) if isinstance(node, Staged)]
        stages = [*bound.plan.stages, *(stage for node in staged for stage in node.stages)]
        self._track_seen = any(isinstance(stage, RepetitionPenalty) for stage in stages)

    @torch.no_grad()
    def score(self, request: Request, tokens: Sequence[int]) -> Tensor:
        """Scores before each of the given tokens and after the last.

        Returns:
            ``(len(tokens) + 1, V)`` float32, minus infinity where a token is excluded.
        """
        steps = self.next_tokens(
            request, [*tokens, 0]
        )  # nothing is read after the last row of scores
        return torch.stack([scores[0] for _, _, scores in steps])

    @torch.no_grad()
    def next_tokens(
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
        with self.turn():
            batch = self.begin([request], 1)
            claim = self.claim
            batch.admit([request])
            batch.read()
        for step, token in enumerate(tokens):
            with self.turn(claim):
                next_tokens = torch.tensor([token], device=batch.device)
                context = self.step.context(batch, next_tokens)
                context.record = Record() if record else None
                scores = self.step.scores(batch, context)
            yield batch, context, scores
            wrong = alarms(context, scores.amax(dim=-1)).tolist()
            self.raise_for([request], wrong, list(context.broken), [step])
            if step < len(tokens) - 1:
                with self.turn(claim):
                    self.step.commit(batch, context, next_tokens)
                    batch.read_on([token])

    def begin(self, requests: Sequence[Request], slots: int) -> Batch:
        """Empty slots for these requests; whatever ran before can run no more."""
        self.claimed()
        if self.bound.term_parallel is not None:
            self.bound.term_parallel.check_alike((slots, requests))
        longest = max(
            len(ids) + request.max_new_tokens
            for request in requests
            for ids in ids_of(request.prompts, request.rewards)
        )
        wide = [self.widest(request) for request in requests]
        return self.empty(slots, longest + max(wide, default=0))

    @contextmanager
    def turn(self, claim: object = None) -> Iterator[None]:
        """Have the lanes to oneself, of all threads, for a step or to begin.

        Args:
            claim: of the run that takes the step; None for one that begins.

        Raises:
            RuntimeError: another run has begun meanwhile.
        """
        with self._lock:
            if claim is not None and self.claim is not claim:
                raise RuntimeError(
                    "another run has begun on this decoder; finish one, then begin, and give "
                    "threads a decoder each"
                )
            yield

    def claimed(self) -> object:
        """Take the lanes: the new claim. Whatever ran on them before can run no more.

        Raises:
            RuntimeError: they are a service's.
        """
        if self.served:
            problem = "this decoder's slots are its service's"
            raise RuntimeError(f"{problem}: submit to it, or use decoder.alone()")
        self.stats.clear()
        self.claim = object()
        return self.claim

    def empty(self, slots: int, tokens: int) -> Batch:
        """Empty slots for texts of so many tokens, candidates among them."""
        capacity = -(-tokens // MEASURE) * MEASURE
        batch = Batch(self.bound, slots, capacity, self._track_seen)
        self.stats.mapped = [
            (self.bound.lane_names[lane], token_columns.share)
            for lane, token_columns in batch.token_columns.items()
        ]
        return batch

    def widest(self, request: Request) -> int:
        """Places in a text that the candidates of a request take, at most."""
        columns = [self.bound.plan.columns[stage.k] for _, stage in self.bound.plan.reranks]
        return max((int(request.values[column]) + 1 for column in columns), default=0)

    def advance(self, batch: Batch) -> list[int]:
        """One step: a token per slot.

        Raises:
            FormulaError: NaN, or every token excluded.
        """
        start = time.perf_counter()
        tokens, errors = self.land(self.launch(batch))
        self.stats.seconds += time.perf_counter() - start
        for error in errors.values():
            raise error
        return tokens

    def launch(self, batch: Batch, answers: Sequence[Answer] = ()) -> PendingStep:
        """Begin a step, and the copy of what it draws to the host."""
        return launch([ScheduledBatch(self, batch, answers)])[0]

    def land(self, pending_step: PendingStep) -> tuple[list[int], dict[int, FormulaError]]:
        """What a step drew, once it is known; and per slot where it went wrong, why.

        A slot is wrong that has NaN, or of which every token is excluded.
        """
        if pending_step.copied is not None:
            pending_step.copied.synchronize()
        tokens, wrong, steps, *more = pending_step.told.tolist()
        errors = self.errors(
            pending_step.requests, wrong, pending_step.sources, [step - 1 for step in steps]
        )
        pending_step.batch.read_on(tokens)
        if pending_step.logprobs:
            pending_step.batch.likely = likely(pending_step.told[3])
            more = more[1:]
        else:
            pending_step.batch.likely = []
        pending_step.batch.unsure = more[0] if more else [0] * len(tokens)
        return tokens, errors

    def raise_for(
        self,
        requests: Sequence[Request],
        alarms: Sequence[int],
        sources: Sequence[Source],
        steps: Sequence[int],
    ) -> None:
        """Raise the first of ``errors``, if there are any."""
        for error in self.errors(requests, alarms, sources, steps).values():
            raise error

    def errors(
        self,
        requests: Sequence[Request],
        alarms: Sequence[int],
        sources: Sequence[Source],
        steps: Sequence[int],
    ) -> dict[int, FormulaError]:
        """An error per slot with an alarm, the row and the token in it; known sources first."""
        alarmed = sorted((alarm, slot) for slot, alarm in enumerate(alarms) if alarm)
        return {
            slot: self._error(alarm - 1, sources, f"for row {requests[slot].index}, token "
                              f"{steps[slot]}")
            for alarm, slot in alarmed
        }  # fmt: skip

    def _error(self, alarm: int, sources: Sequence[Source], where: str) -> FormulaError:
        plan = self.bound.plan
        if alarm >= len(sources):
            what = "the scores are NaN" if alarm == len(sources) else "every token is excluded"
            return plan.error(f"{what} {where}", Span(0, len(plan.source)))
        terms = [
            row_map.term.term
            for row_map in row_maps_of(self.bound)
            if source_of(row_map) == sources[alarm]
        ]
        return plan.error(
            f"{' or '.join(map(str, terms))} gave NaN {where}",
            plan.spans[terms[0]],
            "check its weights and dtype: float16 overflows where bfloat16 does not",
        )


@torch.no_grad()
def launch(scheduled: Sequence[ScheduledBatch]) -> list[PendingStep]:
    """Begin a step of each, all of them together; and the copies of what they draw to the host."""
    before = [
        ([*engine.step.forwards], [lane.rows.total for lane in engine.bound.lanes])
        for engine, _, _ in scheduled
    ]
    if len(scheduled) == 1:
        [(engine, batch, _)] = scheduled
        drawn = [engine.graphs.draw(batch)]
    else:  # plans that share lanes: their steps are never recorded
        drawn = draw_together([(engine.step, batch) for engine, batch, _ in scheduled])
    pending_steps = []
    for (engine, batch, answers), (then, texts), (sources, told) in zip(
        scheduled, before, drawn, strict=True
    ):
        for answer in answers:
            answer.drawn += 1
        ran = [now - past for now, past in zip(engine.step.forwards, then, strict=True)]
        engine.stats.add(batch.count, read_bytes(engine.footprints, ran, texts))
        pending_steps.append(
            PendingStep(
                batch, sources, [*batch.requests], [*answers], batch.logprobs, *to_host(told)
            )
        )
    return pending_steps


def to_host(drawn: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Begin a copy to the host; and what happens when it is there, None where it is at once."""
    if drawn.device.type != "cuda":
        return drawn, None
    told = torch.empty(drawn.shape, dtype=drawn.dtype, pin_memory=True)
    told.copy_(drawn, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(drawn.device))
    return told, copied
