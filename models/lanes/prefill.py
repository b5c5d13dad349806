"""Reading prompts: each text once, in chunks, into caches beyond the rows in use."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..cache.kv_cache import RowCache
from ..cache.live import LiveAttention
from ..cache.rows import Join, RowLane, padded
from ..cache.window import Window
from .prompt_logits import end_together, gives_logits, of_rows

Pair: TypeAlias = tuple[tuple[int, ...], int]  # a prompt and the number of its adapter
CHUNK = 2048  # prompt tokens of all rows in one forward
PADDING = 512  # tokens of padding in one forward; with more, there are two


class PrefillLane(RowLane):
    """A lane's way into its rows."""

    model: Any
    vocabulary: int
    live: LiveAttention
    _reads_all: bool
    _limits: Sequence[int]
    _cache: RowCache
    _admitting: bool

    def admit(
        self, prompts: Sequence[Sequence[int]], adapters: Sequence[int]
    ) -> Generator[int, None, Join]:
        """Read prompts of a token at least, each text once, into caches beyond the rows in use."""
        pairs = [(tuple(ids), adapter) for ids, adapter in zip(prompts, adapters, strict=True)]
        distinct = sorted(dict.fromkeys(pairs), key=lambda pair: -len(pair[0]))
        lengths = [len(ids) for ids, _ in distinct]
        groups, base = _length_groups(lengths), self.rows.count
        together = self._gives_logits and not base and end_together(lengths, groups)
        logits: list[Tensor] | None = [] if together else None
        self._admitting = True
        for group in groups:
            rows = slice(base + group.start, base + group.stop)
            yield from self._prefill(distinct[group.start : group.stop], rows, logits)
        return partial(self._join, pairs, distinct, base, logits)

    @cached_property
    def _gives_logits(self) -> bool:
        """Whether the forwards that read prompts can give what the first step needs."""
        return not self._reads_all and not self._limits and gives_logits(self.model)

    def _prefill(
        self, pairs: Sequence[Pair], rows: slice, logits: list[Tensor] | None
    ) -> Iterator[int]:
        """Read texts, the longest first.

        Args:
            logits: gets ``(texts, V)`` what follows them, which all have one length; where it is
                None, the next step reads their last tokens.
        """
        longest = len(pairs[0][0]) - (self.rows.pending if logits is None else 0)
        texts = padded([ids for ids, _ in pairs]).to(self.device)
        lengths = torch.tensor([len(ids) for ids, _ in pairs], device=self.device)
        numbers = [number for _, number in pairs]
        adapters = torch.tensor(numbers, device=self.device) if any(numbers) else None
        size = max(1, CHUNK // len(pairs))
        for start in range(0, longest, size):
            end = min(start + size, longest)
            chunk = texts[:, start:end]
            yield chunk.numel()
            positions = torch.arange(start, end, device=self.device).expand(chunk.shape)
            live = self.live.takes_chunks
            window = Window(rows, self.rows.index[rows], positions, end, start=start, live=live)
            if logits is None or end < longest:
                self._forward(chunk, positions, window, adapters, backbone=True, lengths=lengths)
            else:
                what = chunk, positions, window, adapters
                out = self._forward(*what, backbone=False, lengths=lengths, logits_to_keep=1)
                logits.append(out.logits[:, -1, : self.vocabulary].float())

    @torch.no_grad()
    def _join(
        self,
        pairs: Sequence[Pair],
        distinct: Sequence[Pair],
        base: int,
        logits: Sequence[Tensor] | None,
    ) -> list[int]:
        """Put rows in use that were prefilled from row ``base`` on; others may have left since.

        Args:
            logits: what follows the distinct texts, where it is known and nobody else has a row.
        """
        self._admitting = False
        first = self.rows.count
        kept = max(0, len(distinct) - (base - first))  # the rest moves to rows that were released
        if moved := range(base + kept, base + len(distinct)):
            free = range(first, first + len(moved))
            self._cache.copy_rows(moved, free, len(distinct[0][0]))
        ordered = [*distinct[kept:], *distinct[:kept]]
        texts, adapters = zip(*ordered, strict=True)
        unread = self.rows.pending if logits is None else 0
        new = self.rows.admit(texts, [len(ids) - unread for ids in texts], adapters)
        rows = self._repeated(pairs, dict(zip(ordered, new, strict=True)))
        if logits is not None:
            self.rows.next_logits = of_rows(logits, distinct, pairs, rows)
        return rows

    def _repeated(self, pairs: Sequence[Pair], read: Mapping[Pair, int]) -> list[int]:
        """A row for each prompt: the one that read it, then copies of that."""
        rows, repeats, unused = list[int](), list[Pair](), dict(read)
        for pair in pairs:
            if pair in unused:
                rows.append(unused.pop(pair))
            else:
                rows.append(self.rows.count + len(repeats))
                repeats.append(pair)
        if repeats:
            prompts, adapters = zip(*repeats, strict=True)
            targets = self.rows.admit(prompts, [len(ids) for ids in prompts], adapters)
            self.copy_rows([read[pair] for pair in repeats], targets)
        return rows

    def _forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        window: Window,
        adapters: Tensor | None,
        backbone: bool,
        lengths: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """One forward of a window's rows: with the head, or of the backbone alone."""
        raise NotImplementedError


def _length_groups(lengths: Sequence[int]) -> list[range]:
    """Falling lengths in groups, one forward each: a group has at most ``PADDING`` of padding."""
    groups, first, padding = [], 0, 0
    for i, length in enumerate(lengths):
        padding += lengths[first] - length
        if padding > PADDING:
            groups.append(range(first, i))
            first, padding = i, 0
    return [*groups, range(first, len(lengths))]
