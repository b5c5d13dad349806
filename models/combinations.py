"""Weighted additions to rows: which adapters and vectors a row runs with, each times a number.

A forward finds the numbers of its rows in a table on the device. Whoever reads or keeps a text
holds its combination; the slot of one that nobody holds is another's.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .images.prompt import ImagePrompt
from .upload import Changes, Mirror

LAYERS, STREAM = 1, 2  # parts: adapters of layers, and vectors in the residual stream
SLOTS = 16  # at first


class Combination:
    """What one row adds to its weights. Those of a lane with the same numbers are one object.

    Args:
        key: what sets the cache of a text apart, as far as it is ``shared``.
        parts: whether it has adapters (``LAYERS``) and vectors (``STREAM``), as bits.
        shared: tokens at the beginning of a text whose keys are those of ``key``; None for all.
        take: gives it a slot.
        images: the prompt of images that its row's text begins with; None for text alone.
        weights: pairs of a column of the table and its number; all others are 0.

    Attributes:
        slot: its row in the table, from when it is first asked for; 0 for the bare weights.
    """

    def __init__(
        self,
        key: Hashable = (),
        parts: int = 0,
        shared: int | None = None,
        take: Callable[[Combination], int] = lambda combination: 0,
        images: ImagePrompt | None = None,
        weights: Sequence[tuple[int, float]] = (),
    ) -> None:
        self.key, self.parts, self.shared, self._take = key, parts, shared, take
        self.images, self.weights = images, tuple(weights)

    @cached_property
    def slot(self) -> int:
        return self._take(self)


BARE = Combination()


class Chosen(NamedTuple):
    """The combinations of a forward's rows.

    Attributes:
        slots: ``(rows,)`` int64.
        parts: what any of them has, as in ``Combination``.
        known: the combinations, where this forward is of these alone; None where it is recorded,
            and replayed for others.
    """

    slots: Tensor
    parts: int
    known: Sequence[Combination] | None = None

    def repeated(self, copies: int) -> Chosen:
        """The same of so many copies of each row, side by side."""
        known = self.known and [each for each in self.known for _ in range(copies)]
        return Chosen(self.slots.repeat_interleave(copies), self.parts, known)


def parts_of(combinations: Sequence[Combination]) -> int:
    """What any of them has."""
    parts = 0
    for combination in combinations:
        parts |= combination.parts
    return parts


def chosen(combinations: Sequence[Combination], device: torch.device) -> Chosen | None:
    """The combinations of rows, for a forward; None where all are bare."""
    if not (parts := parts_of(combinations)):
        return None
    slots = torch.tensor([combination.slot for combination in combinations], device=device)
    return Chosen(slots, parts, combinations)


class CombinationTable:
    """The numbers of every combination that somebody holds, where a forward reads them.

    Attributes:
        weights: ``(slots, columns)`` float32 on the device: of each, the number of each adapter or
            vector that is loaded. Slot 0 is of the bare weights.
        starts: ``(slots,)`` int64, where the answer begins in a text of it.
        offsets: ``(slots,)`` int64, what is added to positions after its images, to those in the
            text, where a model has rotary positions of several axes.
        moved: how often they have come to be in other memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self.moved = device, 0
        self._free: list[int] = []
        self._make(SLOTS, 0)

    def take(
        self,
        weights: Sequence[tuple[int, float]],
        start: int,
        offset: int,
        combination: Combination,
    ) -> int:
        """A slot for a combination, as long as somebody holds it.

        Args:
            weights: pairs of a column and its number.
            start: of the answer.
            offset: of positions.
            combination: that is to have it.
        """
        if not self._free:
            self._make(2 * len(self.starts), self.weights.shape[1])
        slot = self._free.pop()
        weakref.finalize(combination, self._free.append, slot).atexit = False
        numbers = torch.zeros(self.weights.shape[1])
        for column, weight in weights:
            numbers[column] = weight
        host = self._mirror.host
        host.weights[slot], host.starts[slot], host.offsets[slot] = numbers, start, offset
        self._mirror.stale = True
        return slot

    def widen(self, columns: int) -> None:
        """Have so many columns at least."""
        if columns > (now := self.weights.shape[1]):
            self._make(len(self.starts), max(columns, 2 * now))

    @property
    def stale(self) -> bool:
        """Whether the host has written what the device does not have yet."""
        return self._mirror.stale

    def changes(self) -> Changes:
        """What the device does not have yet; taken for done."""
        return self._mirror.changes()

    def _make(self, slots: int, columns: int) -> None:
        """Have so many slots and columns; those there were keep their numbers."""
        first, old = 1, getattr(self, "_mirror", None)
        self._mirror = Mirror(
            self._device,
            weights=((slots, columns), torch.float32),
            starts=((slots,), torch.long),
            offsets=((slots,), torch.long),
        )
        host = self._mirror.host
        if old is not None:
            first, kept = len(old.host.starts), old.host.weights
            host.weights[:first, : kept.shape[1]], host.starts[:first] = kept, old.host.starts
            host.offsets[:first] = old.host.offsets
        self._free += range(slots - 1, first - 1, -1)
        self._mirror.stale = True
        on_device = self._mirror.device
        self.weights, self.starts, self.offsets = (
            on_device.weights,
            on_device.starts,
            on_device.offsets,
        )
        self.moved += 1
