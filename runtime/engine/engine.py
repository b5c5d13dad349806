"""The engine: a plan's step launched on the device, and its results collected.

One copy to the host per step brings the tokens and the alarms; on a GPU the next step is under way
before they are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

from ...errors import StateError
from ...formula import Read
from ...formula.scalar import Scalar
from ...formula.words.signature import Signature
from ...grammar import FormulaError, Span
from ...models.cache_config import CacheConfig
from ..batch.batch import Batch
from ..batch.cost import RunStats
from ..batch.memory import room
from ..batch.row_map import ahead
from ..binding.bound import Bound
from ..constraints.states import MASKED, SPELT
from ..requests.request import Request
from ..requests.reward_failures import reward_failure
from .cuda_graphs import StepGraphs
from .pending import Positions
from .sampler import Source
from .step import Step

MEASURE = 32  # tokens of capacity are reserved in multiples of this
INFINITE = (
    "an excluded token has the score -inf, and minus that is no score: exclude it there too, "
    "x.masked_fill(y == -math.inf, -math.inf)"
)
GPU_MEASURE = 256  # where recordings hold for one capacity


@dataclass
class Turns:
    """Whose turn it is on some lanes, of the engines over them.

    Attributes:
        claim: of whoever came last, who alone may go on.
        served: whether the lanes are a service's, and nobody else may claim them.
    """

    claim: object = None
    served: bool = False
    lock: Any = field(default_factory=RLock)


class Engine:
    """Takes batches through the steps of one bound plan.

    Args:
        bound: the plan and its lanes.
        capture: replay repeated steps as CUDA graphs, where all lanes are on a GPU.
        pool: memory for recordings to share with other engines, no two of which run at once.
        cache: how its caches are used; left out, by the defaults.
        turns: of another engine over the same lanes.

    Attributes:
        capture: as given.
        draft_steps: the steps of the draft plans.
        drafting: whether requests say how they are drafted.
        ahead: steps that are launched before the last one is collected: on a GPU the host is a step
            behind. A row whose last token it does not know yet draws one more, which is dropped.
    """

    def __init__(
        self,
        bound: Bound,
        capture: bool = True,
        pool: Any = None,
        cache: CacheConfig | None = None,
        turns: Turns | None = None,
    ) -> None:
        gpu = on_gpu(bound)
        self.capture, self._pool, self._turns = capture, pool, turns or Turns()
        self.cache = cache or CacheConfig()
        captures = capture and gpu and bound.term_parallel is None
        self.bound, self.step, self.stats = bound, Step(bound, not captures), RunStats()
        self._share_prefixes(True)
        self.draft_steps = [
            Step(draft, not captures, first, proposes=True)
            for draft, first in zip(bound.draft_plans, bound.first_scalars, strict=True)
        ]
        self.graphs = StepGraphs(self.step, captures, pool)
        self._batch: Batch | None = None  # whose memory recordings work on
        self._asked = 0  # tokens that it was to have; there may be fewer
        mapped = any(term.token_map for term in bound.all_terms)  # the host feeds them the rest
        self.ahead, self.drafting = int(gpu and not mapped), False

    @property
    def claim(self) -> object:
        """Of whoever came last, who alone may go on."""
        return self._turns.claim

    @property
    def served(self) -> bool:
        """Whether the lanes are a service's, and nobody else may claim them."""
        return self._turns.served

    @served.setter
    def served(self, served: bool) -> None:
        self._turns.served = served

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
        more = max(ahead(plan, request) for request in requests)  # a step has as many in each row
        lengths = sorted(
            request.longest_read + request.max_new_tokens + more
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

    def over(self, bound: Bound) -> Engine:
        """An engine of another plan over the same lanes; of the two, one runs at a time."""
        engine = Engine(bound, self.capture, self._pool, self.cache, self._turns)
        engine.stats = self.stats
        return engine

    def starts_drafting(self) -> None:
        """Requests may say how they are drafted; the next draft follows what was drawn."""
        self.drafting, self.ahead = True, 0

    @contextmanager
    def turn(self, claim: object = None) -> Iterator[None]:
        """Have the lanes to oneself, of all threads, for a step of a claim, or to begin.

        Raises:
            StateError: another loop has begun meanwhile.
        """
        with self._turns.lock:
            if claim is not None and self._turns.claim is not claim:
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
        self._turns.claim = object()
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
            batch = Batch(self.bound, slots, capacity, fits)
            self._batch = batch if self.graphs.on else None
        if self.graphs.on:
            batch.restart(slots, record)
        self.stats.mapped = [
            (self.bound.lane_names[lane], columns.share)
            for lane, columns in batch.token_columns.items()
        ]
        return batch

    @property
    def all_steps(self) -> list[Step]:
        """That of the plan, and those of its draft plans."""
        return [self.step, *self.draft_steps]

    def _capacity(self, tokens: int) -> int:
        """Tokens of a text to have room for. In pages, that costs a table's entries."""
        if not self.graphs.on:
            return -(-tokens // MEASURE) * MEASURE
        if all(lane.is_paged for lane in self.bound.lanes):
            return _in_steps(tokens)
        return -(-tokens // GPU_MEASURE) * GPU_MEASURE

    def errors(
        self, batch: Batch, rows: Positions, alarms: Sequence[int], sources: Sequence[Source]
    ) -> dict[int, FormulaError]:
        """An error per row with an alarm, naming the row and the token; known sources first."""
        plan, errors = self.bound.plan, {}
        rewards: dict[object, Scalar] = {at: stage.reward for at, stage in plan.reranks}
        for alarm, row in sorted((alarm, row) for row, alarm in enumerate(alarms) if alarm):
            where = f"for row {rows[row][0].index}, token {rows[row][1]}"
            what, span, cure = "every token is excluded", Span(0, len(plan.source)), ""
            if alarm == len(sources) + 1:
                what = "the scores are NaN"
            elif alarm <= len(sources):
                kind, source = sources[alarm - 1]
                if kind in (SPELT, MASKED):
                    request, why = rows[row][0], kind
                    errors[row] = self.bound.constraints.error(request, source, why, where)
                    continue
                if isinstance(source, Scalar):
                    errors[row] = plan.number_error(source, where)
                    continue
                if isinstance(source, Signature):
                    problem = f"{source.name} gave NaN or infinity {where}"
                    errors[row] = plan.error(problem, source.span, INFINITE)
                    continue
                if isinstance(source, Read):
                    what, span = f"{source} gave NaN", plan.head_spans.get(source, span)
                elif kind == "stage" and (
                    failure := reward_failure(batch.bound, source, rows[row][0], where)
                ):
                    errors[row] = failure
                    continue
                elif kind == "stage" and not (reward := rewards[source]).is_linear:
                    errors[row] = plan.reward_error(reward, where)
                    continue
                else:
                    maps = [each for each in batch.row_maps if each.source == (kind, source)]
                    what = f"{' or '.join(str(each.term.term) for each in maps)} gave NaN"
                    what += " or infinity" * (kind == "stage")
                    span = plan.spans[maps[0].term.term]
                    if kind == "stage":
                        span = plan.reward_spans[rewards[source].span, maps[0].term.term]
                cure = "check its weights and dtype: float16 overflows where bfloat16 does not"
            errors[row] = plan.error(f"{what} {where}", span, cure)
        return errors


def _in_steps(tokens: int) -> int:
    """As many tokens or a quarter more, so that runs of growing texts seldom need other memory."""
    unit = max(GPU_MEASURE, 1 << (tokens - 1).bit_length() >> 3)
    return -(-tokens // unit) * unit


def on_gpu(bound: Bound) -> bool:
    """Whether all lanes of a plan are on GPUs."""
    return all(lane.device.type == "cuda" for lane in bound.lanes)
