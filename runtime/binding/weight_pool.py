"""A house: what the plans that are bound in it have in common, so that nothing is there twice."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from ...models.lanes.protocols import LanguageLane
from ...models.lanes.shared import LaneView, SharedLane


class WeightPool:
    """Weights in memory, and, where steps are shared, the lanes over them.

    Args:
        together: whether plans share lanes: their rows are then read by the same forwards.
        weights: models in memory, by ``Description.weights``; what is read is put there.
    """

    def __init__(
        self, together: bool = False, weights: dict[tuple[Any, ...], Any] | None = None
    ) -> None:
        self.together = together
        self.weights = {} if weights is None else weights
        self._lanes: dict[Hashable, SharedLane] = {}

    def view(self, key: Hashable, make: Callable[[], LanguageLane]) -> LaneView:
        """A party of the lane of this key, which is made when first asked for."""
        if key not in self._lanes:
            self._lanes[key] = SharedLane(make())
        return self._lanes[key].view()
