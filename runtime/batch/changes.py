"""What the host has changed of batches, and of the lanes that hold their rows: one copy for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...models.upload import Changes, upload
from ..binding.bound import Bound


class Changing(Protocol):
    """A batch, as far as its changes go.

    Attributes:
        stale: whether the device does not have yet what the host has.
        mirrored: whether any lane's device has memory of its own, so that rows may be stale too.
    """

    bound: Bound
    stale: bool
    mirrored: bool

    def changes(self) -> Changes:
        """What is to be copied, which is taken for done."""

    def moved(self) -> None:
        """Do on the device what follows, once it is there."""


def upload_changes(batches: Sequence[Changing]) -> None:
    """Bring all that the host has changed of batches and their lanes to the devices, in one copy.

    It comes before whatever reads it there: no step is prepared without.
    """
    changes: Changes = []
    stale: list[Changing] = []
    for batch in batches:
        if batch.stale:
            stale.append(batch)
        if batch.stale or batch.mirrored:
            changes += batch.changes()
            for lane in batch.bound.lanes:
                changes += lane.changes()
    if changes:
        upload(changes)
    for batch in stale:
        batch.moved()
