"""A reranking stage's reward models over the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...models.lanes.protocols import RewardLane
from ...models.rewards.shared_lane import RewardView
from ..batch.row_map import RowMap
from ..binding.term_parallel import TermParallel


@dataclass
class CandidateRewards:
    """One stage's reward models.

    Attributes:
        row_maps: one per reward model of the stage.
        lanes: those with rows, by their numbers.
        owners: per lane, ``(rows,)`` the slot of each row.
        moves: whether the winner is always a candidate, so that its cache can be moved.
        count: counts a forward of each of some lanes.
        term_parallel: the processes that share the lanes, if any.
    """

    row_maps: Sequence[RowMap]
    lanes: Mapping[int, RewardLane]
    owners: Sequence[Tensor]
    moves: bool
    count: Callable[[Sequence[int]], None]
    term_parallel: TermParallel | None

    def __post_init__(self) -> None:
        self._shared: dict[int, Any] = {
            number: lane for number, lane in self.lanes.items() if isinstance(lane, RewardView)
        }
        self._asked: Tensor | None = None

    def ask(self, candidates: Tensor) -> bool:
        """Say what ``rewards`` will be asked for; False where no lane is shared by formulas."""
        for number, lane in self._shared.items():
            lane.ask(candidates[self.owners[number]])
        self._asked = candidates if self._shared else None
        return bool(self._shared)

    def rewards(self, candidates: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        self.count([*self.lanes])
        outputs = {
            number: self._shared[number].answer()
            if candidates is self._asked and number in self._shared
            else self._of_lane(lane, self.owners[number], candidates)
            for number, lane in self.lanes.items()
        }
        self._asked = None
        if self.term_parallel is not None:
            outputs = self.term_parallel.all_reduce_rewards(outputs)
        rewards: list[Tensor] = []
        texts: list[Tensor | None] = []
        for row_map in self.row_maps:
            if not row_map.live:
                rewards.append(torch.zeros(candidates.shape, device=candidates.device))
                texts.append(rewards[-1][:, 0])
                continue
            candidate, text = outputs[row_map.term.lane]
            rewards.append(self._of_rows(candidate, row_map))
            texts.append(None if text is None else self._of_rows(text, row_map))
        return rewards, texts

    def along(self, owner: Tensor, ahead: Tensor, after: Tensor, positions: int) -> PositionRewards:
        """The same models over positions of the slots' texts."""
        own = self.row_maps, self.lanes, self.owners, self.moves, self.count, self.term_parallel
        return PositionRewards(*own, owner, ahead, after, positions)

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        for number, lane in self.lanes.items():
            owners = self.owners[number]
            if self.moves:
                lane.keep(choice[owners], tokens[owners])
            else:
                lane.feed(tokens[owners])

    def _of_lane(
        self, lane: RewardLane, owners: Tensor, candidates: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        return lane.rewards(candidates[owners])

    def _of_rows(self, outputs: Tensor, row_map: RowMap) -> Tensor:
        return labelled(outputs, row_map)


@dataclass
class PositionRewards(CandidateRewards):
    """The same where the rows of a step are positions of the slots' texts, slot after slot.

    Attributes:
        owner, ahead: ``(N,)`` int64, the slot of each row, and which of its positions it is; those
            of a slot are numbered from 0, and adjacent.
        after: ``(N,)`` int64, how many of the formula's tokens come after each in its text.
        positions: of a slot, at most; no position has as many tokens after it.
    """

    owner: Tensor
    ahead: Tensor
    after: Tensor
    positions: int

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """Nothing: whoever compares the tokens goes on with the texts."""

    @cached_property
    def _grid(self) -> Tensor:
        """``(slots, positions)`` the row of each position; a slot's last one is repeated."""
        slots = len(self.row_maps[0].rows)
        grid = torch.zeros(slots, self.positions, dtype=torch.long, device=self.owner.device)
        grid[self.owner, self.ahead] = torch.arange(len(self.owner), device=self.owner.device)
        return grid.cummax(dim=1).values

    def _of_lane(
        self, lane: RewardLane, owners: Tensor, candidates: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        rows = self._grid[owners]
        return lane.rewards_along(candidates[rows], self.after[rows], self.positions - 1)

    def _of_rows(self, outputs: Tensor, row_map: RowMap) -> Tensor:
        return labelled(outputs, row_map)[self.owner, self.ahead]


def labelled(outputs: Tensor, row_map: RowMap) -> Tensor:
    """A head's outputs, ``(rows, …, labels)``, as one reward per slot."""
    reward = outputs[..., row_map.term.label or 0]
    return reward.to(row_map.rows.device).index_select(0, row_map.rows)
