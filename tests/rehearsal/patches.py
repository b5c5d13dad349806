"""Where descant meets the hardware: all that is replaced in a rehearsal, and all insides it reads.

Nothing else in the harness knows the insides of descant's runtime or models. What is replaced is
the driver, what records CUDA graphs, and what stands in adapters; what is watched is where a step
begins, and which lane's forward is running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import wraps
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from descant.models import cuda_graph, recordings
from descant.models.adapters.lora import Adapter, LayerAdapter
from descant.models.cache.live import LiveAttention
from descant.models.kernels import draw, live_attention
from descant.models.kernels.drawing import draw_sum
from descant.models.kernels.first_use import FirstUse
from descant.models.kernels.lora import products, row_lists
from descant.models.lanes import adapters as lane_adapters
from descant.models.lanes.prefill import PrefillLane
from descant.models.lanes.transformers_lane import TransformersLane
from descant.models.layers import gated, norms, rotary
from descant.models.layers.fused_layers import FusedLayers
from descant.models.recordings import Recordings
from descant.runtime.batch.memory import peak_bytes
from descant.runtime.binding import bind
from descant.runtime.engine import launch

from . import models
from .account import ATTENTION, Step
from .costs import Cost, Declared
from .device import Device, place
from .graphs import PlayedGraph

_RUNNING: list[Any] = []  # the lane whose forward runs, last
PLENTY = 10**15  # bytes: whether there is room is not what is rehearsed


@contextmanager
def patched(device: Device, begin: Callable[[Sequence[Any]], None]) -> Iterator[None]:
    """Everything replaced; ``begin`` is told of each step, by its lanes, when it begins."""
    with ExitStack() as stack:
        for one in (*_driver(device), *_graphs(device), *_launches(begin), *_lanes(device)):
            stack.enter_context(one)
        yield


def declared_costs() -> dict[str, Declared]:
    """What descant's own operations say that they cost, by their qualified names."""

    def attends(
        lengths: list[int], query: Any, key: Any, value: Any, tables: Any, *more: Any
    ) -> Cost:
        """The rows of the lane that runs, and idle ones of one token each."""
        n, _, q, _ = query.shape
        window, ahead = more[3], q - 1  # candidates, behind the text
        ends = [*(length + ahead for length in lengths), *[1] * (n - len(lengths))][:n]
        firsts = [max(0, end - q) for end in ends]
        groups, page = key.shape[1:3]
        room = tables.shape[1] * page
        said = live_attention.cost(
            query.shape, groups, query.itemsize, ends, room, firsts, window, value.shape[3], page
        )
        halves = said.cached // 2
        read = [(key, halves), (value, said.cached - halves), (query, said.read - said.cached)]
        return Cost(read, said.written, said.flops, said.launches, said.blocks, ATTENTION)

    def draws(lengths: list[int], scores: Tensor, *settings: Tensor) -> Cost:
        said = draw.cost(*scores.shape)
        return Cost([(scores, said.read)], said.written, launches=said.launches, blocks=said.blocks)

    def sums(lengths: list[int], logits: list[Tensor], *more: Any) -> Cost:
        kinds, steps = more[-5], more[-1]
        said = draw_sum.cost(
            len(steps), logits[0].shape[1], [each.itemsize for each in logits], kinds
        )
        return Cost([(logits[0], said.read)], said.written, 0, said.launches, said.blocks)

    def normalises(lengths: list[int], hidden: Tensor, *more: Any) -> Cost:
        adds, weight = len(more) == 3, more[-2]
        size = hidden.shape[-1]
        said = norms.cost(hidden.numel() // size, size, hidden.itemsize, adds)
        once = size * weight.itemsize  # other rows find it in the chip's cache
        read = [(weight, once), (hidden, said.read - once)]
        return Cost(read, said.written, launches=said.launches, blocks=said.blocks)

    def rotates(lengths: list[int], joined: Tensor, *more: Any) -> Cost:
        keys, norm = more[2], more[6]
        groups, size = keys.shape[2:]
        heads = joined.shape[-1] // size - 2 * groups
        tokens = joined.numel() // joined.shape[-1]
        said = rotary.cost(tokens, heads, groups, size, joined.itemsize, norm is not None)
        return Cost([(joined, said.read)], said.written, launches=said.launches, blocks=said.blocks)

    def gates(lengths: list[int], joined: Tensor) -> Cost:
        size = joined.shape[-1] // 2
        said = gated.cost(joined.numel() // (2 * size), size, joined.itemsize)
        return Cost([(joined, said.read)], said.written, launches=said.launches, blocks=said.blocks)

    return {
        "descant::live_attention": attends, "descant::draw": draws, "descant::gated": gates,
        "descant::rms_norm": normalises, "descant::add_rms_norm": normalises,
        "descant::rotate_into_pages": rotates, "descant::draw_sum": sums,
        **_costs_of_adapters(),
    }  # fmt: skip


def _costs_of_adapters() -> dict[str, Declared]:
    """Of what adapters add, by those that the rows of the running lane have."""

    def lists(lengths: list[int], table: Tensor, slots: Tensor, loaded: int) -> Cost:
        added, size = _added(len(slots)), row_lists.ROWS
        used = sum(len({*chain(*added[row : row + size])}) for row in range(0, len(added), size))
        said = row_lists.cost(len(slots), loaded, used)
        return Cost([(table, said.read)], said.written, launches=1, blocks=said.blocks)

    def adds(
        lengths: list[int], out: Tensor, x: Tensor, a: Tensor, b: Tensor, starts: Tensor,
        tiles: Tensor, numbers: Tensor, lists: Tensor, counts: Tensor, shape: Sequence[int],
    ) -> Cost:  # fmt: skip
        """The adapters that the rows of the lane that runs have."""
        sides = _RUNNING[-1].adapters._sides.values()
        side = next(each for each in sides if each.a is a)
        loaded, rows, mine = shape[0], len(numbers), slice(*shape[1:3])
        ends = [[ranges.get(i, (0, 0)) for i in range(loaded)] for ranges in side.ranges[mine]]
        ranks = [[end - first for first, end in module] for module in ends]
        queries, (_, size) = len(x) // rows, x.shape
        said = products.cost(
            _added(rows), queries, size, ranks, side.outs[mine], x.itemsize
        )  # fmt: skip
        read = [(a, said.weights), (x, said.read - said.weights)]
        return Cost(read, said.written, said.flops, said.launches, said.blocks)

    return {"descant::list_adapters": lists, "descant::add_lora": adds}


def _added(rows: int) -> list[list[int]]:
    """Of each row of the forward that runs, the adapters that it has; idle ones have none."""
    lane = _RUNNING[-1]
    known = [[column for column, _ in each.weights] for each in lane.rows.combinations]
    copies = max(1, rows // max(1, lane.rows.width))
    every = [row for row in known for _ in range(copies)]
    return [*every, *[[] for _ in range(rows)]][:rows]


def lanes_of(bound: Any) -> list[Any]:
    """The lanes of a plan; those that formulas share, themselves."""
    return [getattr(lane, "lane", lane) for lane in bound.lanes]


def weights(lane: Any) -> list[Tensor]:
    """All that a lane's forwards read beside caches: parameters and adapters."""
    stacked = lane.adapters._stacked.values()
    parts = [getattr(parts, field.name) for parts in stacked for field in fields(parts)]
    parts += lane.adapters._directions.values()
    return [*lane.model.parameters(), *(part for part in parts if isinstance(part, Tensor))]


def caches(lane: Any) -> list[Tensor]:
    """Its keys and values."""
    return list(lane.blocks.cache._tensors())


def page_bytes(decoder: Any) -> int:
    """Bytes of the smallest page of a decoder's lanes."""
    lanes = lanes_of(decoder.session.bound)
    return min(lane.blocks.cache.page_bytes for lane in lanes)


def live_bytes(lane: Any) -> int:
    """Bytes of caches that the texts of its rows have."""
    return int(lane.rows.total * lane.footprint().token_bytes)


def weight_bytes(lane: Any) -> int:
    """Bytes of weights that a forward has to read, by the plan."""
    return int(lane.footprint().weight_bytes)


def why_eager(decoder: Any) -> str | None:
    """Why the steps of a decoder are not recorded, or None."""
    return decoder.session.engine.graphs.why_eager  # type: ignore[no-any-return]


def planned_bytes(decoder: Any, rows: int) -> int:
    """What the plan says is held at most, by so many rows of the capacity that its caches have."""
    bound = decoder.session.bound
    capacity = max(lane.rows.capacity for lane in bound.lanes)
    return sum(peak_bytes(bound, rows, capacity))


def _driver(device: Device) -> Iterator[Any]:
    """CUDA as torch shows it: there is none, and nothing asks it for more than this."""

    def synchronize(*args: Any) -> None:
        device.wait()

    def event(**settings: Any) -> Any:
        """It knows the step that it was recorded in."""
        known = SimpleNamespace(step=None)

        def record(stream: Any = None) -> None:
            known.step = device.step

        def finished() -> None:
            if known.step is device.step:
                device.step.stalls.append(place())

        return SimpleNamespace(record=record, synchronize=finished, wait=lambda stream=None: None)

    yield patch.multiple(
        torch.cuda,
        is_available=lambda: False,
        _lazy_init=lambda: None,
        Event=event,
        current_stream=lambda *args: None,
        synchronize=synchronize,
        graph_pool_handle=lambda: (0, 0),
        mem_get_info=lambda *args: (PLENTY, PLENTY),
        memory_reserved=lambda *args: 0,
        memory_allocated=lambda *args: 0,
        get_device_capability=lambda *args: (9, 0),
    )


def _graphs(device: Device) -> Iterator[Any]:
    """Recordings are played."""

    def init(self: Any, *args: Any, **settings: Any) -> None:
        self._played = PlayedGraph(device)

    first_replay = Recordings._first_replay

    def proven(self: Any, recording: Any, work: Any, before: Any) -> Any:
        """The step has one replay; what it is held against goes into no account."""
        with device.into(Step()):
            result = first_replay(self, recording, work, before)
        device.step.add(recording.graph._played.account)
        device.step.replayed += 1
        return result

    yield patch.object(Recordings, "_first_replay", proven)
    yield patch.object(recordings, "agree", lambda *args: True)
    yield patch.multiple(
        cuda_graph.CudaGraph,
        __init__=init,
        record=lambda self, work: self._played.record(work),
        replay=lambda self: self._played.replay(),
    )


def _launches(begin: Callable[[Sequence[Any]], None]) -> Iterator[Any]:
    """Where a step begins: all that has changed since the last one is on the devices."""
    upload_changes = launch.upload_changes

    @wraps(upload_changes)
    def begun(batches: Sequence[Any]) -> None:
        upload_changes(batches)
        begin([lane for batch in batches for lane in lanes_of(batch.bound)])

    yield patch.object(launch, "upload_changes", begun)


def _lanes(device: Device) -> Iterator[Any]:
    """Which lane runs, for the costs of our own operations; and what stands in adapters."""
    forward = TransformersLane._forward

    @wraps(forward)
    def watched(self: Any, *args: Any, **settings: Any) -> Any:
        before, device.lengths = device.lengths, self.rows.counts()[1]
        _RUNNING.append(self)
        try:
            return forward(self, *args, **settings)
        finally:
            device.lengths = before
            _RUNNING.pop()

    prefill = PrefillLane._prefill

    @wraps(prefill)
    def reading(self: Any, *args: Any) -> Iterator[int]:
        """Between two forwards, others may step."""
        forwards = prefill(self, *args)
        while True:
            device.prompts = True
            try:
                tokens = next(forwards, None)
            finally:
                device.prompts = False
            if tokens is None:
                return
            yield tokens

    add = lane_adapters.Adapters.add

    def adding(self: Any, name: str, folder: str | Path) -> int:
        def read(name: str, folder: Path) -> Adapter:
            layers = models.lora_layers(folder, self._model)
            return Adapter({}, {path: LayerAdapter(a, b) for path, (a, b) in layers.items()}, {})

        with patch.object(lane_adapters, "read_adapter", read):
            return add(self, name, folder)

    yield patch.object(TransformersLane, "_forward", watched)
    yield patch.object(PrefillLane, "_prefill", reading)
    yield patch.object(LiveAttention, "first", lambda self, chunk: None)  # which compares numbers
    yield patch.object(FusedLayers, "first", lambda self: None)  # likewise
    yield patch.object(FirstUse, "run", lambda self, device, kernel, *others: kernel())  # likewise
    yield patch.object(bind, "self_check", lambda *args: [])  # which compares numbers
    yield patch.object(lane_adapters.Adapters, "add", adding)
