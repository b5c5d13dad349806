"""Several continuations of each text in one forward, each of several tokens: tree attention.

What a row has read stays in its cache as far as the next text agrees with it. A text and its
alternatives share that cache; each alternative adds its own tail in scratch slots behind the row's
end, and sees the text up to where it parts from it, and itself. Nothing here knows of characters.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .transformers_lane import TransformersLane

Ids: TypeAlias = Sequence[int]
Query: TypeAlias = tuple[int, int, int, int]  # token, place, slot, where its tail begins
FEW = 64  # waiting tokens that are read together with the tails; more are read first


class TokenTreeLane(TransformersLane):
    """A lane over a causal reward model whose rows are asked about whole texts.

    Attributes:
        asked: rows that were asked about so far.
        read: tokens that were run for them.
    """

    asked, read = 0, 0

    def widen(self, tokens: int) -> None:
        """Make room for so many tokens in every row."""
        if tokens > self._rows.capacity:
            capacity = -(-max(tokens, self._rows.capacity * 5 // 4) // 32) * 32
            self.grow(capacity)

    @torch.no_grad()
    def outputs(self, texts: Sequence[Sequence[Ids]]) -> Tensor:
        """The rewards of whole texts, of which nothing is run again that the cache holds.

        Args:
            texts: for each row its text, and then alternatives to it; at least one token each.

        Returns:
            ``(texts, labels)`` float32, row after row, each read at its own last token.
        """
        self._rewrite([some[0] for some in texts])
        if self._rows.backlog > FEW:
            self._catch_up()
        first = max(1, self._rows.backlog)
        self.asked, self.read = self.asked + len(texts), self.read + first * len(texts)
        tokens, places = self._rows.waiting(first)
        tails = [self._tails(some) for some in texts]
        end = max(len(some[0]) + len(row) for some, (row, _) in zip(texts, tails, strict=True))
        self.widen(end)
        queries = torch.stack((tokens, places, places, places))
        widest = max(len(row) for row, _ in tails)
        if widest:
            pairs = zip(texts, tails, strict=True)
            beside = [_filled(row, some[0], widest) for some, (row, _) in pairs]
            added = torch.tensor(beside, device=self.device).permute(2, 0, 1)
            queries = torch.cat((queries, added), dim=2)
        tokens, places, slots, starts = queries
        out = self._step(tokens, places, slots, end, backbone=True, starts=starts)
        self._rows.cached(but=0)
        lasts = [[first - 1, *(first + last for last in found)] for _, found in tails]
        rows = [row for row, some in enumerate(lasts) for _ in some]
        return self.head(out.last_hidden_state[rows, [last for some in lasts for last in some]])

    def _rewrite(self, texts: Sequence[Ids]) -> None:
        """Keep of every cache what agrees with its row's next text; the last token is run anew."""
        self.widen(max(map(len, texts)))
        held, cached = self._rows.texts[: len(texts)].tolist(), self._rows.counts()[0]
        edits = {}
        for row, text in enumerate(texts):
            kept = min(shared(held[row][: cached[row]], text), len(text) - 1)
            edits[row] = (kept, text[kept:])
        self._rows.rewrite(edits)

    def _tails(self, texts: Sequence[Ids]) -> tuple[list[Query], list[int]]:
        """What the alternatives of one row add to its text, and which queries end them."""
        text, queries, lasts = texts[0], list[Query](), []
        for other in texts[1:]:
            start = min(shared(text, other), len(other) - 1)
            for place in range(start, len(other)):
                queries.append((other[place], place, len(text) + len(queries), start))
            lasts.append(len(queries) - 1)
        self.read += len(queries)
        return queries, lasts


def _filled(queries: list[Query], text: Ids, widest: int) -> list[Query]:
    """So many queries: the last one again, or the text's last token, which changes nothing."""
    last = len(text) - 1
    again = queries[-1] if queries else (text[-1], last, last, last)
    return queries + [again] * (widest - len(queries))


def shared(one: Ids, other: Ids) -> int:
    """How many first tokens two texts have in common."""
    most = min(len(one), len(other))
    return bisect_left(range(most), 1, key=lambda i: one[: i + 1] != other[: i + 1])
