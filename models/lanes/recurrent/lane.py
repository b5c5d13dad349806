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

from ...cache.layers.states import has_states
from ...cache.window import Window
from ...combinations import chosen as added
from ...recordings import Work
from ..transformers_lane import TOLERANCE, TransformersLane
from .prompts import StatePromptLane

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


class RecurrentLane(StatePromptLane):
    """The same as a lane of transformers, where layers have states."""

    _ran = True  # whether what is said took a forward
    _of_last: Tensor  # rewards of the last candidates

    @property
    def ready(self) -> bool:
        return all(block.known.said for block in self.blocks.held) and not any(self._unread())

    @property
    def _row_bytes(self) -> int:
        """Of a row's states, what is said at the end of its text, and one token beyond."""
        rewards = self.model.get_output_embeddings() is None
        said = self.model.config.num_labels if rewards else self.width
        token_bytes, survey = self._survey
        return survey.state_bytes + torch.float32.itemsize * said + token_bytes

    @property
    def why_eager(self) -> str | None:
        if self.model.get_output_embeddings() is None:
            return "it copies states for candidates"
        return super().why_eager

    @torch.no_grad()
    def forward(self) -> bool:
        self._make_room(0)
        if self._read_at == self.rows.version:
            return self._ran
        if self.ready:
            return False
        if self.recordings is not None and self.rows.bucketed and {*self._unread()} == {1}:
            work = Work(
                self._read_one, lambda said: [said], [self.rows],
                lambda: self.blocks.cache.states, TOLERANCE.get(self.dtype, 1e-3),
            )  # fmt: skip
            self.recordings.run(self.graph_key(1), work)
            self.blocks.have_read()
            self._ran = True
        else:
            self._ran = bool(self._read_on(self._logits_of))
        self._read_at = self.rows.version
        return self._ran

    def logits(self) -> Tensor:
        self.forward()
        said = self._said
        if not self.rows.bucketed:
            return said.clone()  # the next forward writes there
        assert self.blocks.cache.said is not None
        self.kept_logits = self.blocks.cache.said
        return said

    @torch.no_grad()
    def logits_of_last(self, tokens: int) -> Tensor:
        """As the protocol's: from what a row has read and said, on; what is before that is 0."""
        self._make_room(0)
        self._forget_unsaid()
        self._catch_up(leave=tokens)
        unread, held = self._unread(), self.blocks.held
        rows = [row for row, left in enumerate(unread) if left < tokens and held[row].known.said]
        before = self._said[rows] if rows else None
        parts = self._read_on(self._logits_of, every_token=True)
        if len(parts) == 1 and {*unread} == {tokens}:
            return parts[0][1]
        out = self._said.new_zeros(len(self._said), tokens, self._said.shape[-1])
        if before is not None:
            out[rows, [tokens - 1 - unread[row] for row in rows]] = before
        for part, said in parts:
            index = torch.tensor(part.rows, device=out.device)[:, None]
            left = torch.tensor([unread[row] - part.done for row in part.rows], device=out.device)
            at = tokens - left[:, None] + torch.arange(part.tokens, device=out.device)
            out[index, at] = said[index[:, 0]].to(out.dtype)
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
        if not k:
            labels = self.model.config.num_labels
            return torch.zeros(width, 0, labels, device=self.device)
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
        said = self._of_last[self.rows.index[: len(chosen), 0], chosen]
        self.blocks.cache.say(said, slice(len(said)))
        super().keep(choice, tokens)
        self.blocks.has_read(every, every)

    def plan_line(self, candidates: str) -> str:
        return f"copies, {candidates} in one forward over the cached text, each with its states"

    def _make_room(self, ahead: int) -> None:
        self.blocks.extend(ahead)
        super()._make_room(ahead)

    def _catch_up(self, leave: int | None = None, ahead: int = 0) -> None:
        if self._limits:
            pairs = enumerate(zip(*self.rows.counts(), strict=True))
            for row in [row for row, (n, end) in pairs if self.rows.crosses(n, end + ahead)]:
                self.rows.shorten(row, 0)
            self.blocks.extend(0)
        for part in self._parts((0 if self._reads_all else 1) if leave is None else leave):
            self._read_part(part, backbone=True)
            self.blocks.has_read(part.rows)

    def _read_on(
        self, of: Callable[[Any], Tensor], every_token: bool = False
    ) -> list[tuple[_Part, Tensor]]:
        """Every row reads what it has not read; what is said at the end of its text is kept.

        Args:
            of: takes that from an output, ``(rows, q, columns)``.
            every_token: have it said at every token of every part, not at the ends alone.

        Returns:
            What was said, by the parts that were read.
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
            parts.append((part, said))
            last = said[:, -1].float()
            if len(part.ending) == self.rows.count:
                self.blocks.cache.say(last, slice(len(last)))
            elif part.ending:
                self.blocks.cache.say(last[list(part.ending)], list(part.ending))
            self.blocks.has_read(part.rows, part.ending)
        return parts

    @cached_property
    def _last(self) -> dict[str, int]:
        """What has a model say what follows the last token alone."""
        return {"logits_to_keep": 1} if self._says_logits else {}

    def _read_one(self) -> Tensor:
        """Every row reads its one token; what is said then is where it is kept."""
        rows = range(self.rows.count)
        said = self._logits_of(self._read_part(_Part(0, 1, rows, rows), backbone=False))[:, -1]
        self.blocks.cache.say(said.float(), slice(len(said)))
        return self._said

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
        same = self.exact_length and self.rows.same_length and {*self._unread()} == {1}
        self.blocks.reading()
        out = self._step(
            tokens, positions, positions, self.rows.longest, backbone=backbone,
            same_length=same and reads is None, reads=reads, **options,
        )  # fmt: skip
        self.rows.mark_read(part.tokens, part.rows, reads)
        return out

    def _parts(self, leave: int) -> Iterator[_Part]:
        """What the rows read until each has so many tokens left at most."""
        self._see_again(max(1, leave))
        left = [max(0, count - leave) for count in self._unread()]
        most, done = self._chunk(max(1, len(left))), 0
        if self._by_token:  # as prompts, in one forward, where nothing was read yet
            begun = self.rows.counts()[0]
            pairs = [*zip(begun, left, strict=True)]
            fresh = [0 if length else count for length, count in pairs]
            for end in sorted({*fresh} - {0}):
                rows = [row for row, count in enumerate(fresh) if count == end]
                yield _Part(0, end, rows, rows)
            left, most = [count if length else 0 for length, count in pairs], 1
        for end in sorted({*left} - {0}):
            rows = [row for row, count in enumerate(left) if count >= end]
            while done < end:
                now = min(most, end - done)
                ending = [row for row in rows if left[row] == done + now]
                yield _Part(done, now, rows, ending)
                done += now

    def _see_again(self, leave: int) -> None:
        """Read the prompts with images of rows that begin anew, all but ``leave`` tokens."""
        for row, (length, end) in enumerate(zip(*self.rows.counts(), strict=True)):
            combination = self.rows.combinations[row]
            if length or (images := combination.images) is None:
                continue
            count = min(len(images), end - leave)
            positions = torch.arange(count, device=self.device)[None]
            window = Window(positions, count, start=0)
            window = self.blocks.window(window, [self.blocks.held[row]])
            tokens = torch.tensor([images[:count]], device=self.device)
            lengths = self.rows.ends[row : row + 1]
            self.blocks.reading()
            self._forward(
                tokens, positions, window, added([combination], self.device), backbone=True,
                lengths=lengths, images=images,
            )  # fmt: skip
            read = torch.zeros(self.rows.width, dtype=torch.long)
            read[row] = 1
            self.rows.mark_read(count, [row], read.to(self.device))
            self.blocks.has_read([row])

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
    kind = RecurrentLane if has_states(model.config) else TransformersLane
    return kind(model, vocabulary, reads_all)
