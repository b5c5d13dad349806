"""Rows: a dense pool in which each request holds one row per term.

Rows 0 to ``count`` are in use, so that a forward works on views and never on copies. When a row is
released, the last row gets its number. What the host knows of rows it writes here, and one copy
brings it to the device before the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..combinations import Chosen, Combination, parts_of
from ..recordings import bucket
from ..upload import Changes, Mirror, upload
from .row_items import Growing, copy_items, swap_remove

Join: TypeAlias = Callable[[], Sequence[int]]  # puts the rows of prefilled prompts in use


class Rows:
    """Texts, lengths and combinations of the rows in use, on the device and on the host.

    A row's text has ``ends`` tokens, of which the first ``lengths`` are in the cache. The tokens
    between are unread: one, or more where the lane did not run for some steps.

    Args:
        rows: how many there is room for.
        capacity: tokens that each can hold.
        device: where the tensors are.
        pending: tokens at the end of a text that the next step reads: 0 or 1.
        limits: lengths beyond which a text's keys are others, those of its first tokens too.
        bucketed: whether forwards run a bucket of rows, as recordings need it: idle rows follow
            those in use. An idle row has a text of one token, which never grows.
        pages: that a row has at most; 0 where its keys lie side by side.

    Attributes:
        texts: ``(rows + 1, capacity)`` int64 token ids. A text stays where it is while rows change
            their numbers; ``places``, ``(rows + 1,)`` int64, says where that is.
        lengths: ``(rows + 1,)`` int64, tokens in each row's cache. The last row is always idle.
        ends: ``(rows + 1,)`` int64, tokens in each row's text.
        adapters: ``(rows + 1,)`` int64, the slots of their combinations, 0 for the bare weights.
        active: ``(rows + 1,)`` int64, 1 where a row is in use.
        tables: ``(rows + 1, pages)`` int32, the pages that each row's keys and values are in, one
            after the other; the scratch page of nobody where it has none.
        index: ``(rows + 1, 1)`` int64, the rows' own numbers.
        most: how many rows there is room for.
        combinations: of the rows in use, and ``parts``, what any of them has.
        count: rows in use, and ``total``, the tokens of their texts together.
        width: rows of a forward: those in use, and the idle ones of their bucket.
        version: another after each change of a text, or of which rows are in use.
        stale: whether the host has written what the device does not have yet.
        next_logits: ``(count, V)`` float32, what follows every text, where reading the prompts gave
            it; None again as soon as a text or a row changes.
    """

    def __init__(
        self,
        rows: int,
        capacity: int,
        device: torch.device,
        pending: int = 1,
        limits: Sequence[int] = (),
        bucketed: bool = False,
        pages: int = 0,
    ) -> None:
        self.device, self.pending, self.limits, self.bucketed = device, pending, limits, bucketed
        self._lengths: list[int] = []  # what the host counts, and knows, of the rows in use
        self._ends: list[int] = []
        self.combinations: list[Any] = []  # ``Combination``
        self.parts = 0
        self._places: list[int] = []
        self.count = self.total = self.width = self.version = 0
        self.next_logits: Tensor | None = None
        self._unsent: dict[int, tuple[Tensor, Tensor]] = {}  # tokens for the device, by place
        self.texts = torch.zeros(rows + 1, capacity, dtype=torch.long, device=device)
        self._reserve(rows, capacity, pages)

    def _reserve(self, rows: int, capacity: int, pages: int) -> None:
        """Room for what is known of so many rows, all of them idle."""
        self.most, self.capacity, self.pages = rows, capacity, pages
        fields = ((5, rows + 1), torch.long), ((rows + 1, pages), torch.int32)
        self._mirror = Mirror(self.device, numbers=fields[0], tables=fields[1])
        numbers, self.tables = self._mirror.device.numbers, self._mirror.device.tables
        self.lengths, self.ends, self.adapters, self.active, self.places = numbers.unbind(0)
        self._idle = torch.tensor([0, 1, 0, 0, rows])  # what the five are of an idle row
        self._mirror.host.numbers[:] = self._idle[:, None]
        self.stale = True
        self.index = torch.arange(rows + 1, device=self.device)[:, None]

    def use_buckets(self, on: bool) -> None:
        """Let idle rows follow those in use, up to a bucket of them, or not."""
        self.bucketed = on
        self._changed()

    def changes(self) -> Changes:
        """What the device does not have yet of what the host has written; taken for done."""
        if not self.stale:
            return []
        self._write_counts()
        unsent, self._unsent = self._unsent, {}
        self.stale, self._mirror.stale = False, True
        return [*self._mirror.changes(), *unsent.values()]

    def flush(self) -> None:
        """Copy them, where nobody has collected them before."""
        if self.stale:
            upload(self.changes())

    @property
    def changing(self) -> list[Tensor]:
        """What a step changes on the device."""
        return [self.texts, self.lengths, self.ends]

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(self._ends, default=0)

    @property
    def same_length(self) -> bool:
        """Whether all texts have one length."""
        return len(set(self._ends)) == 1

    @property
    def backlog(self) -> int:
        """The most tokens that any row must still read before its next step."""
        return max(map(int.__sub__, self._ends, self._lengths), default=0) - self.pending

    @property
    def chosen(self) -> Chosen | None:
        """What the rows of a forward add to its weights; None where all are bare."""
        added = self.adapters[: self.width], self.parts
        return Chosen(*added, None if self.bucketed else self.combinations) if self.parts else None

    def admit(
        self, texts: Sequence[Sequence[int]], cached: Sequence[int], added: Sequence[Combination]
    ) -> range:
        """The numbers of new rows, at the end of those in use.

        Args:
            texts: the token ids of each.
            cached: how many of its tokens are in the cache.
            added: what each adds to its weights.
        """
        first, ends = self.count, [len(text) for text in texts]
        taken = set(self._places)
        free = (place for place in range(self.most) if place not in taken)
        places = [place for place, _ in zip(free, texts, strict=False)]
        for place, text in zip(places, texts, strict=True):
            self._write_text(place, 0, text)
        new = slice(first, first + len(texts))
        numbers = [[*cached], ends, [each.slot for each in added], [1] * len(texts), places]
        self._mirror.host.numbers[:, new] = torch.tensor(numbers)
        self._lengths += cached
        self._ends += ends
        self.combinations += added
        self._places += places
        self._written()
        return range(new.start, new.stop)

    def set_pages(self, row: int, pages: Sequence[int]) -> None:
        """Say which pages a row's keys and values are in."""
        table = self._mirror.host.tables[row]
        table[: len(pages)] = torch.tensor(pages, dtype=torch.int32)
        table[len(pages) :] = 0
        self.stale = True

    def unread(self, tokens: int) -> tuple[Tensor, Tensor]:
        """The next tokens that each row reads: ids and positions, ``(rows, tokens)`` each.

        Where a row has fewer, its last token is repeated at its position.
        """
        if self.stale:
            self.flush()
        first, last = self.lengths[: self.width, None], self.ends[: self.width, None] - 1
        if tokens > 1:
            first = first + torch.arange(tokens, device=self.device)
        positions = torch.minimum(first, last)
        return self.tokens_at(positions), positions

    def tokens_at(self, positions: Tensor) -> Tensor:
        """``(rows, n)`` tokens of the texts at positions of each."""
        tokens: Tensor = self.texts[self.places[: self.width, None], positions]
        return tokens

    def writes(self, cache_positions: Tensor) -> Tensor:
        """``(width, q)`` where keys are written: those of idle rows behind all that is seen."""
        if not self.bucketed:
            return cache_positions
        return torch.where(self.active[: self.width, None] > 0, cache_positions, self.capacity)

    def last_positions(self, tokens: int) -> Tensor:
        """``(rows, tokens)`` positions of the last tokens of each row's text; none is below 0."""
        if self.stale:
            self.flush()
        back = torch.arange(-tokens, 0, device=self.device)
        positions: Tensor = self.ends[: self.width, None] + back
        return positions.clamp_(min=0)

    def last_tokens(self) -> Tensor:
        """The last token of each row's text, ``(rows,)``."""
        if self.stale:
            self.flush()
        used = slice(self.width)
        return self.texts[self.places[used], self.ends[used] - 1]

    def text(self, row: int) -> Tensor:
        """The tokens of a row's text."""
        self.flush()
        return self.texts[self._places[row], : self._ends[row]]

    def all_texts(self) -> list[list[int]]:
        """The tokens of every text, on the host."""
        self.flush()
        texts = self.texts[self.places[: self.count]].tolist()
        return [text[:end] for text, end in zip(texts, self._ends, strict=True)]

    def feed(self, tokens: Tensor, growing: Growing | None = None) -> None:
        """Add ``(rows,)`` tokens to the texts, or to those that are ``growing``."""
        if growing is not None:
            return self.feed_rows(tokens, self.index[: self.width, 0], *growing)
        if self.stale:
            self.flush()
        used = slice(self.width)
        self.texts[self.places[used], self.ends[used]] = tokens.to(self.device)
        self.ends[used].add_(self.active[used] if self.bucketed else 1)
        for row in range(self.count):
            self._ends[row] += 1
        self.total += self.count
        self.version += 1
        self.next_logits = None

    def feed_rows(
        self, tokens: Tensor, index: Tensor, rows: Sequence[int], mask: Tensor | None = None
    ) -> None:
        """Add a token to the texts of some rows: ``rows`` on the host, ``index`` on the device.

        The latter may have the idle last row in it any number of times, and rows that stay as they
        are: where the ``mask`` is false.
        """
        if self.stale:
            self.flush()
        self.texts[self.places[index], self.ends[index]] = tokens.to(self.device)
        more = self.active[index] if mask is None else self.active[index] * mask.to(self.device)
        self.ends.index_add_(0, index, more)
        self.fed(rows)

    def fed(self, rows: Sequence[int]) -> None:
        """Count a token more in the texts of these rows."""
        for row in rows:
            self._ends[row] += 1
        self._changed()

    def mark_cached(self, unread: int = 0) -> None:
        """All but the last ``unread`` tokens of every text are in the cache now."""
        if unread:
            self.lengths[: self.width] = (self.ends[: self.width] - unread).clamp_(min=0)
        else:
            self.lengths.copy_(self.ends)
        self._lengths = [max(end - unread, 0) for end in self._ends]

    def mark_read(self, tokens: int, rows: Sequence[int], mask: Tensor | None = None) -> None:
        """So many tokens more of some texts are in the cache: ``rows`` on the host, or all."""
        self.lengths[: self.width] += tokens if mask is None else mask * tokens
        for row in rows:
            self._lengths[row] += tokens

    def crosses(self, start: int, end: int) -> bool:
        """Whether a text that grows from one length to the other gets other keys."""
        return any(start <= limit < end for limit in self.limits)

    def shorten(self, row: int, length: int) -> None:
        """Only so many tokens of a row's text are in the cache, at most."""
        if self._lengths[row] > length:
            self._lengths[row] = length
            self.version += 1
            self._write_counts()

    def counts(self) -> tuple[list[int], list[int]]:
        """Of every row, from the host: tokens in the cache, and tokens of the text."""
        return [*self._lengths], [*self._ends]

    def mark(self) -> tuple[list[int], list[int], int]:
        """What the host knows of the texts, for ``rewind`` and ``progress``."""
        return [*self._lengths], [*self._ends], self.version

    def rewind(self, mark: tuple[list[int], list[int], int]) -> None:
        """Go back to that."""
        self._lengths, self._ends = [*mark[0]], [*mark[1]]
        self._changed()
        self.version = mark[2]

    def progress(self, mark: tuple[list[int], list[int], int]) -> tuple[int, int | None]:
        """What a step did to every row since then: tokens added, and tokens left unread.

        The latter is None where nothing was read.
        """
        if not self._ends:
            return 0, None
        read = self._lengths != mark[0]
        return self._ends[0] - mark[1][0], self._ends[0] - self._lengths[0] if read else None

    def advance(self, progress: tuple[int, int | None]) -> None:
        """Do the same again, after a step that was replayed on the device."""
        added, unread = progress
        if added:
            self._ends = [end + added for end in self._ends]
            self._changed()
        if unread is not None:
            self._lengths = [end - unread for end in self._ends]

    def clear(self) -> None:
        """Make every row idle, over the same memory."""
        self._lengths, self._ends, self.combinations, self._places = [], [], [], []
        self._unsent = {}
        self._mirror.host.numbers[:] = self._idle[:, None]
        self._mirror.host.tables.zero_()
        self._written()

    def rewrite(self, texts: Mapping[int, tuple[int, Sequence[int]]]) -> None:
        """Replace the ends of texts; the new tokens are unread.

        Args:
            texts: for each row to change, how many tokens it keeps, and what follows them.
        """
        for row, (kept, new) in texts.items():
            self._write_text(self._places[row], kept, new)
            self._ends[row] = kept + len(new)
            # What was read at a limit may have the keys of a longer text.
            crossed = self.crosses(kept, self._lengths[row] + 1)
            self._lengths[row] = 0 if crossed else min(self._lengths[row], kept)
        self._write_counts()
        self._changed()

    def grow(self, capacity: int, rows: int = 0, pages: int = 0) -> None:
        """Make room for so many tokens and pages in every row, and for so many rows."""
        self.flush()
        old, kept = self._mirror.host, slice(self.count)
        more = max(0, rows - self.most)
        self.texts = pad(self.texts, (0, max(0, capacity - self.capacity), 0, more))
        self._reserve(self.most + more, max(capacity, self.capacity), max(pages, self.pages))
        self._mirror.host.numbers[:, kept] = old.numbers[:, kept]
        self._mirror.host.tables[kept, : old.tables.shape[1]] = old.tables[kept]
        self._write_counts()

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Make each target row's text what its source's was."""
        self.flush()
        places = [[self._places[row] for row in rows] for rows in (targets, sources)]
        self.texts[places[0]] = self.texts[places[1]]
        self._mirror.host.numbers[:3, list(targets)] = self._mirror.host.numbers[:3, list(sources)]
        for values in (self._lengths, self._ends, self.combinations):
            copy_items(values, sources, targets)
        self._write_counts()
        self._written()

    def release(self, row: int) -> int:
        """Give a row up; the last row, whose number is returned, becomes this one."""
        last, host = self.count - 1, self._mirror.host
        host.numbers[:, row] = host.numbers[:, last]
        host.numbers[:, last] = self._idle
        if self.pages:
            host.tables[row] = host.tables[last]
            host.tables[last] = 0
        for values in (self._lengths, self._ends, self.combinations, self._places):
            swap_remove(values, row)
        self._written()
        return last

    def _write_text(self, place: int, start: int, tokens: Sequence[int]) -> None:
        if place in self._unsent:
            self.flush()
        if tokens:
            target = self.texts[place, start : start + len(tokens)]
            if Mirror.on_host(self.device):
                target.copy_(torch.tensor(tokens))
            else:
                self._unsent[place], self.stale = (target, torch.tensor(tokens)), True

    def _write_counts(self) -> None:
        """Write what the host counts; a step moves it on the device."""
        used = slice(len(self._ends))
        self._mirror.host.numbers[:2, used] = torch.tensor([self._lengths, self._ends])
        self.stale = True

    def _written(self) -> None:
        self.stale, self.parts = True, parts_of(self.combinations)
        self._changed()

    def _changed(self) -> None:
        self.count, self.total = len(self._ends), sum(self._ends)
        self.width = bucket(self.count, self.most) if self.bucketed else self.count
        self.version += 1
        self.next_logits = None
