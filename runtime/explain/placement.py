"""Where a formula's models go on GPUs that are not here, and what a step costs there, at least.

Everything is computed from configurations. One process uses the GPUs of one node as the models say
(``device``, ``device_map``); with ``parallel: terms`` every GPU has a process, which holds some of
the models (``TermParallel.assign``) and its part of those that are split (``tp_plan``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from ...errors import ArgumentError
from ...models.footprint import Footprint, stored_bytes
from ..batch.cost import si_bytes
from ..batch.memory import SCORE_BYTES, caches_of, held_bytes, queries, work_bytes
from ..binding.bound import Bound
from .gpus import Devices, Gpu

LATENCY = 20e-6  # seconds of an all-reduce of next to nothing, over any link
_LAYER = re.compile(r"\.\d+(?=\.|$)")


class Part(NamedTuple):
    """What of a lane is on one GPU: a share of its layers, or of each layer."""

    lane: int
    share: float
    footprint: Footprint


@dataclass(frozen=True)
class Load:
    """What one GPU holds, in bytes.

    Attributes:
        gpu: its number, over all nodes.
        holds: the names of its models.
        weights, caches, work: as in the plan's memory.
        reads: weights and caches that a step reads there.
    """

    gpu: int
    holds: tuple[str, ...]
    weights: int
    caches: int
    work: int
    reads: int

    @property
    def total(self) -> int:
        return self.weights + self.caches + self.work


@dataclass(frozen=True)
class Placement:
    """Where everything goes.

    Attributes:
        devices: the GPUs.
        loads: of those that hold anything.
        share: of a GPU's memory that may be taken.
        exchanged: bytes of a step's all-reduces, and ``exchanges``, how many there are.
        in_turn: whether one GPU after the other works, as in one process.
        arithmetic: lines on lanes that read many positions of each row.
    """

    devices: Devices
    loads: Sequence[Load]
    share: float
    exchanged: int
    exchanges: int
    in_turn: bool
    arithmetic: Sequence[str] = ()

    @property
    def room(self) -> int:
        """Bytes that may be taken of one GPU."""
        return int(self.share * self.devices.gpu.memory)

    @property
    def seconds(self) -> float:
        """The least time of a step: what is read, and what is exchanged (a ring's all-reduce)."""
        reads = [load.reads for load in self.loads]
        read = (sum if self.in_turn else max)(reads) / self.devices.gpu.bandwidth
        return read + self.exchange_seconds

    @property
    def exchange_seconds(self) -> float:
        """The time of a step's all-reduces."""
        count = self.devices.total
        moved = 2 * (count - 1) / count * self.exchanged
        return moved / self.devices.slowest_link + self.exchanges * LATENCY

    def check(self) -> None:
        """Refuse what cannot fit.

        Raises:
            ArgumentError: says which GPU is too full, by how much, and what to do.
        """
        fullest = max(self.loads, key=lambda load: load.total)
        if fullest.total <= self.room:
            return
        many = f"{', '.join(fullest.holds)} on GPU {fullest.gpu}"
        need = f"{si_bytes(fullest.total)} ({si_bytes(fullest.weights)} of weights, "
        need += f"{si_bytes(fullest.caches)} of caches, {si_bytes(fullest.work)} to work in)"
        room = f"{self.share:.0%} of a {self.devices.gpu.name} is {si_bytes(self.room)}"
        raise ArgumentError(f"{many} would need {need}, and {room}; {self._cure(fullest)}")

    def _cure(self, fullest: Load) -> str:
        if fullest.weights < 0.95 * self.room:
            return "ask for fewer requests at once, or shorter ones (--batch-size, --context)"
        if self.devices.total == 1:
            return "give more GPUs (--devices), or quantise the model"
        if self.in_turn:
            return "say parallel: terms in the run file, or device_map: auto with the model"
        return "say tp_plan: auto with the largest model, or give more GPUs"

    def lines(self) -> list[str]:
        """The table of the plan."""
        each = f"{si_bytes(self.devices.gpu.memory)}, {self.devices.gpu.bandwidth / 1e12:.3g} TB/s"
        lines = [f"devices     {self.devices} ({each} each): computed, not measured"]
        head = ("gpu", "holds", "weights", "caches", "work", f"of {si_bytes(self.room)}")
        rows = [head, *_merged_rows(self.loads, self.room)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  " + "  ".join(cells).rstrip())
        exchange = ""
        if self.exchanges:
            exchange = f", {1e3 * self.exchange_seconds:.3g} of them in all-reduces"
        lines.append(f"step        at least {1e3 * self.seconds:.3g} ms{exchange}")
        lines += self.arithmetic
        if idle := self.devices.total - len(self.loads):
            lines.append(f"            {idle} of the GPUs hold nothing")
        return lines


def placed(
    bound: Bound, devices: Devices, share: float, batch_size: int, context: int
) -> Placement:
    """Where the lanes of a plan go, which is bound to the shapes of its models.

    Args:
        bound: the plan; with ``TermParallel.planned`` where processes share it.
        devices: the GPUs.
        share: of their memory that may be taken.
        batch_size: requests at once, rows of a search counted, and ``context``, tokens of each.

    Raises:
        ArgumentError: a model is to be on a GPU that there is not.
    """
    ranks = bound.term_parallel
    where = _by_rank(bound, devices) if ranks is not None else _by_spec(bound, devices)
    loads = list[Load]()
    for gpu, parts in where.items():
        footprints = {part.lane: part.footprint for part in parts}
        work = work_bytes(bound, footprints, batch_size, context)
        brought = len(bound.lanes) - len(footprints)  # lanes whose logits come from other GPUs
        work += brought * batch_size * bound.vocabulary * SCORE_BYTES
        caches = caches_of(bound, footprints, batch_size, context)
        names = [_named(bound.lane_names[part.lane], part.share) for part in parts]
        read = sum(footprint.weight_bytes for footprint in footprints.values()) + caches
        loads.append(Load(gpu, tuple(names), held_bytes(footprints), caches, work, read))
    limits = arithmetic_lines(bound, devices.gpu)
    if ranks is None:
        return Placement(devices, loads, share, 0, 0, in_turn=True, arithmetic=limits)
    rows = batch_size * sum(owner is not None for owner in ranks.owners)
    exchanged = rows * bound.vocabulary * SCORE_BYTES
    exchanges = int(exchanged > 0) + len(bound.plan.reranks)
    for number in _split_lanes(bound):
        config = bound.lanes[number].config
        layers = 2 * config.num_hidden_layers
        exchanges += layers
        size = bound.lanes[number].dtype.itemsize
        exchanged += layers * batch_size * config.hidden_size * size
    return Placement(devices, loads, share, exchanged, exchanges, in_turn=False, arithmetic=limits)


def arithmetic_lines(bound: Bound, gpu: Gpu) -> list[str]:
    """For lanes with candidates: how many requests at once make arithmetic the limit of a step."""
    lines = []
    for number, name in enumerate(bound.lane_names):
        each = queries(bound, number)
        if each == 1 or not hasattr(bound.lanes[number], "dtype"):
            continue
        most = gpu.positions(bound.lanes[number].dtype.itemsize) // each
        lines.append(
            f"arithmetic  {name}: beyond {most} requests at once, {each} positions each, its step "
            f"takes what its products take, no longer what reading its weights does ({gpu.name})"
        )
    return lines


def _by_rank(bound: Bound, devices: Devices) -> Mapping[int, list[Part]]:
    """What each process holds: lanes of its own, its part of those that are split, and copies."""
    ranks, split = bound.term_parallel, _split_lanes(bound)
    assert ranks is not None
    where: dict[int, list[Part]] = {gpu: [] for gpu in range(devices.total)}
    for number, owner in enumerate(ranks.owners):
        footprint = bound.lanes[number].footprint()
        if number in split:
            footprint = _slice(bound.lanes[number].model, footprint, devices.total)
        for gpu in where if owner is None else (owner,):
            where[gpu].append(Part(number, 1 / devices.total if number in split else 1, footprint))
    return {gpu: parts for gpu, parts in where.items() if parts}


def _by_spec(bound: Bound, devices: Devices) -> Mapping[int, list[Part]]:
    """What each GPU of one node holds, as the models say."""
    where: dict[int, list[Part]] = {}
    for number, lane in enumerate(bound.lanes):
        spec = next(term.spec for term in bound.all_terms if term.lane == number)
        footprint, shares = lane.footprint(), {_gpu(spec.device, devices): 1.0}
        if spec.device_map is not None and hasattr(lane, "model"):
            shares = _mapped(lane.model, spec.device_map, devices)
        for gpu, share in shares.items():
            part = footprint if share == 1 else _scaled(footprint, share)
            where.setdefault(gpu, []).append(Part(number, share, part))
    return dict(sorted(where.items()))


def _gpu(device: str | None, devices: Devices) -> int:
    """The number of a GPU as torch names it."""
    index = torch.device(device or "cuda").index or 0
    if index >= devices.per_node:
        problem = f"device {device} is not there: one process uses the GPUs of one node"
        raise ArgumentError(f"{problem}, cuda:0 to cuda:{devices.per_node - 1}")
    return index


def _mapped(model: Any, device_map: Any, devices: Devices) -> dict[int, float]:
    """The share of a model's weights on each GPU, as accelerate would map it."""
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    if isinstance(device_map, str):
        most = dict.fromkeys(range(devices.per_node), devices.gpu.memory)
        kept = model._no_split_modules
        if device_map != "sequential":
            low_zero = device_map == "balanced_low_0"
            most = get_balanced_memory(model, most, kept, low_zero=low_zero)
        device_map = infer_auto_device_map(model, most, no_split_module_classes=kept)
    sizes: dict[int, float] = {}
    for name, tensor in model.named_parameters():
        path = name
        while path and path not in device_map:
            path = path.rpartition(".")[0]
        place = device_map.get(path, 0)
        gpu = place if isinstance(place, int) else _offloaded(place, devices)
        sizes[gpu] = sizes.get(gpu, 0) + stored_bytes(tensor)
    total = sum(sizes.values())
    return {gpu: size / total for gpu, size in sizes.items()}


def _offloaded(place: Any, devices: Devices) -> int:
    if str(place) in ("cpu", "disk"):
        raise ArgumentError(f"a part of a model would be on {place}: give more GPUs (--devices)")
    return _gpu(str(place), devices)


def _split_lanes(bound: Bound) -> set[int]:
    """The lanes whose layers are split over all processes."""
    return {term.lane for term in bound.all_terms if term.spec.tp_plan is not None}


def _slice(model: Any, footprint: Footprint, size: int) -> Footprint:
    """One process's part of a model whose layers are split by transformers' plan."""
    plan = getattr(model, "tp_plan", None) or {}
    split = replicated = 0
    for name, tensor in model.named_parameters():
        module = _LAYER.sub(".*", name.rpartition(".")[0])
        if module in plan:
            split += stored_bytes(tensor)
        else:
            replicated += stored_bytes(tensor)
    share = (split / size + replicated) / (split + replicated)
    scaled = _scaled(footprint, share)
    return replace(scaled, token_bytes=-(-footprint.token_bytes // size))


def _scaled(footprint: Footprint, share: float) -> Footprint:
    """A share of a lane's weights and caches; a forward works in as much."""
    return replace(
        footprint,
        weight_bytes=round(share * footprint.weight_bytes),
        token_bytes=round(share * footprint.token_bytes),
        row_bytes=round(share * footprint.row_bytes),
        memory={
            key: held._replace(size=round(share * held.size))
            for key, held in footprint.memory.items()
        },
    )


def _named(name: str, share: float) -> str:
    return name if share == 1 else f"{share:.0%} of {name}"


def _merged_rows(loads: Sequence[Load], room: int) -> list[tuple[str, ...]]:
    """A line for each GPU; for several in a row that hold the same, one."""
    rows: list[tuple[str, ...]] = []
    first = 0
    while first < len(loads):
        last = first
        while last + 1 < len(loads) and _same(loads[last + 1], loads[first]):
            last += 1
        load = loads[first]
        number = str(load.gpu) if first == last else f"{load.gpu}-{loads[last].gpu}"
        sizes = (si_bytes(each) for each in (load.weights, load.caches, load.work))
        rows.append((number, ", ".join(load.holds), *sizes, f"{load.total / room:.0%}"))
        first = last + 1
    return rows


def _same(load: Load, other: Load) -> bool:
    return replace(load, gpu=other.gpu) == other
