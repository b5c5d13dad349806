"""CUDA graphs of a step: each lane's forward, and what follows, are recorded apart.

Lanes keep the recordings of their forwards, so that every formula over a lane replays them. What is
left of a step (scores, stages, rewards, the draw, and feeding the lanes) is one more recording per
formula. Recordings work on a bucket of rows, over memory that outlives the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ...formula.words.operators import Operator
from ...models.recordings import HostCounts, Recordings, Work
from ..batch.batch import Batch
from ..binding.bound import Bound
from .sampler import Drawn
from .streams import on_streams

TOLERANCE = 5e-2  # of the drawn tokens' scores, as a share of the largest


class Recordable(HostCounts, Protocol):
    """A step, as far as recording it goes."""

    bound: Bound
    run_forwards: Callable[..., list[bool]]

    def forward(self, batch: Batch) -> None: ...
    def draw(self, batch: Batch, forwarded: bool = False) -> Drawn: ...


class StepGraphs:
    """Takes the steps of a plan, recorded and replayed where that can be.

    Args:
        step: of the plan.
        on: whether to record at all.
        pool: memory to share with recordings of other plans, which are never replayed meanwhile.

    Attributes:
        why_eager: why what follows the forwards is not recorded, or None.
    """

    def __init__(self, step: Recordable, on: bool, pool: Any = None) -> None:
        self.on, self._step = on, step
        self._lanes = _language_lanes(step.bound)
        why = why_eager(step.bound) if on else "capture is off"
        device = torch.device(step.bound.lanes[step.bound.terms[0].lane].device)
        name = step.bound.plan.source
        self._recordings: Recordings[Drawn] = Recordings(name, device, why, pool)
        self._memory: tuple[Any, ...] = ()  # that the recordings work on
        self._kept: dict[Hashable, tuple[Tensor, Tensor]] = {}  # results, where they stay
        if on:
            if len({lane.device for lane in step.bound.lanes}) == 1:
                step.run_forwards = on_streams
            for lane in step.bound.lanes:
                if lane.keeps_logits:
                    lane.record()

    @property
    def why_eager(self) -> str | None:
        return self._recordings.why_eager

    def draw(self, batch: Batch) -> Drawn:
        """What ``Step.draw`` gives."""
        step, bound = self._step, self._step.bound
        if not batch.bucketed or self.why_eager is not None or batch.constrained:
            return step.draw(batch)
        step.forward(batch)
        for number, lane in enumerate(bound.lanes):
            if number not in (*self._lanes, *bound.search_lanes) and lane.rows.count:
                lane.catch_up()  # what a recording of every step does not do
        memory = (batch, *(lane.memory for lane in bound.lanes))
        if memory != self._memory:
            self._recordings.clear()
            self._kept.clear()
            self._memory = memory
        return self._recordings.run(key := key_of(batch), self._work(batch, key))

    def _work(self, batch: Batch, key: Hashable) -> Work[Drawn]:
        """What follows the forwards, with results in memory that stays."""
        step = self._step

        def run() -> Drawn:
            sources, *results = step.draw(batch, forwarded=True)
            if key not in self._kept:
                self._kept[key] = torch.empty_like(results[0]), torch.empty_like(results[1])
            kept = self._kept[key]
            return Drawn(sources, kept[0].copy_(results[0]), kept[1].copy_(results[1]))

        counts = [*(lane.rows for lane in step.bound.lanes), step, batch.state]
        return Work(run, lambda drawn: drawn[1:], counts, lambda: _state(batch), TOLERANCE)

    @property
    def made(self) -> int:
        """How many recordings have been made: of the lanes' forwards, and of what follows them."""
        lanes = (lane.recordings for lane in self._lanes.values())
        return sum(each.made for each in (*lanes, self._recordings) if each is not None)

    def eager(self) -> list[str]:
        """What is not recorded, and why."""
        if not self.on:
            return ["capture is off"]
        parts = [(f"the forward of {name} is", why) for name, why in self._forwards() if why]
        if self.why_eager:
            parts.append(("scores, stages and draws are", self.why_eager))
        return [f"{part} eager: {why}" for part, why in parts]

    def lines(self) -> list[str]:
        """What is recorded and what is not, for the plan."""
        if not self.on:
            return ["eager: capture is off"]
        recorded = [name for name, why in self._forwards() if not why]
        forwards = [f"the forward{'s' * (len(recorded) > 1)} of {', '.join(recorded)}"]
        parts = forwards * bool(recorded) + ["scores, stages and draws"] * (not self.why_eager)
        return [f"recorded as CUDA graphs: {'; '.join(parts)}"] * bool(parts) + self.eager()

    def _forwards(self) -> list[tuple[str, str | None]]:
        """Each language lane's name, and why its forward is eager."""
        names = self._step.bound.lane_names
        return [
            (names[number], (lane if lane.recordings is None else lane.recordings).why_eager)
            for number, lane in self._lanes.items()
        ]


def _language_lanes(bound: Bound) -> Mapping[int, Any]:
    """The lanes whose logits every step looks at, by their numbers."""
    numbers = {term.lane for term in bound.all_terms if term.language}
    return {number: bound.lanes[number] for number in sorted(numbers)}


def _state(batch: Batch) -> list[Tensor]:
    """The tensors that what follows the forwards adds to."""
    tables = (rows for table, rows in batch.tables.items() if table.grows)
    kept = (batch.steps, batch.search_scores, batch.state.thoughts, *tables)
    tensors = [tensor for tensor in kept if tensor is not None]
    tensors += [columns.share for columns in batch.token_columns.values()]
    for lane in batch.bound.lanes:
        tensors += lane.rows.changing
    return tensors


def why_eager(bound: Bound) -> str | None:
    """Why what follows the forwards cannot be recorded, or None."""
    if bound.term_parallel is not None and bound.term_parallel.size > 1:
        return "its models are shared out among processes"
    if len({lane.device for lane in bound.lanes}) > 1:
        return "its models are on several devices"
    operators = [node for node in bound.plan.nodes if isinstance(node, Operator)]
    for word in (*operators, *(stage for _, stage in bound.plan.all_stages)):
        if word.why_eager:
            return f"{word.name} {word.why_eager}"
    language = _language_lanes(bound)
    for number, (lane, names) in enumerate(zip(bound.lanes, bound.lane_names, strict=True)):
        bound_by = not lane.keeps_logits if number in language else lane.why_eager is not None
        if bound_by:
            return f"{names}: {lane.why_eager}"
    return None


def key_of(batch: Batch) -> Hashable:
    """Everything that the host decides in what follows the forwards."""
    bound = batch.bound
    columns = [bound.plan.columns[stage.k] for _, stage in bound.plan.reranks]
    ahead = 1 + max((int(batch.numbers[column].most) for column in columns), default=0)
    numbers = zip(bound.scalars, batch.numbers, strict=True)
    language, search_lanes = _language_lanes(bound), bound.search_lanes
    lanes: list[Hashable] = []
    for number, lane in enumerate(bound.lanes):
        if number in search_lanes or not lane.rows.count:
            lanes.append(lane.rows.width)
        elif number in language:
            lanes.append(lane.logits_key())
        else:
            lanes.append(lane.graph_key(ahead))
    rows = [(row_map.live, row_map.is_identity) for row_map in batch.row_maps]
    decided = [
        (
            *(each.idle, each.splits, each.positive, each.one),
            scalar.limits.high == 1 and each.most >= 1,
            scalar.limits.tokens and (int(each.most), each.least >= bound.vocabulary),
            scalar.limits.sizes and int(each.most),
        )
        for scalar, each in numbers
    ]
    batch_key = (
        batch.width, batch.samples, batch.logprobs, batch.top_logprobs, batch.any_processed,
        batch.unread is not None, tuple(sorted(batch.drawn)),
    )  # fmt: skip
    return batch_key, tuple(lanes), tuple(rows), tuple(decided)
