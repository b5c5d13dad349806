"""Rows: a dense pool in which each request holds one row per term.

Rows 0 to ``count`` are in use and nothing else is, so that a forward works on views and never on
copies. A row that leaves is replaced by the last one, once, when it leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

Join: TypeAlias = Callable[[], Sequence[int]]  # puts rows in use whose prompts have been read


class Rows:
    """Texts, lengths and adapters of the rows in use, on the device and on the host.

    A row's text has ``ends`` tokens, of which the first ``lengths`` are in the cache; what lies
    between waits to be read: one token, or more where the lane did not run for some steps.

    Args:
        rows: how many there is room for.
        capacity: tokens that each can hold.
        device: where the tensors are.
        waits: tokens at the end of a text that are left for the next step to read: 0 or 1.

    Attributes:
        texts: ``(rows, capacity)`` int64 token ids.
        lengths: ``(rows,)`` int64, tokens in each row's cache.
        ends: ``(rows,)`` int64, tokens in each row's text.
        adapters: ``(rows,)`` int64, 0 for the bare weights.
        index: ``(rows, 1)`` int64, the rows' own numbers.
        count: rows in use, and ``total``, the tokens of their texts together.
    """

    def __init__(self, rows: int, capacity: int, device: torch.device, waits: int = 1) -> None:
        self.capacity, self.device, self.waits = capacity, device, waits
        self.texts = torch.zeros(rows, capacity, dtype=torch.long, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.ends = torch.zeros(rows, dtype=torch.long, device=device)
        self.adapters = torch.zeros(rows, dtype=torch.long, device=device)
        self.index = torch.arange(rows, device=device)[:, None]
        self._lengths: list[int] = []
        self._ends: list[int] = []
        self._adapters: list[int] = []
        self.count = self.total = 0

    @property
    def longest(self) -> int:
        """Tokens of the longest text, known without asking the device."""
        return max(self._ends, default=0)

    @property
    def together(self) -> bool:
        """Whether all texts have one length."""
        return len(set(self._ends)) == 1

    @property
    def backlog(self) -> int:
        """The most tokens that any row must still read before its next step."""
        pairs = zip(self._ends, self._lengths, strict=True)
        return max((end - length for end, length in pairs), default=0) - self.waits

    @property
    def adapted(self) -> bool:
        """Whether any row in use has an adapter."""
        return any(self._adapters)

    def admit(
        self, texts: Sequence[Sequence[int]], cached: Sequence[int], adapters: Sequence[int]
    ) -> range:
        """Take new rows at the end of those in use.

        Args:
            texts: the token ids of each.
            cached: how many of them will be in the cache.
            adapters: for each, 0 or the number of an adapter.

        Returns:
            Their numbers.
        """
        first = self.count
        new = slice(first, first + len(texts))
        read = padded(texts)
        self.texts[new, : read.shape[1]] = read.to(self.device)
        self._lengths += cached
        self._ends += map(len, texts)
        self._adapters += adapters
        self._recount()
        self.lengths[new] = torch.tensor(cached, device=self.device)
        self.ends[new] = torch.tensor(self._ends[first:], device=self.device)
        self.adapters[new] = torch.tensor(adapters, device=self.device)
        return range(new.start, new.stop)

    def waiting(self, tokens: int) -> tuple[Tensor, Tensor]:
        """The next tokens that each row reads: ids and their places, ``(rows, tokens)`` each.

        Where a row has fewer waiting, its last token is repeated in its place.
        """
        ahead = torch.arange(tokens, device=self.device)
        last = self.ends[: self.count, None] - 1
        places = torch.minimum(self.lengths[: self.count, None] + ahead, last)
        return self.texts[: self.count].gather(1, places), places

    def ending(self, tokens: int) -> Tensor:
        """``(rows, tokens)`` places of the last tokens of each row's text; none is below 0."""
        back = torch.arange(-tokens, 0, device=self.device)
        return (self.ends[: self.count, None] + back).clamp_(min=0)

    def last(self) -> Tensor:
        """The last token of each row's text, ``(rows,)``."""
        return self.texts[: self.count].gather(1, self.ends[: self.count, None] - 1)[:, 0]

    def text(self, row: int) -> Tensor:
        """The tokens of a row's text."""
        return self.texts[row, : int(self.ends[row])]

    def feed(self, tokens: Tensor) -> None:
        """Add ``(rows,)`` tokens to the texts."""
        here = slice(self.count)
        self.texts[here].scatter_(1, self.ends[here, None], tokens.to(self.device)[:, None])
        self.ends[here] += 1
        for row in range(self.count):
            self._ends[row] += 1
        self.total += self.count

    def feed_some(self, tokens: Tensor, index: Tensor, rows: Sequence[int]) -> None:
        """Add a token to the texts of these rows, which the device has in ``index``."""
        self.texts[index, self.ends[index]] = tokens.to(self.device)
        self.ends[index] += 1
        for row in rows:
            self._ends[row] += 1
        self.total += len(rows)

    def cached(self, but: int) -> None:
        """All but the last ``but`` tokens of every text are in the cache now."""
        if but:
            self.lengths[: self.count] = (self.ends[: self.count] - but).clamp_(min=0)
        else:
            self.lengths.copy_(self.ends)
        self._lengths = [max(end - but, 0) for end in self._ends]

    def counts(self) -> tuple[list[int], list[int]]:
        """What the host knows of every row: tokens in the cache, and tokens of the text."""
        return [*self._lengths], [*self._ends]

    def restore(self, counts: tuple[list[int], list[int]]) -> None:
        """Go back to what the host knew."""
        self._lengths, self._ends = [*counts[0]], [*counts[1]]
        self._recount()

    def moved(self, counts: tuple[list[int], list[int]]) -> tuple[int, int | None]:
        """How far every row has moved since: tokens added, and tokens now left to read.

        The latter is None where nothing was read.
        """
        if not self._ends:
            return 0, None
        read = self._lengths != counts[0]
        return self._ends[0] - counts[1][0], self._ends[0] - self._lengths[0] if read else None

    def move(self, grown: int, left: int | None) -> None:
        """Count a step that the device has done by itself."""
        self._ends = [end + grown for end in self._ends]
        self._recount()
        if left is not None:
            self._lengths = [end - left for end in self._ends]

    def rewrite(self, texts: Mapping[int, tuple[int, Sequence[int]]]) -> None:
        """Make a row's text its own first tokens and then others, which wait to be read.

        Args:
            texts: for each row that is to change, how many tokens it keeps, and what follows.
        """
        for row, (kept, tail) in texts.items():
            end = kept + len(tail)
            if tail:
                self.texts[row, kept:end] = torch.tensor(tail, device=self.device)
            self._ends[row] = end
            self._lengths[row] = min(self._lengths[row], kept)
        self._recount()
        here = slice(self.count)
        self.ends[here] = torch.tensor(self._ends, device=self.device)
        self.lengths[here] = torch.tensor(self._lengths, device=self.device)

    def grow(self, capacity: int, rows: int = 0) -> None:
        """Give every row room for so many tokens, and have room for so many rows."""
        more = max(0, rows - len(self.texts))
        self.texts = pad(self.texts, (0, capacity - self.capacity, 0, more))
        self.lengths, self.ends = pad(self.lengths, (0, more)), pad(self.ends, (0, more))
        self.adapters = pad(self.adapters, (0, more))
        self.index = torch.arange(len(self.texts), device=self.device)[:, None]
        self.capacity = capacity

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Make each target row's text what its source's was."""
        for tensor in (self.texts, self.lengths, self.ends, self.adapters):
            tensor[list(targets)] = tensor[list(sources)]
        for values in (self._lengths, self._ends, self._adapters):
            copied = [values[source] for source in sources]
            for target, value in zip(targets, copied, strict=True):
                values[target] = value
        self._recount()

    def release(self, row: int) -> int:
        """Give a row up; the last row, whose number is returned, takes its place."""
        last = self.count - 1
        for tensor in (self.texts, self.lengths, self.ends, self.adapters):
            tensor[row] = tensor[last]
        for values in (self._lengths, self._ends, self._adapters):
            values[row] = values[last]
            values.pop()
        self._recount()
        return last

    def _recount(self) -> None:
        self.count, self.total = len(self._ends), sum(self._ends)


def padded(texts: Sequence[Sequence[int]]) -> Tensor:
    """``(n, longest)`` token ids, with zeros after the end of each."""
    longest = max(map(len, texts))
    return torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in texts], dtype=torch.long)
