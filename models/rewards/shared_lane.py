"""A reward lane that formulas share: the candidates of all are scored in one forward.

A view says which candidates it will ask for; the first that needs rewards has those of all views
scored. What another does not ask for is not read.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..lanes.candidates import CandidateLane
from ..lanes.shared import LaneView, SharedLane


class SharedRewards(SharedLane):
    """A reward lane that ``shares_rewards``, used through views alone."""

    def __init__(self, lane: Any) -> None:
        super().__init__(lane)
        self._lane = lane
        self._asked: dict[LaneView, Tensor] = {}
        self._outputs: dict[LaneView, tuple[Tensor, Tensor | None]] = {}

    def view(self) -> RewardView:
        return RewardView(self)

    def ask(self, view: LaneView, candidates: Tensor) -> None:
        """Say what a view is going to ask for, ``(rows, k)`` of its rows."""
        self._asked[view] = candidates
        self._outputs.pop(view, None)

    def answer(self, view: LaneView) -> tuple[Tensor, Tensor | None]:
        """The rewards of what a view has asked for, as of a lane."""
        if view not in self._outputs:
            lane: CandidateLane = self._lane
            parts = [(each.lane_rows, candidates) for each, candidates in self._asked.items()]
            self._outputs = dict(zip(self._asked, lane.rewards_of(parts), strict=True))
            self._asked = {}
        return self._outputs.pop(view)

    def invalidate(self, view: LaneView) -> None:
        super().invalidate(view)
        self._asked.pop(view, None)
        self._outputs.pop(view, None)

    def invalidate_all(self) -> None:
        super().invalidate_all()
        self._asked, self._outputs = {}, {}


class RewardView(LaneView):
    """The rows that one stage's model holds in a shared lane; a reward lane to its batch."""

    shared: SharedRewards
    lane: Any

    def ask(self, candidates: Tensor) -> None:
        """Say what ``answer`` is to give, before any view needs its own."""
        self.shared.ask(self, candidates)

    def answer(self) -> tuple[Tensor, Tensor | None]:
        """As ``rewards``, of what was asked for last."""
        return self.shared.answer(self)

    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        """As the protocol's."""
        self.ask(candidates)
        return self.answer()

    def rewards_along(self, candidates: Tensor, after: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """As the protocol's; of this view alone."""
        lane: CandidateLane = self.lane
        return lane.rewards_along_of(self.lane_rows, candidates, after, most)

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """As the protocol's."""
        self.lane.keep_of(self.lane_rows, choice, tokens)
        self.shared.invalidate(self)

    def plan_line(self, candidates: str) -> str:
        """As the protocol's."""
        lane: CandidateLane = self.lane
        return lane.plan_line(candidates)
