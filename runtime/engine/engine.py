"""The engine: a plan's step launched on the device, and its results collected.

One copy to the host per step brings the tokens and the alarms; on a GPU the next step is under way
before they are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ...errors import StateError
from ...formula.nodes import Staged, walk
from ...formula.words.stages import RepetitionPenalty
from ...grammar import FormulaError, Span
from ...models.cache_config import CacheConfig
from ...models.errors import OutOfPages
from ..batch.batch import Batch
from ..batch.changes import upload_changes
from ..batch.cost import RunStats
from ..batch.memory import room
from ..batch.pages import extend
from ..batch.rewrite import read_on
from ..batch.row_map import widest
from ..binding.bound import Bound
from ..requests.answer import Answer
from ..requests.request import Request
from .cuda_graphs import StepGraphs
from .logprob_rows import token_logprobs
from .sampler import Drawn, Source
from .step import Step, draw_together

MEASURE = 32  # tokens of capacity are reserved in multiples of this
GPU_MEASURE = 256  # where recordings hold for one capacity
Positions: TypeAlias = Sequence[tuple[Request, int]]  # of rows: whose they are, and tokens so far


@dataclass(frozen=True)
class PendingStep:
    """A step that has been launched.

    Attributes:
        sources: what its alarms mean.
        requests: per slot then, and ``answers``, where the engine keeps them.
        logprobs: the rows of its results that hold log-probabilities.
        top_logprobs: of how many of the best tokens.
        results: on the host, what ``draw_together`` gives, once ``copied`` has happened.
    """

    batch: Batch
    sources: list[Source]
    requests: list[Request]
    answers: list[Answer]
    logprobs: int
    top_logprobs: int
    results: Tensor
    copied: torch.cuda.Event | None


Copied: TypeAlias = tuple[Tensor, torch.cuda.Event | None]  # None where it is there at once


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
        pool: memory for recordings to share with other engines, no two of which run at once.
        cache: how its caches are used; left out, by the defaults.

    Attributes:
        claim: of whoever came last, who alone may go on.
        served: whether the lanes are a service's, and nobody else may claim them.
        ahead: steps that are launched before the last one is collected: on a GPU the host is a step
            behind. A row whose last token it does not know yet draws one more, which is dropped.
    """

    def __init__(
        self,
        bound: Bound,
        capture: bool = True,
        pool: Any = None,
        cache: CacheConfig | None = None,
    ) -> None:
        gpu = on_gpu(bound)
        self.cache = cache or CacheConfig()
        captures = capture and gpu and bound.term_parallel is None
        self.bound, self.step, self.stats = bound, Step(bound, not captures), RunStats()
        self._share_prefixes(True)
        self.graphs = StepGraphs(self.step, captures, pool)
        self._batch: Batch | None = None  # whose memory recordings work on
        self._asked = 0  # tokens that it was to have; there may be fewer
        mapped = any(term.token_map for term in bound.all_terms)  # the host feeds them the rest
        self.ahead = int(gpu and not mapped)
        self.claim: object = None
        self.served, self._lock = False, RLock()
        staged = [node for node in walk(bound.plan.scores) if isinstance(node, Staged)]
        stages = [*bound.plan.stages, *(stage for node in staged for stage in node.stages)]
        self._track_seen = any(isinstance(stage, RepetitionPenalty) for stage in stages)

    def begin(
        self,
        requests: Sequence[Request],
        slots: int,
        record: bool = False,
        slots_of: Sequence[int] = (),
    ) -> Batch:
        """Empty slots for these requests; whatever ran before can run no more.

        Args:
            requests: whose texts there is room for.
            slots: at most.
            record: whether steps may be recorded; otherwise the caller looks at scores.
            slots_of: how many each request takes; left out, one.
        """
        self.claimed()
        if self.bound.term_parallel is not None:
            self.bound.term_parallel.check_alike((slots, requests))
        self.bound.forget_changing()
        self._share_prefixes(len(requests) > 1)
        plan = self.bound.plan
        wide = max(widest(plan, request) for request in requests)  # a step has as many in each row
        lengths = sorted(
            request.longest + request.max_new_tokens + wide
            for request, count in zip(requests, slots_of or [1] * len(requests), strict=True)
            for _ in range(count)
        )
        return self.empty(slots, lengths[-1], record, lengths[-slots:])

    def _share_prefixes(self, several: bool) -> None:
        """Have lanes find what was read before; not for one request, where they forget it again.

        Processes that step together read alike, whatever each has read.
        """
        on = self.cache.enable_prefix_caching and self.bound.term_parallel is None
        for lane in self.bound.lanes:
            lane.shares_prefixes = on and (several or not lane.weights_may_change)

    @contextmanager
    def turn(self, claim: object = None) -> Iterator[None]:
        """Have the lanes to oneself, of all threads, for a step of a claim, or to begin.

        Raises:
            StateError: another loop has begun meanwhile.
        """
        with self._lock:
            if claim is not None and self.claim is not claim:
                cure = "finish one, then begin, and give threads a decoder each"
                raise StateError(f"another run has begun on this decoder; {cure}")
            yield

    def claimed(self) -> object:
        """Take the lanes: the new claim. Whatever ran on them before can run no more.

        Raises:
            StateError: they are a service's.
        """
        if self.served:
            problem = "this decoder's slots are its service's"
            raise StateError(f"{problem}: submit to it, or use decoder.alone()")
        self.stats.clear()
        self.claim = object()
        return self.claim

    def empty(
        self,
        slots: int,
        tokens: int,
        record: bool = True,
        lengths: Sequence[int] = (),
        share: float = 1.0,
    ) -> Batch:
        """Empty slots for texts of so many tokens, candidates among them.

        Where steps are recorded, the memory of the last batch serves again if it is enough.

        Args:
            slots, tokens: at most.
            record: whether steps may be recorded.
            lengths: of the longest texts that may have slots together; left out, all are as long.
            share: of the free memory that new pages may take; the rest is for lanes to come.

        Raises:
            ModelError: more than there is memory for.
        """
        capacity, batch = self._capacity(tokens), self._batch
        record = record and self.graphs.on
        if self.bound.term_parallel is not None:
            lengths = ()  # so that no process waits for pages that another has
        most = sum(-(-each // GPU_MEASURE) * GPU_MEASURE for each in lengths or [capacity] * slots)
        if batch is None or not batch.has_room(slots, capacity) or most > self._asked:
            self._asked = _in_steps(most) if self.graphs.on else most
            utilization = self.cache.gpu_memory_utilization
            fits = room(self.bound, slots, capacity, utilization, self._asked, share)
            batch = Batch(self.bound, slots, capacity, self._track_seen, fits)
            self._batch = batch if self.graphs.on else None
        if self.graphs.on:
            batch.restart(slots, record)
        self.stats.mapped = [
            (self.bound.lane_names[lane], columns.share)
            for lane, columns in batch.token_columns.items()
        ]
        return batch

    def _capacity(self, tokens: int) -> int:
        """Tokens of a text to have room for. In pages, that costs a table's entries."""
        if not self.graphs.on:
            return -(-tokens // MEASURE) * MEASURE
        if all(lane.is_paged for lane in self.bound.lanes):
            return _in_steps(tokens)
        return -(-tokens // GPU_MEASURE) * GPU_MEASURE

    def collect(self, pending: PendingStep) -> tuple[list[int], dict[int, FormulaError]]:
        """The tokens of a launched step, once they are known; and an error per slot that has one.

        A slot has one where a score is NaN, or every token is excluded.
        """
        if pending.copied is not None:
            pending.copied.synchronize()
        batch, used = pending.batch, len(pending.requests)
        tokens, wrong, steps, *more = pending.results[:, :used].tolist()
        errors: dict[int, FormulaError] = {}
        if any(wrong):
            positions = [(row, at - 1) for row, at in zip(pending.requests, steps, strict=True)]
            errors = self.errors(batch, positions, wrong, pending.sources)
        if batch.token_columns:
            read_on(batch, tokens)
        rows = pending.results[3 : 3 + pending.logprobs, :used]
        top = pending.top_logprobs
        batch.logprobs_drawn = token_logprobs(rows, top) if pending.logprobs else []
        batch.unsure = more[-1] if len(more) > pending.logprobs else [0] * len(tokens)
        return tokens, errors

    def errors(
        self, batch: Batch, rows: Positions, alarms: Sequence[int], sources: Sequence[Source]
    ) -> dict[int, FormulaError]:
        """An error per row with an alarm, naming the row and the token; known sources first."""
        plan, errors = self.bound.plan, {}
        for alarm, row in sorted((alarm, row) for row, alarm in enumerate(alarms) if alarm):
            where = f"for row {rows[row][0].index}, token {rows[row][1]}"
            what, span, cure = "every token is excluded", Span(0, len(plan.source)), ""
            if alarm == len(sources) + 1:
                what = "the scores are NaN"
            elif alarm <= len(sources):
                maps = [each for each in batch.row_maps if each.source == sources[alarm - 1]]
                what = f"{' or '.join(str(each.term.term) for each in maps)} gave NaN"
                span = plan.spans[maps[0].term.term]
                cure = "check its weights and dtype: float16 overflows where bfloat16 does not"
            errors[row] = plan.error(f"{what} {where}", span, cure)
        return errors


def _in_steps(tokens: int) -> int:
    """As many tokens or a quarter more, so that runs of growing texts seldom need other memory."""
    unit = max(GPU_MEASURE, 1 << (tokens - 1).bit_length() >> 3)
    return -(-tokens // unit) * unit


@torch.no_grad()
def launch(scheduled: Sequence[ScheduledBatch]) -> list[PendingStep]:
    """Launch a step of each, all of them together, and the copy of the results to the host."""
    parts, batches, read, recorded = [], [], [], False
    for engine, batch, _ in scheduled:
        parts.append((engine.step, batch))
        batches.append(batch)
        if batch.paged and (lacking := sum(extend(batch).values())):
            problem = f"the next step takes {lacking} pages of the cache more than there are"
            raise OutOfPages(problem, "shorten the prompt, or ask for fewer tokens", topic="memory")
        read.append(engine.step.bytes_read)
        recorded |= engine.graphs.on
    upload_changes(batches)
    if recorded:
        drawn = [engine.graphs.draw(batch) for engine, batch, _ in scheduled]
    else:  # plans that share lanes draw together
        drawn = draw_together(parts)
    pending = []
    rows = zip(scheduled, read, drawn, to_host(drawn), strict=True)
    for (engine, batch, answers), before, out, copied in rows:
        for answer in answers:
            answer.drawn += 1
        engine.stats.add(batch.count, engine.step.bytes_read - before)
        top = batch.top_logprobs
        kept = [*batch.requests], [*answers], (1 + 2 * top) * batch.logprobs, top
        pending.append(PendingStep(batch, out.sources, *kept, *copied))
    return pending


def to_host(drawn: Sequence[Drawn]) -> list[Copied]:
    """Begin one copy of all results to the host, per device; and what happens when it is there."""
    copies, on_devices = list[Copied](), dict[torch.device, list[int]]()
    for number, each in enumerate(drawn):
        copies.append((each.results, None))
        if each.results.is_cuda:
            on_devices.setdefault(each.results.device, []).append(number)
    for device, numbers in on_devices.items():
        flat = [drawn[number].results.reshape(-1) for number in numbers]
        packed = flat[0] if len(flat) == 1 else torch.cat(flat)
        host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
        host.copy_(packed, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(device))
        parts = torch.split(host, [len(each) for each in flat])
        for number, part in zip(numbers, parts, strict=True):
            copies[number] = part.view(drawn[number].results.shape), copied
    return copies


def on_gpu(bound: Bound) -> bool:
    """Whether all lanes of a plan are on GPUs."""
    return all(lane.device.type == "cuda" for lane in bound.lanes)
