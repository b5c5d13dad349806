"""A lane over a model whose layers keep a state of each row: recurrent, convolutional or hybrid.

A state cannot be read by position: a token that is read twice counts twice, and so does padding.
So every row reads just its unread tokens, once, and what was said of its text is kept with it.
Rows that have more to read than others read on alone; of the others, nothing changes meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cache.blocks.states import StateBlocks
from ..cache.kv_cache import RowCache
from ..cache.layers.states import LayerKind, layer_kinds
from . import prefill
from .transformers_lane import TransformersLane

BEHIND = 16  # tokens that a row may have to read again after its saved states


class _Part(NamedTuple):
    """The next tokens of the rows that have so many left to read.

    Attributes:
        done: tokens of each of these rows that were read before, of those that it had left.
        tokens: how many each reads now.
        rows: their numbers, and ``ending``, those of them that have no more.
    """

    done: int
    tokens: int
    rows: Sequence[int]
    ending: Sequence[int]


class RecurrentLane(TransformersLane):
    """The same as its base, where layers have states."""

    blocks: StateBlocks
    page_size = 0
    shares_prefixes = False
    pads = False
    ready = False
    _gives_logits = False  # a prompt's last token is read by the first step, and not before

    @cached_property
    def _kinds(self) -> Sequence[LayerKind]:
        return layer_kinds(self.config)

    def _contiguous(self, rows: int, capacity: int) -> StateBlocks:
        return StateBlocks(self.rows, RowCache(rows, capacity, 1, self._kinds))

    @property
    def why_eager(self) -> str | None:
        if self.model.get_output_embeddings() is None:
            return "it copies states for candidates"
        return super().why_eager

    @torch.no_grad()
    def forward(self) -> bool:
        self._make_room(0)
        if self._read_at != self.rows.version:
            self._read_on(self._logits_of)
            self._read_at = self.rows.version
        return True

    def logits(self) -> Tensor:
        self.forward()
        said = self._said
        if not self.rows.bucketed:
            return said.clone()  # the next forward writes there
        self.kept_logits = self.blocks.cache.said
        return said

    @torch.no_grad()
    def logits_of_last(self, tokens: int) -> Tensor:
        """As the protocol's: of tokens that were unread, and of the last ones; the others are 0."""
        self._make_room(0)
        self._catch_up(leave=tokens)
        unread = self._unread()
        parts = self._read_on(self._logits_of, every_token=True)
        if len(parts) == 1 and {*unread} == {tokens}:
            return parts[0][1]
        out = self._said.new_zeros(len(self._said), tokens, self._said.shape[-1])
        out[:, -1] = self._said
        for part, said in parts:
            rows = torch.tensor(part.rows, device=out.device)[:, None]
            left = torch.tensor([unread[row] - part.done for row in part.rows], device=out.device)
            at = tokens - left[:, None] + torch.arange(part.tokens, device=out.device)
            out[rows, at] = said[rows[:, 0]].to(out.dtype)
        return out

    @torch.no_grad()
    def save(self) -> None:
        self._make_room(0)
        unread = self._unread()
        if len({*unread}) > 1 or max(unread, default=0) > BEHIND:
            self._catch_up()
        self.blocks.save()

    @torch.no_grad()
    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self._reads_all:
            return self._of_texts(candidates)
        self._make_room(candidates.shape[1])
        self._catch_up(leave=0, ahead=1)
        return self._of_copies(candidates), None

    @torch.no_grad()
    def rewards_along(self, candidates: Tensor, after: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """As the protocol's: a position at a time, from the states that were saved."""
        return self._position_by_position(candidates, after)

    def _of_texts(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        self._make_room(candidates.shape[1])
        self._read_on(self._rewards_of)
        own = self._said.clone()
        return self._of_copies(candidates), own

    def _of_copies(self, candidates: Tensor) -> Tensor:
        """``(rows, k, labels)``: each candidate is read by a copy of its row's states."""
        width, k = candidates.shape
        self.ensure_capacity(self.rows.longest + k)
        self._make_room(k)
        ends = self.rows.ends[: self.rows.width, None]
        places = ends + torch.arange(k, device=self.device)
        out = self._step(
            candidates.to(self.device), ends.expand(-1, k), places, self.rows.longest + k,
            backbone=True, copies=k, reads=self._active(),
        )  # fmt: skip
        self._of_last = self.head(out.last_hidden_state).view(width, k, -1)
        return self._of_last

    @torch.no_grad()
    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        chosen, every = choice.to(self.device), range(self.rows.count)
        self.blocks.reading()
        self.blocks.cache.choose(chosen)
        self.blocks.cache.say(self._of_last[self.rows.index[: len(chosen), 0], chosen])
        super().keep(choice, tokens)
        self.blocks.has_read(every, every)

    def _make_room(self, ahead: int) -> None:
        self.blocks.extend(ahead)
        super()._make_room(ahead)

    def _catch_up(self, leave: int | None = None, ahead: int = 0) -> None:
        if self._limits:
            pairs = enumerate(zip(*self.rows.counts(), strict=True))
            for row in [row for row, (n, end) in pairs if self.rows.crosses(n, end + ahead)]:
                self.rows.shorten(row, 0)
            self.blocks.extend(0)
        for part in self._parts(self.rows.pending if leave is None else leave):
            self._read_part(part, backbone=True)
            self.blocks.has_read(part.rows)

    def _read_on(
        self, of: Callable[[Any], Tensor], every_token: bool = False
    ) -> list[tuple[_Part, Tensor]]:
        """Every row reads what it has not read; what is said at the end of its text is kept.

        Args:
            of: takes that from an output, ``(rows, q, columns)``.
            every_token: give what is said at every token, by the parts that were read.
        """
        backbone, parts = of == self._rewards_of, []
        self._forget_unsaid()
        for part in self._parts(0):
            if not part.ending and not every_token:
                self._read_part(part, backbone=True)
                self.blocks.has_read(part.rows)
                continue
            out = self._read_part(part, backbone, **({} if every_token or backbone else self._last))
            said = of(out)
            if every_token:
                parts.append((part, said))
            everyone = len(part.ending) == self.rows.count
            self.blocks.cache.say(said[:, -1].float(), None if everyone else part.ending)
            self.blocks.has_read(part.rows, part.ending)
        return parts

    @cached_property
    def _last(self) -> dict[str, int]:
        """What has a model say what follows the last token alone."""
        return {"logits_to_keep": 1} if prefill.gives_logits(self.model) else {}

    def _logits_of(self, out: Any) -> Tensor:
        logits: Tensor = out.logits[..., : self.width]
        return logits

    def _rewards_of(self, out: Any) -> Tensor:
        return self.head(out.last_hidden_state)

    def _read_part(self, part: _Part, backbone: bool, **options: Any) -> Any:
        """A forward in which some rows read a part."""
        tokens, positions = self.rows.unread(part.tokens)
        reads = self._active()
        if len(part.rows) < self.rows.count:
            mask = torch.zeros(self.rows.width, dtype=torch.bool)
            mask[list(part.rows)] = True
            reads = mask.to(self.device)
        same = self.exact_length and part.tokens == 1 and self.rows.same_length
        self.blocks.reading()
        out = self._step(
            tokens, positions, positions, self.rows.longest, backbone=backbone,
            same_length=same and reads is None, reads=reads, **options,
        )  # fmt: skip
        self.rows.mark_read(part.tokens)
        return out

    def _parts(self, leave: int) -> Iterator[_Part]:
        """What the rows read until each has so many tokens left at most."""
        left = [max(0, count - leave) for count in self._unread()]
        most, done = max(1, prefill.CHUNK // max(1, len(left))), 0
        for end in sorted({*left} - {0}):
            rows = [row for row, count in enumerate(left) if count >= end]
            while done < end:
                now = min(most, end - done)
                ending = [row for row in rows if left[row] == done + now]
                yield _Part(done, now, rows, ending)
                done += now

    def _unread(self) -> list[int]:
        """Tokens that each row has not read."""
        return [end - length for length, end in zip(*self.rows.counts(), strict=True)]

    def _forget_unsaid(self) -> None:
        """Rows that have read all, and of which it is not known what is said then, read again."""
        pairs = zip(self.blocks.held, self._unread(), strict=True)
        for row, (block, unread) in enumerate(pairs):
            if not unread and not block.known.said:
                self.rows.shorten(row, self.rows.counts()[0][row] - 1)
        self.blocks.extend(0)

    def _active(self) -> Tensor | None:
        """The rows in use, where idle ones come with them."""
        return self.rows.active[: self.rows.width] > 0 if self.rows.bucketed else None

    @property
    def _said(self) -> Tensor:
        """``(rows, columns)`` what is said at the end of each text."""
        said = self.blocks.cache.said
        assert said is not None
        return said[: self.rows.width]


def token_lane(model: Any, vocabulary: int, reads_all: bool) -> TransformersLane:
    """A lane over a transformers model, by what its layers keep; arguments are the lane's."""
    kind = RecurrentLane if layer_kinds(model.config.get_text_config()) else TransformersLane
    return kind(model, vocabulary, reads_all)
