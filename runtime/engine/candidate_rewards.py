"""A reranking stage's reward models over the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..batch.row_map import RowMap
from ..binding.term_parallel import TermParallel


class CandidateRewards:
    """One stage's reward models.

    Args:
        row_maps: one per reward model of the stage.
        lanes: those with rows, by their numbers.
        owners: per lane, ``(rows,)`` the slot of each row.
        moves: whether the winner is always a candidate, so that its cache can be moved.
        count: counts a forward of each of some lanes.
        term_parallel: the processes that share the lanes, if any.
    """

    def __init__(
        self,
        row_maps: Sequence[RowMap],
        lanes: Mapping[int, Any],
        owners: Sequence[Tensor],
        moves: bool,
        count: Callable[[Sequence[int]], None],
        term_parallel: TermParallel | None,
    ) -> None:
        self._row_maps, self._lanes, self._owners = row_maps, lanes, owners
        self._moves, self._count, self._term_parallel = moves, count, term_parallel

    def rewards(self, candidates: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """``(slots, k)`` ids to ``(slots, k)`` per reward model, and ``(slots,)`` of the texts."""
        outputs = {}
        self._count([*self._lanes])
        for number, lane in self._lanes.items():
            outputs[number] = lane.rewards(candidates[self._owners[number]])
        if self._term_parallel is not None:
            outputs = self._term_parallel.all_reduce_rewards(outputs)
        rewards: list[Tensor] = []
        texts: list[Tensor | None] = []
        for row_map in self._row_maps:
            if not row_map.live:
                rewards.append(torch.zeros(candidates.shape, device=candidates.device))
                texts.append(rewards[-1][:, 0])
                continue
            candidate, text = outputs[row_map.term.lane]
            rewards.append(labelled(candidate, row_map))
            texts.append(None if text is None else labelled(text, row_map))
        return rewards, texts

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """``(slots,)`` which candidate each slot goes on with, and the tokens themselves."""
        for number, lane in self._lanes.items():
            owners = self._owners[number]
            if self._moves:
                lane.keep(choice[owners], tokens[owners])
            else:
                lane.feed(tokens[owners])


def labelled(outputs: Tensor, row_map: RowMap) -> Tensor:
    """A head's outputs, ``(rows, …, labels)``, as one reward per slot."""
    reward = outputs[..., row_map.term.label or 0]
    return reward.to(row_map.rows.device).index_select(0, row_map.rows)
