"""The account of a step: what it launches, moves and waits for, and the time that this takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

BANDWIDTH, FLOPS = 3.0e12, 6.5e14  # bytes and operations per second of a large GPU
IN_A_GRAPH, EAGER = 2e-6, 8e-6  # seconds that a launch takes at least
ATTENTION = "attention"


@dataclass(frozen=True)
class Launch:
    """A kernel on its way to the device.

    Attributes:
        name: of the operation.
        place: the line of descant or transformers that it comes from.
        kind: ``attention``, ``product``, ``copy`` or ``other``.
        weights, caches, other: bytes that it reads of each.
        written: bytes that it writes.
        flops: its arithmetic, where that is more than a few operations per number.
        blocks: thread blocks, of a kernel of our own.
        prompt: whether it reads a prompt.
    """

    name: str
    place: str
    kind: str
    weights: int = 0
    caches: int = 0
    other: int = 0
    written: int = 0
    flops: int = 0
    blocks: int | None = None
    prompt: bool = False

    @property
    def bytes(self) -> int:
        return self.weights + self.caches + self.other + self.written

    def seconds(self, least: float) -> float:
        """It is no faster than its bytes, nor its arithmetic, nor a launch."""
        return max(least, self.bytes / BANDWIDTH, self.flops / FLOPS)


@dataclass
class Step:
    """What happened until the next step, whose changes are uploaded here; or in one recording.

    Attributes:
        live: bytes of caches that the texts in it have.
        weights: bytes of weights that it has to read, by the plan.
        launches: in their order; those of a recording at each replay.
        h2d, d2h: the places of copies from the host, and to it.
        waits: the places where the host waits for the device.
        stalls: the places where it waits for results of this very step. A step that is only
            collected when the next is under way has none.
        recorded, replayed: how many recordings were made in it, and replays.
    """

    live: int = 0
    weights: int = 0
    launches: list[Launch] = field(default_factory=list)
    h2d: list[str] = field(default_factory=list)
    d2h: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    stalls: list[str] = field(default_factory=list)
    recorded: int = 0
    replayed: int = 0

    @property
    def mode(self) -> str:
        """``recorded`` if anything was, else ``replayed`` if anything was, else ``eager``."""
        return "recorded" if self.recorded else "replayed" if self.replayed else "eager"

    @property
    def attention(self) -> list[Launch]:
        return [launch for launch in self.launches if launch.kind == ATTENTION]

    def seconds(self, least: float = IN_A_GRAPH) -> float:
        """The time of its launches, one after the other; copies and waits are left out."""
        return sum(launch.seconds(least) for launch in self.launches)

    def floor(self) -> float:
        """Seconds to read the weights and what is live of the caches, once."""
        return (self.weights + self.live) / BANDWIDTH

    def over_floor(self) -> float:
        return self.seconds() / self.floor()

    def add(self, other: Step) -> None:
        """Do what another did once more, as a replay does."""
        self.launches += other.launches
        self.h2d += other.h2d
        self.d2h += other.d2h
        self.waits += other.waits

    def places(self) -> Counter[tuple[str, str]]:
        """How many launches come from each line, by name: what to look at when there are many."""
        return Counter((launch.place, launch.name) for launch in self.launches)
