"""Ragged forwards: rows that read unlike numbers of tokens, and some that read none.

To all but attention each token is a row of its own, so that nothing is padded: what prompts have
left to read is read in the forward of those that decode, and candidates are scored beside rows that
have none. It is for a CPU, whose rows lie side by side; elsewhere recordings need few sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from itertools import chain, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..cache.kv_cache import rounded
from ..cache.survey import Survey
from ..cache.window import Segment, Window, runs_of_lengths
from ..combinations import Chosen, parts_of
from ..heads.layer_heads import LayerHeads
from .prefill import PrefillLane


class RaggedRow(NamedTuple):
    """What one row reads in a ragged forward.

    Attributes:
        row: its number.
        start, end: positions of its text that it reads.
        after: of each candidate to follow the text, as if it were alone: how many tokens of the
            text it does not see.
    """

    row: int
    start: int
    end: int
    after: Sequence[int] = ()

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.end - self.start + len(self.after)


class RaggedLane(PrefillLane):
    """A lane whose forwards may be ragged."""

    _rules: Sequence[Any]  # of what changes with the length of a text
    heads: LayerHeads
    exact_length: bool

    @property
    def _survey(self) -> tuple[int, Survey]:
        """Bytes of a token, and what the model asks of attention."""
        raise NotImplementedError

    @property
    def shares_rewards(self) -> bool:
        """Whether one forward may score candidates of some rows, as many of each as there are."""
        return self.is_ragged and not self.is_paged

    @property
    def is_ragged(self) -> bool:
        """Whether forwards may be ragged now."""
        return self._may_be_ragged and not self.rows.pages and not self.rows.bucketed

    @cached_property
    def _may_be_ragged(self) -> bool:
        survey = self._survey[1]
        known = bool(survey.shapes) and survey.why_masked() is None
        return known and self.device.type == "cpu" and not self._rules

    def _read_ragged(
        self, reads: Sequence[RaggedRow], candidates: Tensor | None = None, **options: Any
    ) -> Any:
        """One forward of some rows, in the order of their numbers.

        Args:
            reads: what each reads.
            candidates: those of all rows, row after row.
            options: of the forward.
        """
        rows = self.rows
        if rows.stale:
            rows.flush()
        owners, positions, cache_positions = _queries(reads)
        index, at = torch.tensor(owners), torch.tensor(positions)
        tokens = rows.texts[rows.places[index], at.clamp(max=rows.capacity - 1)]
        where = at
        if candidates is not None:
            where = torch.tensor(cache_positions)
            tokens[where >= rows.ends[index]] = candidates
        segments = _segments(reads, rows.capacity)
        window = Window(
            where[:, None], max(each.limit for each in segments),
            slice(0, reads[-1].row + 1), index[:, None], segments=segments,
        )  # fmt: skip
        parts = parts_of([rows.combinations[each.row] for each in reads])
        slots = rows.adapters[index]
        chosen = Chosen(slots, parts) if parts else None
        what = tokens[:, None], at[:, None], window, chosen
        out = self._forward(*what, slots=slots, **options)
        self._keep_read(reads)
        return out

    def _read_unread(self) -> Tensor:
        """``(rows, V)`` logits after all that rows have unread."""
        if self.is_ragged and self.rows.backlog > 0:
            pairs = enumerate(zip(*self.rows.counts(), strict=True))
            reads = [RaggedRow(row, min(length, end - 1), end) for row, (length, end) in pairs]
            if sum(each.tokens for each in reads) <= self._chunk(1):
                return self._read_to_ends(reads)
        self._catch_up()
        tokens, positions = self.rows.unread(1)
        same = self.exact_length and self.rows.same_length
        out = self._step(tokens, positions, positions, self.rows.longest, same_length=same)
        self.rows.mark_cached()
        return out.logits[:, -1, : self.width].float()  # type: ignore[no-any-return]

    def _read_to_ends(self, reads: Sequence[RaggedRow]) -> Tensor:
        """The same, where all rows read what is unread in one ragged forward."""
        last = torch.tensor([each.tokens for each in reads]).cumsum(0) - 1
        narrow = head_of(self.model, last) if not self.heads.width else nullcontext()
        with narrow:
            logits: Tensor = self._read_ragged(reads, backbone=False).logits[:, -1, : self.width]
        self.rows.mark_cached()
        return (logits if len(logits) == len(last) else logits[last]).float()

    def _step(self, *what: Any, **settings: Any) -> Any:
        """A forward of all rows in use."""
        raise NotImplementedError

    def _catch_up(self, leave: int | None = None, ahead: int = 0) -> None:
        """Read tokens that came while the lane did not run, all but ``leave``."""
        raise NotImplementedError

    def _catch_up_ragged(self, left: int) -> None:
        """Read what texts have unread, but for so many tokens at the end of each."""
        while self.is_ragged and (reads := self._unread_parts(left)):
            self._read_ragged(reads, backbone=True)
            self._mark_read({each.row: each.end for each in reads})

    def _unread_parts(self, left: int) -> list[RaggedRow]:
        """What rows read next, of all that they have unread but for so many tokens."""
        reads, room = list[RaggedRow](), self._chunk(1)
        for row, (length, end) in enumerate(zip(*self.rows.counts(), strict=True)):
            until = min(end - left, length + room)
            if until > length:
                reads.append(RaggedRow(row, length, until))
                room -= until - length
        return reads

    def _mark_read(self, ends: Mapping[int, int]) -> None:
        """The texts of these rows are in the cache up to here, if they were not before."""
        lengths = self.rows.counts()[0]
        more = {row: end - lengths[row] for row, end in ends.items() if end > lengths[row]}
        for tokens in {*more.values()}:
            rows = [row for row, own in more.items() if own == tokens]
            mask = torch.zeros(self.rows.width, dtype=torch.bool)
            mask[rows] = True
            self.rows.mark_read(tokens, rows, mask)

    def _keep_read(self, reads: Sequence[RaggedRow]) -> None:
        """Let others share prompts that have been read to their ends."""
        if not self._unkept:
            return
        lengths = {id(block): length for block, length in self._unkept}
        for row, _, end, _ in reads:
            block = self.blocks.held[row]
            if 0 < lengths.get(id(block), 0) <= end:
                text = self.rows.text(row)[: lengths.pop(id(block))]
                self.blocks.keep(block, text.tolist())
        held = lengths.keys() & {id(block) for block in self.blocks.held}
        self._unkept = [each for each in self._unkept if id(each[0]) in held]


def _queries(reads: Sequence[RaggedRow]) -> tuple[list[int], list[int], list[int]]:
    """Of all tokens: their rows, their positions in the text, and in the cache."""
    owners, positions, places = list[int](), list[int](), list[int]()
    for row, start, end, after in reads:
        owners += [row] * (end - start + len(after))
        positions += chain(range(start, end), (max(0, end - back) for back in after))
        places += range(start, end + len(after))
    return owners, positions, places


def _segments(reads: Sequence[RaggedRow], capacity: int) -> list[Segment]:
    """Adjacent rows that read as many tokens each, and are of like lengths, together."""
    segments, first = list[Segment](), 0
    pairs = enumerate(reads)
    for (_, size), same in groupby(pairs, lambda pair: (pair[1].row - pair[0], pair[1].tokens)):
        own = [read for _, read in same]
        lengths = [read.end + len(read.after) for read in own]
        for part, limit in runs_of_lengths(lengths, lambda longest: rounded(longest, capacity)):
            rows = slice(own[0].row + part.start, own[0].row + part.stop)
            after = first + size * (part.stop - part.start)
            segments.append(Segment(slice(first, after), rows, limit))
            first = after
    return segments


@contextmanager
def head_of(model: nn.Module, rows: Tensor) -> Iterator[None]:
    """In this context, a model's head reads some rows alone, ``(n,)`` numbers."""
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(lambda _, args: (args[0][rows], *args[1:]))
    try:
        yield
    finally:
        handle.remove()
