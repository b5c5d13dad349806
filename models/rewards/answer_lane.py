"""Rows of prompts that are no token ids, and of answers in the formula's tokens."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..cache.row_items import copy_items, swap_remove
from ..cache.row_lane import RowLane
from ..cache.rows import Join
from ..combinations import Combination
from ..text.full_text import Continuation

Position = list[tuple[list[int], str]]  # a text's own answer, and then with each candidate


class AnswerLane(RowLane):
    """A lane whose rows' texts are the answers alone, in the formula's tokens.

    Their tokenizer is ``shared``.
    """

    why_eager: str | None = "it reads text"

    def __init__(self, shared: Any, device: torch.device) -> None:
        self._continuation, self.device = Continuation(shared), device
        self.reserve(0, 0)

    def reserve(self, rows: int, capacity: int, tokens: int | None = None) -> None:
        super().reserve(rows, capacity)
        self._prompts: list[Any] = []

    def admit(
        self, prompts: Sequence[Any], combinations: Sequence[Combination]
    ) -> Generator[int, None, Join]:
        """Take prompts into new rows."""
        join_prefilled = yield from self._prefill(prompts, combinations)

        def join() -> Sequence[int]:
            numbers = join_prefilled()
            order = sorted(range(len(prompts)), key=numbers.__getitem__)
            empty: list[list[int]] = [[] for _ in prompts]
            self.rows.admit(empty, [0] * len(prompts), [combinations[i] for i in order])
            self._prompts += [prompts[i] for i in order]
            return numbers

        return join

    def _prefill(
        self, prompts: Sequence[Any], combinations: Sequence[Combination]
    ) -> Generator[int, None, Join]:
        """Read prompts into a cache, if there is one; what returns the numbers of their rows."""
        yield from ()
        return lambda: range(self.rows.count, self.rows.count + len(prompts))

    def release(self, row: int, text: Sequence[int] = ()) -> int:
        swap_remove(self._prompts, row)
        return super().release(row)

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        super().copy_rows(sources, targets)
        copy_items(self._prompts, sources, targets)

    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        """``(rows, k)`` candidates to ``(rows, k, labels)`` rewards, and those of the texts."""
        after = torch.zeros(len(candidates), 1, dtype=torch.long)
        rewards, of_texts = self.rewards_along(candidates[:, None], after, 0)
        return rewards[:, 0], None if of_texts is None else of_texts[:, 0]

    def rewards_along(
        self, candidates: Tensor, after: Tensor, most: int
    ) -> tuple[Tensor, Tensor | None]:
        """As the protocol's; None for the texts where nobody asks for their rewards."""
        raise NotImplementedError

    def _answers(
        self, candidates: Tensor, after: Tensor
    ) -> Iterator[tuple[Any, list[Position], int]]:
        """Per row: its prompt, its answers at each position, and which of these is the longest."""
        rows = zip(self.rows.all_texts(), candidates.tolist(), after.tolist(), strict=True)
        for prompt, (ids, options, behind) in zip(self._prompts, rows, strict=True):
            positions: list[Position] = []
            for chosen, cut in zip(options, behind, strict=True):
                kept = ids[: len(ids) - cut]
                every = [kept, *([*kept, token] for token in chosen)]
                texts = self._continuation.texts(kept, chosen)
                positions.append(list(zip(every, texts, strict=True)))
            yield prompt, positions, behind.index(min(behind))

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """The same: the winner's text is decoded anew at the next step."""
        self.rows.feed(tokens)

    def graph_key(self, ahead: int) -> Hashable:
        return None
