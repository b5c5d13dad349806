"""How much of a cluster a run takes: workers, GPUs and CPUs of each, rows of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from ..errors import ArgumentError

TASK_BATCHES = 4  # batches of a task, at most: a task's last rows leave slots of its batch empty


@dataclass(frozen=True)
class RayOptions:
    """The options of ``--ray``; None is for what the cluster suggests.

    Attributes:
        address: ``local`` starts a cluster on this machine, ``auto`` finds the one that this
            machine belongs to, and the rest is the address of one.
        actors: decoders at once.
        gpus: of each decoder.
        rows: of one task.
    """

    address: str
    actors: int | None = None
    gpus: float | None = None
    rows: int | None = None


def ray_options(
    address: str | None, actors: int | None, gpus: float | None, rows: int | None
) -> RayOptions | None:
    """The options of a command line; None without ``--ray``.

    Raises:
        ArgumentError: the others without it.
    """
    if address is not None:
        return RayOptions(address, actors, gpus, rows)
    for name, value in (("actors", actors), ("gpus", gpus), ("rows", rows)):
        if value is not None:
            raise ArgumentError(f"--ray-{name} goes with --ray; write --ray auto, or leave it out")
    return None


@dataclass(frozen=True)
class Share:
    """What each decoder gets: ``ranks`` processes with so many GPUs and CPUs each.

    Attributes:
        room: how many decoders the nodes have room for now.
    """

    actors: int
    ranks: int
    gpus: float
    cpus: float
    room: int

    def __str__(self) -> str:
        what = f"{self.gpus * self.ranks:g} GPUs" if self.gpus else f"{self.cpus:g} CPUs"
        return f"ray: {self.actors} decoders with {what} each"


def share_of(
    options: RayOptions, nodes: Sequence[Mapping[str, Any]], parallel: str | None
) -> Share:
    """What each decoder gets of the nodes' resources.

    One GPU each where there are some, and as many decoders as that allows; else one decoder on each
    node, with its CPUs. With ``parallel: terms``, a process for each GPU of a decoder.

    Args:
        options: what the user wants.
        nodes: the resources of each node, by Ray's names (``CPU``, ``GPU``).
        parallel: the run file's.

    Raises:
        ArgumentError: no node has so many GPUs, or a number that makes no sense.
    """
    most = [float(node.get("GPU", 0)) for node in nodes]
    gpus = options.gpus if options.gpus is not None else float(any(most))
    ranks = 1
    if parallel == "terms":
        if gpus < 1 or gpus != int(gpus):
            problem = "parallel: terms gives each GPU of a decoder a process of its own"
            raise ArgumentError(f"{problem}; write how many with --ray-gpus, as in --ray-gpus 8")
        ranks = int(gpus)
    if gpus > 1 and gpus != int(gpus):
        raise ArgumentError(f"--ray-gpus is {gpus:g}; a share of a GPU is below 1")
    if gpus:
        room = sum(int(own / gpus) for own in most)
        if not room:
            have = ", ".join(f"{own:g}" for own in most)
            raise ArgumentError(f"no node has {gpus:g} GPUs for a decoder; the nodes have {have}")
        return Share(options.actors or room, ranks, gpus / ranks, 1, room)
    cpus = [float(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise ArgumentError("no node of the cluster has a CPU to decode with")
    actors = options.actors or len(cpus)
    each = max(1, min(int(min(cpus)), int(sum(cpus) // actors)))
    return Share(actors, 1, 0, each, sum(int(own // each) for own in cpus))


def rows_of_task(rows: int, actors: int, batch_size: int) -> int:
    """Rows of a task: every decoder has some, batches are full, and no task is too long.

    >>> rows_of_task(10_000, 8, 32), rows_of_task(500, 8, 32), rows_of_task(20, 8, 32)
    (128, 32, 3)
    """
    full = min(batch_size, ceil(rows / actors))
    return max(1, min(TASK_BATCHES * batch_size, max(full, ceil(rows / (4 * actors)))))
