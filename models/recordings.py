"""Recordings: device work that repeats, by key, as CUDA graphs.

A key is everything that the host decides while the work is done, so that the same key means the
same kernels over the same memory. The first time, work is done eagerly, which also warms up what is
made when first used. The second time it is recorded, and the first replay is held against the work
done eagerly: what differs is not used. From then on it is replayed, and the host moves on what it
counts itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from . import cuda_graph

_log = logging.getLogger("descant")
Result = TypeVar("Result")
_REPORT = "it goes on eagerly; please report this with the output of `descant doctor --gpu`"


class HostCounts(Protocol):
    """What the host counts beside the device: the lengths of texts, forwards."""

    def mark(self) -> Any:
        """What there is now."""

    def rewind(self, mark: Any) -> None:
        """Go back to that."""

    def progress(self, mark: Any) -> Any:
        """What has been done since then."""

    def advance(self, progress: Any) -> None:
        """Count the same again."""


@dataclass
class Work(Generic[Result]):
    """Work on the device that may be recorded.

    Attributes:
        run: does it. What it returns is in memory of its own, the same at each call with one key.
        outputs: the tensors of a result that a replay is compared by.
        counts: what it moves on the host.
        state: the tensors that it changes so that doing it twice differs from once.
        tolerance: by how much scores may differ, as a share of the largest.
    """

    run: Callable[[], Result]
    outputs: Callable[[Result], Sequence[Tensor]]
    counts: Sequence[HostCounts]
    state: Callable[[], Sequence[Tensor]] = list
    tolerance: float = 1e-3


@dataclass
class _Recording(Generic[Result]):
    graph: cuda_graph.CudaGraph
    result: Result
    progress: Sequence[Any]


class Recordings(Generic[Result]):
    """The recordings of one owner, which share a pool of memory.

    Args:
        name: whose they are, for a warning.
        device: that all of the work is on.
        why_eager: why nothing is to be recorded, or None.
        pool: memory to share with other recordings that are never replayed at the same time.

    Attributes:
        made: how many recordings have been made.
    """

    def __init__(
        self, name: str, device: torch.device, why_eager: str | None = None, pool: Any = None
    ) -> None:
        self.name, self.why_eager, self.made = name, why_eager, 0
        self._device, self._pool = device, pool
        self._known: dict[Hashable, _Recording[Result] | None] = {}

    def clear(self) -> None:
        """Drop every recording: the memory that they work on is another now."""
        self._known.clear()

    def knows(self, key: Hashable) -> bool:
        """Whether work of this key has been done before, or never will be recorded."""
        return key in self._known or self.why_eager is not None

    def run(self, key: Hashable, work: Work[Result]) -> Result:
        """Do the work, or replay it."""
        if self.why_eager is not None:
            return work.run()
        if key not in self._known:
            self._known[key] = None
            return work.run()
        recording = self._known[key]
        if recording is None:
            return self._recorded(key, work)
        for counts, progress in zip(work.counts, recording.progress, strict=True):
            counts.advance(progress)
        recording.graph.replay()
        return recording.result

    def _recorded(self, key: Hashable, work: Work[Result]) -> Result:
        """Do the work after recording it, unless that is impossible or gives something else."""
        before = [counts.mark() for counts in work.counts]
        try:
            if self._pool is None:
                self._pool = cuda_graph.CudaGraph.new_pool()
            graph = cuda_graph.CudaGraph(self._device, self._pool)
            result = graph.record(work.run)
        except RuntimeError as error:
            _rewind(work.counts, before)
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._give_up(f"it cannot be recorded: {lines[0]}")
            return work.run()
        pairs = zip(work.counts, before, strict=True)
        recording = _Recording(graph, result, [each.progress(then) for each, then in pairs])
        self.made += 1
        result, same = self._first_replay(recording, work, before)
        if same:
            self._known[key] = recording
        else:
            self._give_up("a replay gives other numbers than the eager step")
        return result

    def _first_replay(
        self, recording: _Recording[Result], work: Work[Result], before: Sequence[Any]
    ) -> tuple[Result, bool]:
        """Replay it, and do the work eagerly in its place; and whether both gave the same."""
        state = [(tensor, tensor.clone()) for tensor in work.state()]
        for tensor in work.outputs(recording.result):
            tensor.fill_(-1)  # a recording may hold nothing at all
        recording.graph.replay()
        replayed = [tensor.clone() for tensor in work.outputs(recording.result)]
        for tensor, kept in state:
            tensor.copy_(kept)
        _rewind(work.counts, before)
        eager = work.run()
        return eager, agree(replayed, work.outputs(eager), work.tolerance)

    def _give_up(self, why: str) -> None:
        self.why_eager = why
        self.clear()
        _log.warning("%s: %s; %s", self.name, why, _REPORT)


def agree(replayed: Sequence[Tensor], eager: Sequence[Tensor], tolerance: float) -> bool:
    """Whether tensors are the same: whole numbers equal, others within rounding. Asks the device.

    NaN and infinities are where they are in the other.
    """
    alike = []
    for one, other in zip(replayed, eager, strict=True):
        if one.is_floating_point():
            largest = other.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs().amax()
            same = (one == other) | (one.isnan() & other.isnan())
            alike.append((same | ((one - other).abs() <= tolerance * (1 + largest))).all())
        else:
            alike.append((one == other).all())
    return bool(torch.stack(alike).all())


def _rewind(counted: Sequence[HostCounts], before: Sequence[Any]) -> None:
    for counts, then in zip(counted, before, strict=True):
        counts.rewind(then)


def bucket(rows: int, most: int) -> int:
    """The rows of the recording for so many: 1, 2, 4, 8, then eights, from 256 on sixteens."""
    if rows <= 8:
        size = 1 << max(rows - 1, 0).bit_length()
    else:
        unit = 8 if rows <= 256 else 16
        size = -(-rows // unit) * unit
    return min(size, most) if rows else 0


def buckets(most: int) -> list[int]:
    """All of them up to so many rows."""
    return sorted({bucket(rows, most) for rows in range(1, most + 1)})
