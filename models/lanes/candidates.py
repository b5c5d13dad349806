"""The rewards of candidates: alternatives over the cached text, all of them in one forward.

A candidate is a query at its own position of the text, and its key has a cache position of its own
after the row's end. It sees the text before its position, and itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..checkpoint.reward_head import Head
from .ragged import RaggedLane, RaggedRow


class Asked(NamedTuple):
    """Candidates of some rows.

    Attributes:
        rows: their numbers.
        candidates: ``(rows, n)``.
        after: ``(rows, n)``, tokens of the text that come after each; or the same of all.
        last: tokens at the end of every text that are read, and scored, before them.
    """

    rows: Sequence[int]
    candidates: Tensor
    after: Tensor | int = 0
    last: int = 0


class CandidateLane(RaggedLane):
    """What a lane over a causal reward model says of candidates."""

    @torch.no_grad()
    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        """As the protocol's, read at the candidates' own positions whatever the padding token is.

        A lane that always holds the whole text has no rewards of the texts.
        """
        if self._reads_all:
            return self._of_tree(candidates, 0, 0)[1], None
        return self._of_texts(candidates)

    @torch.no_grad()
    def rewards_along(self, candidates: Tensor, after: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """As the protocol's: one forward, but for texts that grow out of their frequencies."""
        if any(self.rows.crosses(end - most, end + 1) for end in self.rows.counts()[1]):
            return self._position_by_position(candidates, after)
        return self.rewards_along_of(None, candidates, after, most)

    @torch.no_grad()
    def rewards_along_of(
        self, rows: Sequence[int] | None, candidates: Tensor, after: Tensor, most: int
    ) -> tuple[Tensor, Tensor]:
        """The same of some rows alone, where the lane ``shares_rewards``; None is all."""
        (count, positions, k), after = candidates.shape, after.to(self.device)
        each = after.repeat_interleave(k, dim=1)
        of_last, rewards = self._of_tree(candidates.flatten(1), each, most + 1, rows)
        columns = (most - after).to(of_last.device)
        index = columns[..., None].expand(count, positions, of_last.shape[-1])
        return rewards.reshape(count, positions, k, -1), of_last.gather(1, index)

    def _of_texts(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """``(rows, k, labels)`` and ``(rows, labels)``: of candidates, and of the texts."""
        own = self._of_texts_alone()
        of_last, rewards = self._of_tree(candidates, 0, 1)
        return rewards, of_last[:, 0] if own is None else own

    def _of_texts_alone(self) -> Tensor | None:
        """The rewards of the texts, where a candidate makes one longer than its frequencies."""
        lengths, ends = self.rows.counts()
        if not any(self.rows.crosses(end, end + 1) for end in ends):
            return None
        self._make_room(0)
        for row, (length, end) in enumerate(zip(lengths, ends, strict=True)):
            if self.rows.crosses(length, end + 1):
                self.rows.shorten(row, 0)  # its keys may be those of a longer text
        self._catch_up(leave=1)
        positions = self.rows.last_positions(1)
        tokens = self.rows.tokens_at(positions)
        out = self._step(tokens, positions, positions, self.rows.longest, backbone=True)
        return self.head(out.last_hidden_state)[:, 0]

    @torch.no_grad()
    def rewards_of(
        self, asked: Sequence[tuple[Sequence[int], Tensor]]
    ) -> list[tuple[Tensor, Tensor | None]]:
        """``rewards`` of several parts of the rows, with candidates of each, in one forward.

        The lane ``shares_rewards``; rows of no part read nothing.
        """
        last = 0 if self._reads_all else 1
        outputs = self._of_rows([Asked(*each, last=last) for each in asked])
        return [(rewards, of_last[:, 0] if last else None) for of_last, rewards in outputs]

    def _of_rows(self, asked: Sequence[Asked]) -> list[tuple[Tensor, Tensor]]:
        """What ``_of_tree`` gives of each, in one ragged forward."""
        lengths, ends = self.rows.counts()
        self.ensure_capacity(
            max(ends[row] for each in asked for row in each.rows)
            + max(each.candidates.shape[1] for each in asked)
        )
        self._make_room(0)
        last = max(each.last for each in asked)
        if sum(map(int.__sub__, ends, lengths)) > self._chunk(1):
            self._catch_up(leave=last, ahead=1)
            lengths = self.rows.counts()[0]
        reads: dict[int, tuple[RaggedRow, Tensor]] = {}
        for rows, candidates, after, kept in asked:
            behind = torch.as_tensor(after).expand_as(candidates).tolist()
            for row, tokens, backs in zip(rows, candidates, behind, strict=True):
                start = max(0, min(lengths[row], ends[row] - kept))
                reads[row] = RaggedRow(row, start, ends[row], backs), tokens
        ordered = [reads[row] for row in sorted(reads)]
        every = torch.cat([tokens for _, tokens in ordered]).to(self.device)
        out = self._read_ragged([read for read, _ in ordered], every, backbone=True)
        self._mark_read({row: ends[row] for row in reads})
        rewards, first = self.head(out.last_hidden_state)[:, 0], dict[int, int]()
        total = 0
        for read, _ in ordered:  # where each row's candidates begin
            first[read.row] = total + read.end - read.start
            total += read.tokens
        outputs = []
        for each in asked:
            begin = torch.tensor([[first[row]] for row in each.rows])
            unread = [[ends[row] - reads[row][0].start] for row in each.rows]
            before = (begin + torch.arange(-each.last, 0)).maximum(begin - torch.tensor(unread))
            own = begin + torch.arange(each.candidates.shape[1])
            outputs.append((rewards[before], rewards[own]))
        return outputs

    def _of_tree(
        self,
        candidates: Tensor,
        after: Tensor | int,
        last: int,
        rows: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``(rows, last, labels)`` and ``(rows, n, labels)``, in one forward.

        Arguments are those of ``Asked``, of all rows if left out.
        """
        if self.shares_rewards:
            every = range(self.rows.count) if rows is None else rows
            return self._of_rows([Asked(every, candidates, after, last)])[0]
        n = candidates.shape[1]
        self.ensure_capacity(self.rows.longest + n)
        self._make_room(n)
        self._catch_up(leave=last, ahead=1)
        before = self.rows.last_positions(last)
        ends = self.rows.ends[: self.rows.width, None]
        at = (ends - after).clamp_(min=0).expand(-1, n)  # an idle row has no text to cut
        scratch = ends + torch.arange(n, device=self.device)
        tokens = torch.cat((self.rows.tokens_at(before), candidates.to(self.device)), dim=1)
        positions = torch.cat((before, at), dim=1)
        cache_positions = torch.cat((before, scratch), dim=1)
        end = self.rows.longest + n
        out = self._step(tokens, positions, cache_positions, end, backbone=True)
        if last:
            self.rows.mark_cached()
        rewards = self.head(out.last_hidden_state)
        return rewards[:, :last], rewards[:, last:]

    def _position_by_position(self, candidates: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """The same as ``rewards_along``, a position at a time: texts are cut, and restored."""
        texts, behind = self.rows.all_texts(), after.tolist()
        now = [len(text) for text in texts]

        def go_to(ends: list[int]) -> None:
            self.rows.rewrite({
                row: (min(now[row], end), texts[row][now[row] : end])
                for row, end in enumerate(ends)
            })  # fmt: skip
            now[:] = ends

        outputs = []
        for position in range(candidates.shape[1]):
            cut = zip(texts, behind, strict=False)  # idle rows have no text
            go_to([len(text) - row[position] for text, row in cut])
            outputs.append(self._of_texts(candidates[:, position]))
        go_to([len(text) for text in texts])
        self._make_room(0)
        self._catch_up(leave=0)
        rewards, own = zip(*outputs, strict=True)
        return torch.stack(rewards, dim=1), torch.stack(own, dim=1)

    @torch.no_grad()
    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """Move the chosen candidates' keys and values to their rows' ends.

        Args:
            choice: ``(rows,)`` indices into the candidates of the last ``rewards``.
            tokens: ``(rows,)`` the candidates themselves.
        """
        used = slice(self.rows.width)
        ends = self.rows.ends[used, None]
        source = ends + choice[:, None].to(self.device)
        self.blocks.move_tokens(source, ends)
        self.rows.feed(tokens)
        self.rows.mark_cached()

    @torch.no_grad()
    def keep_of(self, rows: Sequence[int], choice: Tensor, tokens: Tensor) -> None:
        """``keep`` of some rows alone, where the lane ``shares_rewards``."""
        index = torch.tensor(rows)
        places = self.rows.ends[index, None]
        self.blocks.cache.move_tokens(index[:, None], places + choice[:, None], places)
        self.rows.feed_rows(tokens, index, rows)
        ends = self.rows.counts()[1]
        self._mark_read({row: ends[row] for row in rows})

    def ensure_capacity(self, tokens: int) -> None:
        """Make room for so many tokens in every row; pages stay those that there are."""
        if tokens > self.rows.capacity:
            capacity = -(-max(tokens, self.rows.capacity * 5 // 4) // 32) * 32
            self.grow(capacity, tokens=0)

    @cached_property
    def head(self) -> Head:
        """The head of a reward model."""
        return Head(self.model)

    def plan_line(self, candidates: str) -> str:
        """How candidates are scored, for the plan."""
        return f"tree, {candidates} in one forward over the cached text"
