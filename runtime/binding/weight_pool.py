"""The weights, and the lanes over them, that several bound plans share."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from ...models.lanes.protocols import LanguageLane
from ...models.lanes.shared import LaneView, SharedLane


class WeightPool:
    """Weights in memory, and, where plans share steps, the lanes over them.

    Args:
        together: whether plans share lanes, so that one forward reads the rows of all.
        weights: models in memory, by ``Description.weights``; weights that are read are added.
    """

    def __init__(
        self, together: bool = False, weights: dict[tuple[Any, ...], Any] | None = None
    ) -> None:
        self.together = together
        self.weights = {} if weights is None else weights
        self._lanes: dict[Hashable, SharedLane] = {}

    def view(self, key: Hashable, make: Callable[[], LanguageLane]) -> LaneView:
        """A view of the lane of this key; the first caller makes the lane."""
        if key not in self._lanes:
            self._lanes[key] = SharedLane(make())
        return self._lanes[key].view()
