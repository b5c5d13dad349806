"""CUDA graphs: a step that repeats is recorded once, and from then on replayed.

A recording holds for one key: everything that the host decides while a step is made, so that the
same key means the same kernels over the same memory. The first step of a kind runs eagerly, which
also warms up what is made when first used; the second is recorded. The host moves on what it counts
itself, the lengths of texts, with each replay.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from ..batch.batch import Batch
from ..binding.bound import Bound
from .streams import in_turn, on_streams

Drawn: TypeAlias = tuple[list[Any], Tensor]


class Recordable(Protocol):
    """A step, as far as recording it goes."""

    bound: Bound
    forwards: list[int]
    bytes_read: int
    syncs: bool
    run_forwards: Callable[..., list[Tensor]]

    def draw(self, batch: Batch) -> Drawn: ...
    def prepare(self, batch: Batch) -> Any: ...
    def count(self, lanes: Sequence[int], forwards: int = 1) -> None: ...


class CudaGraph:
    """A recording by CUDA. Its results live in memory that the next replay overwrites.

    All recordings of a decoder share a pool of memory: one is replayed at a time.
    """

    def __init__(self, pool: Any) -> None:
        self._graph, self._pool = torch.cuda.CUDAGraph(), pool

    def record(self, work: Callable[[], Drawn]) -> Drawn:
        """Call the function, without doing its device work."""
        mode = "thread_local"
        with torch.cuda.graph(self._graph, pool=self._pool, capture_error_mode=mode):
            return work()

    def replay(self) -> None:
        """Do the device work, over the same memory."""
        self._graph.replay()


def cuda_graphs() -> Callable[[], CudaGraph]:
    """What begins a recording by CUDA."""
    return partial(CudaGraph, torch.cuda.graph_pool_handle())


@dataclass(frozen=True)
class _Kind:
    """A recorded step, and how it moves what the host keeps count of.

    Attributes:
        moves: per lane, the tokens that its texts grow by; and how many of them are left to read
            afterwards, None where the lane did not run.
        ran: per lane, its forwards.
    """

    recording: CudaGraph
    drawn: Drawn
    moves: list[tuple[int, int | None]]
    ran: list[int]


class StepGraphs:
    """Takes the steps of a batch: recorded and replayed where that can be, eager elsewhere.

    Attributes:
        why_eager: why steps are not recorded, or None.
    """

    def __init__(self, step: Recordable, make: Callable[[], CudaGraph] | None) -> None:
        """Take ``step``; ``make`` begins a recording, None keeps every step eager."""
        self._step, self._make = step, make
        self.why_eager = "not all models are on a GPU" if make is None else why_eager(step.bound)
        if self.why_eager is None:
            step.syncs, step.run_forwards = False, on_streams

    def draw(self, batch: Batch) -> Drawn:
        """What ``Step.draw`` gives."""
        key = None if self.why_eager else key_of(batch)
        if key is None:
            return self._step.draw(batch)
        if batch.prepared is None:
            self._step.prepare(batch)  # a recording holds what every step does, and no more
        if key not in batch.recorded:
            batch.recorded[key] = None
            return self._step.draw(batch)
        kind: _Kind | None = batch.recorded[key]
        if kind is None:
            kind = batch.recorded[key] = self._recorded(batch)
            if kind is None:
                return self._step.draw(batch)
        else:
            for number, ran in enumerate(kind.ran):
                self._step.count([number], ran)
            for lane, (added, unread) in zip(self._step.bound.lanes, kind.moves, strict=True):
                lane.rows.advance(added, unread)
        kind.recording.replay()
        return kind.drawn

    def _recorded(self, batch: Batch) -> _Kind | None:
        """A recording of the next step; None, and eager from now on, where there cannot be one."""
        assert self._make is not None
        lanes, forwards = self._step.bound.lanes, [*self._step.forwards]
        bytes_read = self._step.bytes_read
        counts = [lane.rows.counts() for lane in lanes]
        recording = self._make()
        try:
            drawn = recording.record(lambda: self._step.draw(batch))
        except RuntimeError as error:
            for lane, count in zip(lanes, counts, strict=True):
                lane.rows.restore(count)
            self._step.forwards[:], self._step.bytes_read = forwards, bytes_read
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self.why_eager = f"it cannot be captured: {lines[0]}"
            self._step.syncs, self._step.run_forwards = True, in_turn
            return None
        ran = [now - then for now, then in zip(self._step.forwards, forwards, strict=True)]
        moves = [lane.rows.progress(count) for lane, count in zip(lanes, counts, strict=True)]
        return _Kind(recording, drawn, moves, ran)


def why_eager(bound: Bound) -> str | None:
    """Why the steps of a plan cannot be recorded, or None."""
    if bound.term_parallel is not None and bound.term_parallel.size > 1:
        return "its models are shared out among processes"
    if bound.conditional:
        return "where asks the device which models are needed"
    if len({lane.device for lane in bound.lanes}) > 1:
        return "its models are on several devices"
    for lane, names in zip(bound.lanes, bound.lane_names, strict=True):
        if not lane.capturable:
            return f"{names} reads text, or is split over devices"
    return None


def key_of(batch: Batch) -> Hashable | None:
    """Everything that the host decides in the next step; None unless every row reads one token."""
    bound = batch.bound
    search_lanes = bound.search_lanes
    for number, lane in enumerate(bound.lanes):
        if number in search_lanes or not lane.rows.count:
            continue
        if lane.rows.backlog > 0 or lane.ready:
            return None
    columns = [bound.plan.columns[stage.k] for _, stage in bound.plan.reranks]
    ahead = 1 + max((int(batch.numbers[column].most) for column in columns), default=0)
    numbers = zip(bound.plan.scalars, batch.numbers, strict=True)
    lanes = [
        lane.rows.count if number in search_lanes else lane.graph_key(ahead)
        for number, lane in enumerate(bound.lanes)
    ]
    rows = [(row_map.live, row_map.is_identity) for row_map in batch.row_maps]
    decided = [
        (each.idle, each.splits, each.positive, each.one, scalar.limits.tokens and int(each.most))
        for scalar, each in numbers
    ]
    batch_key = (
        batch.count, batch.samples, batch.logprobs, batch.top_logprobs, batch.any_processed,
        batch.unread is not None,
    )  # fmt: skip
    return batch_key, tuple(lanes), tuple(rows), tuple(decided)
