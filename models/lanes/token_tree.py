"""Several continuations of each text in one forward, each of several tokens: tree attention.

A row's cache is kept as far as the next text agrees with it. A text and its alternatives share that
cache. Each alternative adds a branch at scratch cache positions after the row's end; its tokens see
the text up to where the branch starts, and the branch. Nothing here knows of characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..cache.blocks.prefix_tree import common_prefix
from .transformers_lane import TransformersLane

Ids: TypeAlias = Sequence[int]
Query: TypeAlias = tuple[int, int, int, int]  # token, position, cache position, start of its branch
MAX_UNREAD = 64  # unread tokens in one forward with the branches; more are read first


class TokenTreeLane(TransformersLane):
    """A lane over a causal reward model that scores whole texts.

    Attributes:
        rows_scored: rows that were scored so far.
        tokens_run: tokens that were run for them.
    """

    rows_scored, tokens_run = 0, 0
    mixes = False
    page_size = 0  # how long branches are is known when they are read

    @torch.no_grad()
    def outputs(self, texts: Sequence[Sequence[Ids]]) -> Tensor:
        """The rewards of whole texts; nothing that the cache holds is run again.

        Args:
            texts: for each row its text, and then alternatives to it; at least one token each.

        Returns:
            ``(texts, labels)`` float32, row after row, each read at its own last token.
        """
        if any(self.rows.crosses(min(map(len, row)), max(map(len, row))) for row in texts):
            return self._in_turn(texts)
        self._rewrite([row[0] for row in texts])
        if self.rows.backlog > MAX_UNREAD:
            self._catch_up()
        first = max(1, self.rows.backlog)
        tokens, positions = self.rows.unread(first)
        branches = [_branches(row) for row in texts]
        width = max(len(added) for added, _ in branches)
        self.rows_scored += len(texts)
        self.tokens_run += first * len(texts) + sum(len(added) for added, _ in branches)
        end = max(len(row[0]) + len(added) for row, (added, _) in zip(texts, branches, strict=True))
        self.ensure_capacity(end)
        queries = torch.stack((tokens, positions, positions, positions))
        if width:
            pairs = zip(texts, branches, strict=True)
            filled = [_filled(added, row[0], width) for row, (added, _) in pairs]
            added_queries = torch.tensor(filled, device=self.device).permute(2, 0, 1)
            queries = torch.cat((queries, added_queries), dim=2)
        tokens, positions, cache_positions, starts = queries
        out = self._step(tokens, positions, cache_positions, end, backbone=True, starts=starts)
        self.rows.mark_cached()
        ends = [(row, first - 1 + i) for row, (_, lasts) in enumerate(branches) for i in lasts]
        rows, at = zip(*ends, strict=True)
        return self.head(out.last_hidden_state[list(rows), list(at)])

    def _in_turn(self, texts: Sequence[Sequence[Ids]]) -> Tensor:
        """The same, where alternatives are on both sides of a limit of rotary frequencies."""
        rewards: list[list[Tensor]] = [[] for _ in texts]
        for turn in range(max(map(len, texts))):
            outputs = self.outputs([[row[min(turn, len(row) - 1)]] for row in texts])
            for row, own, output in zip(texts, rewards, outputs, strict=True):
                if turn < len(row):
                    own.append(output)
        return torch.stack([output for own in rewards for output in own])

    def _rewrite(self, texts: Sequence[Ids]) -> None:
        """Keep of every cache what agrees with its row's next text, but for the last token."""
        self.ensure_capacity(max(map(len, texts)))
        old, cached = self.rows.all_texts(), self.rows.counts()[0]
        edits = {}
        for row, text in enumerate(texts):
            kept = min(common_prefix(old[row][: cached[row]], text), len(text) - 1)
            if self.rows.crosses(cached[row], len(text)):
                kept = 0
            edits[row] = (kept, text[kept:])
        self.rows.rewrite(edits)


def _branches(texts: Sequence[Ids]) -> tuple[list[Query], list[int]]:
    """The queries that a row's alternatives add to its text.

    Returns:
        Them, and how many queries there are up to the end of each text; 0 for the first.
    """
    text, queries, lasts = texts[0], list[Query](), [0]
    for other in texts[1:]:
        start = min(common_prefix(text, other), len(other) - 1)
        for position in range(start, len(other)):
            queries.append((other[position], position, len(text) + len(queries), start))
        lasts.append(len(queries))
    return queries, lasts


def _filled(queries: list[Query], text: Ids, width: int) -> list[Query]:
    """So many queries: the last one repeated, or the text's last token, which changes nothing."""
    last = len(text) - 1
    repeated = queries[-1] if queries else (text[-1], last, last, last)
    return queries + [repeated] * (width - len(queries))
