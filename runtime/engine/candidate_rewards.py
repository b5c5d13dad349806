"""A reranking stage's reward models over the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
    lanes: Mapping[int, Any]
    owners: Sequence[Tensor]
    moves: bool
    count: Callable[[Sequence[int]], None]
    term_parallel: TermParallel | None

    def rewards(self, candidates: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        self.count([*self.lanes])
        outputs = {
            number: lane.rewards(candidates[self.owners[number]])
            for number, lane in self.lanes.items()
        }
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
            rewards.append(labelled(candidate, row_map))
            texts.append(None if text is None else labelled(text, row_map))
        return rewards, texts

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        for number, lane in self.lanes.items():
            owners = self.owners[number]
            if self.moves:
                lane.keep(choice[owners], tokens[owners])
            else:
                lane.feed(tokens[owners])


def labelled(outputs: Tensor, row_map: RowMap) -> Tensor:
    """A head's outputs, ``(rows, …, labels)``, as one reward per slot."""
    reward = outputs[..., row_map.term.label or 0]
    return reward.to(row_map.rows.device).index_select(0, row_map.rows)
