"""The weights, and the lanes over them, that several bound plans share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...models.lanes.protocols import LanguageLane
from ...models.lanes.shared import LaneView, SharedLane
from ...models.rewards.shared_lane import SharedRewards


@dataclass
class WeightPool:
    """Weights in memory, and, where plans share steps, the lanes over them.

    Attributes:
        together: whether plans share lanes, so that one forward reads the rows of all.
        weights: models in memory, by ``Description.weights``; weights that are read are added.
        descriptions: of declared models, with the declarations that they are of, by their ids.
    """

    together: bool = False
    weights: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    descriptions: dict[Hashable, tuple[Any, Any]] = field(default_factory=dict)
    _lanes: dict[Hashable, SharedLane] = field(default_factory=dict)

    def view(self, key: Hashable, make: Callable[[], LanguageLane]) -> LaneView:
        """A view of the lane of this key; the first caller makes the lane."""
        if key not in self._lanes:
            self._lanes[key] = SharedLane(make())
        return self._lanes[key].view()

    def rewards(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The same of a reward lane, where one forward may score the rows of several plans."""
        if key not in self._lanes:
            lane = make()
            if not getattr(lane, "shares_rewards", False):
                return lane
            self._lanes[key] = SharedRewards(lane)
        return self._lanes[key].view()

    def described(
        self, declared: Sequence[Any], more: Hashable, describe: Callable[[], Any]
    ) -> Any:
        """The description of declarations; only the first caller's reads files."""
        key = tuple(map(id, declared)), more
        if key not in self.descriptions:
            self.descriptions[key] = declared, describe()  # whose ids stay theirs
        return self.descriptions[key][1]

    def clear(self) -> None:
        """Drop every row of the lanes that plans share, whatever state they are in."""
        for lane in self._lanes.values():
            lane.clear()

    @property
    def shared_lanes(self) -> list[LanguageLane]:
        """The lanes that plans share."""
        return [shared.lane for shared in self._lanes.values()]
