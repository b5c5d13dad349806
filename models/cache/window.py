"""The window of a forward: where it writes, and which keys its queries see by a model's rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from .survey import Survey

RUN = 256  # tokens that cost as much as one more call of attention, about
Run: TypeAlias = tuple[slice, int]


class Segment(NamedTuple):
    """Tokens of a ragged forward that attend together, side by side.

    Attributes:
        tokens: which; as many of each row, row after row.
        rows: adjacent ones, and ``limit``, below which their tokens see cache positions.
    """

    tokens: slice
    rows: slice
    limit: int


@dataclass(eq=False)  # one is made for every forward: frozen, it would take four times as long
class Window:
    """Where one forward writes, and how much of the cache it may see.

    Attributes:
        cache_positions: ``(n, q)`` where in the cache each query's key and value are written.
        limit: the forward sees cache positions 0 up to ``limit``.
        rows: the rows of this forward, ``n`` adjacent ones.
        index: ``(n, 1)`` their numbers.
        starts: ``(n, q)`` for alternatives of several tokens, the position in the text at which
            each query's alternative begins.
        same_length: every row writes one token, at ``limit - 1``, and sees all before it.
        start: every row reads its tokens from this position up to ``limit``; None elsewhere.
        runs: rows of like lengths, adjacent ones, which attend together, and the limit of each run;
            none where all rows do.
        writes: ``(n, q)`` where keys and values are written, if not at ``cache_positions``: idle
            rows write behind all that is seen.
        tables: ``(n, most)`` int32, the pages of each row; None where rows are contiguous.
        places: of ``cache_positions``, ``(n, q)`` pages and ``(n, q)`` offsets in them.
        live: whether attention reads what is live by the positions on the device; ``limit`` is the
            cache's whole capacity then.
        reads: ``(n,)`` bool, the rows that read what they are given: of the others neither keys nor
            states change; None where all do.
        copies: of each row, if any: they read one token each, side by side, and leave the row's
            states as they are. Its queries are its copies.
        segments: of a ragged forward, whose rows read unlike numbers of tokens: to all but
            attention each token is a row, ``(tokens, 1)``, and ``index`` says of which text.
        images: whether a prompt with images is read, whose tokens may see others behind them.
        survey: notes what the model asks of attention, where someone wants to know.
    """

    cache_positions: Tensor
    limit: int
    rows: slice = field(default_factory=lambda: slice(0))
    index: Tensor = torch.empty(0, 1, dtype=torch.long)
    starts: Tensor | None = None
    same_length: bool = False
    start: int | None = None
    runs: Sequence[Run] = ()
    writes: Tensor | None = None
    tables: Tensor | None = None
    places: tuple[Tensor, Tensor] | None = None
    live: bool = False
    reads: Tensor | None = None
    copies: int = 0
    segments: Sequence[Segment] = ()
    images: bool = False
    survey: Survey | None = None

    def as_queries(self, of_copies: Tensor) -> Tensor:
        """``(n, heads, copies, size)`` of what is ``(n * copies, heads, 1, size)``."""
        n, heads, _, size = of_copies.shape
        return of_copies.reshape(n // self.copies, self.copies, heads, size).transpose(1, 2)


def visible(rule: Callable[..., Any], queries: Tensor, window: Window) -> Tensor:
    """``(n, 1, q, limit)``, True where a query sees a key.

    Args:
        rule: whether a query sees a key: of row, head, the query's position and the key's.
        queries: ``(n, q)`` positions in the text.
    """
    positions = queries[:, None, :, None]
    keys = torch.arange(window.limit, device=queries.device)[None, None, None]
    rows = torch.arange(len(queries), device=queries.device)[:, None, None, None]
    head, own = torch.zeros_like(rows[:1]), window.cache_positions[:, None, :, None]
    seen = rule(rows, head, positions, keys)
    if window.images:
        return seen  # type: ignore[no-any-return]
    if window.starts is None:
        return (seen & (keys < positions)) | (keys == own)  # type: ignore[no-any-return]
    starts = window.starts[:, None, :, None]
    branch = (keys <= own) & (keys >= own - (positions - starts))  # adjacent, up to itself
    branch = branch & rule(rows, head, positions, keys + positions - own)
    return (seen & (keys < starts)) | branch  # type: ignore[no-any-return]


def sliding_window(rule: Any) -> int | None:
    """The sliding window of a mask's rule, 0 where it is causal alone; None where it is neither."""
    if rule is causal_mask_function:
        return 0
    known = sliding_window_causal_mask_function(1)
    parts = _parts(rule, known)
    overlay, causal = _parts(known, known) or (None, None)
    if parts is None or len(parts) != 2 or parts[1] is not causal:
        return None
    window = getattr(parts[0], "__closure__", None)
    if window is None or parts[0].__code__ is not getattr(overlay, "__code__", None):
        return None
    size = window[0].cell_contents
    return size if isinstance(size, int) and size > 0 else None


def _parts(rule: Any, known: Any) -> tuple[Any, ...] | None:
    """The rules whose intersection a rule is, if transformers made it as it made ``known``."""
    if getattr(rule, "__code__", None) is not known.__code__:
        return None
    [cell] = rule.__closure__
    parts: tuple[Any, ...] = cell.cell_contents
    return parts


def runs_of_lengths(lengths: Sequence[int], most: Callable[[int], int]) -> list[Run]:
    """Adjacent rows of like lengths, and the limit of each run: what is cheapest to attend to.

    A run costs its rows times its longest, and ``RUN`` tokens for being one.

    Args:
        lengths: tokens of each row's text.
        most: the limit of a run, from the tokens of its longest text.
    """
    runs: list[tuple[int, int]] = []  # of rows, and the longest of each
    for length in lengths:
        if runs:
            count, longest = runs[-1]
            together = max(longest, length)
            if (count + 1) * together <= count * longest + length + RUN:
                runs[-1] = count + 1, together
                continue
        runs.append((1, length))
    starts = [0, *accumulate(count for count, _ in runs)]
    pairs = zip(starts, runs, strict=False)
    return [(slice(start, start + count), most(longest)) for start, (count, longest) in pairs]
