"""Rows: a dense pool in which each request holds one row per term.

Rows 0 to ``count`` are in use, so that a forward works on views and never on copies. When a row is
released, the last row moves into its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..recordings import bucket

RUN = 256  # tokens that cost as much as one more call of attention, about
Run: TypeAlias = tuple[slice, int]
Join: TypeAlias = Callable[[], Sequence[int]]  # puts the rows of prefilled prompts in use
Item = TypeVar("Item")


class Rows:
    """Texts, lengths and adapters of the rows in use, on the device and on the host.

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

    Attributes:
        texts: ``(rows + 1, capacity)`` int64 token ids. The last row is always idle.
        lengths: ``(rows + 1,)`` int64, tokens in each row's cache.
        ends: ``(rows + 1,)`` int64, tokens in each row's text.
        adapters: ``(rows + 1,)`` int64, 0 for the bare weights.
        active: ``(rows + 1,)`` bool, whether a row is in use.
        index: ``(rows + 1, 1)`` int64, the rows' own numbers.
        most: how many rows there is room for.
        count: rows in use, and ``total``, the tokens of their texts together.
        width: rows of a forward: those in use, and the idle ones of their bucket.
        version: another after each change of a text, or of which rows are in use.
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
    ) -> None:
        self.capacity, self.device, self.pending = capacity, device, pending
        self.limits, self.most, self.bucketed = limits, rows, bucketed
        self.texts = torch.zeros(rows + 1, capacity, dtype=torch.long, device=device)
        self.lengths = torch.zeros(rows + 1, dtype=torch.long, device=device)
        self.ends = torch.ones(rows + 1, dtype=torch.long, device=device)
        self.adapters = torch.zeros(rows + 1, dtype=torch.long, device=device)
        self.active = torch.zeros(rows + 1, dtype=torch.bool, device=device)
        self.index = torch.arange(rows + 1, device=device)[:, None]
        self._lengths: list[int] = []  # the same three on the host
        self._ends: list[int] = []
        self._adapters: list[int] = []
        self.count = self.total = self.width = self.version = 0
        self.next_logits: Tensor | None = None

    def use_buckets(self, on: bool) -> None:
        """Let idle rows follow those in use, up to a bucket of them, or not."""
        self.bucketed = on
        self._changed()

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
        pairs = zip(self._ends, self._lengths, strict=True)
        return max((end - length for end, length in pairs), default=0) - self.pending

    @property
    def adapted(self) -> bool:
        """Whether any row in use has an adapter."""
        return any(self._adapters)

    def admit(
        self, texts: Sequence[Sequence[int]], cached: Sequence[int], adapters: Sequence[int]
    ) -> range:
        """The numbers of new rows, at the end of those in use.

        Args:
            texts: the token ids of each.
            cached: how many of its tokens are in the cache.
            adapters: for each, 0 or the number of an adapter.
        """
        first = self.count
        new = slice(first, first + len(texts))
        read = padded(texts)
        self.texts[new, : read.shape[1]] = read.to(self.device)
        self._lengths += cached
        self._ends += map(len, texts)
        self._adapters += adapters
        self._changed()
        self.lengths[new] = torch.tensor(cached, device=self.device)
        self.ends[new] = torch.tensor(self._ends[first:], device=self.device)
        self.adapters[new] = torch.tensor(adapters, device=self.device)
        self.active[new] = True
        return range(new.start, new.stop)

    def runs(self, most: Callable[[int], int]) -> list[Run]:
        """Adjacent rows of like lengths, and the limit of each run: what is cheapest to attend to.

        A run costs its rows times its longest, and ``RUN`` tokens for being one.

        Args:
            most: the limit of a run, from the tokens of its longest text.
        """
        runs: list[tuple[int, int]] = []  # of rows, and the longest of each
        for end in self._ends:
            if runs:
                count, longest = runs[-1]
                together = max(longest, end)
                if (count + 1) * together <= count * longest + end + RUN:
                    runs[-1] = count + 1, together
                    continue
            runs.append((1, end))
        starts = [0, *accumulate(count for count, _ in runs)]
        pairs = zip(starts, runs, strict=False)
        return [(slice(start, start + count), most(longest)) for start, (count, longest) in pairs]

    def unread(self, tokens: int) -> tuple[Tensor, Tensor]:
        """The next tokens that each row reads: ids and positions, ``(rows, tokens)`` each.

        Where a row has fewer, its last token is repeated at its position.
        """
        ahead = torch.arange(tokens, device=self.device)
        last = self.ends[: self.width, None] - 1
        positions = torch.minimum(self.lengths[: self.width, None] + ahead, last)
        return self.texts[: self.width].gather(1, positions), positions

    def writes(self, cache_positions: Tensor) -> Tensor:
        """``(width, q)`` where keys are written: those of idle rows behind all that is seen."""
        if not self.bucketed:
            return cache_positions
        return torch.where(self.active[: self.width, None], cache_positions, self.capacity)

    def last_positions(self, tokens: int) -> Tensor:
        """``(rows, tokens)`` positions of the last tokens of each row's text; none is below 0."""
        back = torch.arange(-tokens, 0, device=self.device)
        return (self.ends[: self.width, None] + back).clamp_(min=0)

    def last_tokens(self) -> Tensor:
        """The last token of each row's text, ``(rows,)``."""
        return self.texts[: self.width].gather(1, self.ends[: self.width, None] - 1)[:, 0]

    def text(self, row: int) -> Tensor:
        """The tokens of a row's text."""
        return self.texts[row, : int(self.ends[row])]

    def feed(self, tokens: Tensor) -> None:
        """Add ``(rows,)`` tokens to the texts."""
        used = slice(self.width)
        self.texts[used].scatter_(1, self.ends[used, None], tokens.to(self.device)[:, None])
        self.ends[used] += self.active[used] if self.bucketed else 1
        for row in range(self.count):
            self._ends[row] += 1
        self.total += self.count
        self.version += 1
        self.next_logits = None

    def feed_rows(self, tokens: Tensor, index: Tensor, rows: Sequence[int]) -> None:
        """Add a token to the texts of some rows: ``rows`` on the host, ``index`` on the device.

        The latter may have the last row in it, which is idle, any number of times.
        """
        self.texts[index, self.ends[index]] = tokens.to(self.device)
        self.ends.index_add_(0, index, self.active[index].long())
        self.fed(rows)

    def fed(self, rows: Sequence[int]) -> None:
        """Count a token more in the texts of these rows."""
        for row in rows:
            self._ends[row] += 1
        self._changed()

    def mark_cached(self, unread: int = 0) -> None:
        """All but the last ``unread`` tokens of every text are in the cache now."""
        if unread:
            used = slice(self.width)
            self.lengths[used] = (self.ends[used] - unread).clamp_(min=0)
        else:
            self.lengths.copy_(self.ends)
        self._lengths = [max(end - unread, 0) for end in self._ends]

    def crosses(self, start: int, end: int) -> bool:
        """Whether a text that grows from one length to the other gets other keys."""
        return any(start <= limit < end for limit in self.limits)

    def forget(self, rows: Sequence[int]) -> None:
        """Nothing of these rows' texts is in the cache any more."""
        self.version += bool(rows)
        for row in rows:
            self._lengths[row] = 0
        if rows:
            self.lengths[list(rows)] = 0

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
        self._lengths, self._ends, self._adapters = [], [], []
        self.lengths.zero_()
        self.ends.fill_(1)
        self.active.zero_()
        self._changed()

    def rewrite(self, texts: Mapping[int, tuple[int, Sequence[int]]]) -> None:
        """Replace the ends of texts; the new tokens are unread.

        Args:
            texts: for each row to change, how many tokens it keeps, and what follows them.
        """
        for row, (kept, new) in texts.items():
            end = kept + len(new)
            if new:
                self.texts[row, kept:end] = torch.tensor(new, device=self.device)
            self._ends[row] = end
            crossed = self.crosses(kept, self._lengths[row])
            self._lengths[row] = 0 if crossed else min(self._lengths[row], kept)
        self._changed()
        used = slice(self.count)
        self.ends[used] = torch.tensor(self._ends, device=self.device)
        self.lengths[used] = torch.tensor(self._lengths, device=self.device)

    def grow(self, capacity: int, rows: int = 0) -> None:
        """Make room for so many tokens in every row, and for so many rows."""
        more = max(0, rows - self.most)
        self.texts = pad(self.texts, (0, capacity - self.capacity, 0, more))
        self.lengths, self.ends = pad(self.lengths, (0, more)), pad(self.ends, (0, more), value=1)
        self.adapters = pad(self.adapters, (0, more))
        self.active = pad(self.active, (0, more))
        self.most += more
        self.index = torch.arange(len(self.texts), device=self.device)[:, None]
        self.capacity = capacity

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Make each target row's text what its source's was."""
        for tensor in (self.texts, self.lengths, self.ends, self.adapters):
            tensor[list(targets)] = tensor[list(sources)]
        for values in (self._lengths, self._ends, self._adapters):
            copy_items(values, sources, targets)
        self._changed()

    def release(self, row: int) -> int:
        """Give a row up; the last row, whose number is returned, takes its place."""
        last = self.count - 1
        for tensor in (self.texts, self.lengths, self.ends, self.adapters):
            tensor[row] = tensor[last]
        self.active[last], self.lengths[last], self.ends[last] = False, 0, 1
        for values in (self._lengths, self._ends, self._adapters):
            swap_remove(values, row)
        self._changed()
        return last

    def _changed(self) -> None:
        self.count, self.total = len(self._ends), sum(self._ends)
        self.width = bucket(self.count, self.most) if self.bucketed else self.count
        self.version += 1
        self.next_logits = None


class RowLane:
    """The rows of a lane, as ``lanes.protocols`` describes them: texts on one device."""

    device: torch.device
    rows: Rows
    keeps_logits = False
    memory = 0

    @property
    def ready(self) -> bool:
        return self.rows.next_logits is not None

    def reserve(self, rows: int, capacity: int) -> None:
        self.rows = Rows(rows, capacity, self.device)

    def grow(self, capacity: int, rows: int = 0) -> None:
        self.rows.grow(capacity, rows)

    def use_buckets(self, on: bool) -> None:
        """Run idle rows too, so that forwards have few sizes; where the lane can."""

    def release(self, row: int) -> int:
        return self.rows.release(row)

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        self.rows.copy(sources, targets)

    def feed(self, tokens: Tensor) -> None:
        self.rows.feed(tokens)


def swap_remove(items: list[Item], row: int) -> Item:
    """Remove a row's item from a list, whose last item moves into its place; the removed one."""
    removed, items[row] = items[row], items[-1]
    items.pop()
    return removed


def copy_items(items: list[Item], sources: Sequence[int], targets: Sequence[int]) -> None:
    """Make each target row's item what its source's was."""
    for target, item in zip(targets, [items[source] for source in sources], strict=True):
        items[target] = item


def padded(texts: Sequence[Sequence[int]]) -> Tensor:
    """``(n, longest)`` token ids, with zeros after the end of each."""
    longest = max(map(len, texts))
    return torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in texts], dtype=torch.long)
