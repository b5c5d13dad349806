"""Which keys each query sees: the model's own rule, at each row's own positions.

A model's code asks transformers for one mask per kind of attention layer that it has (full, sliding
window, chunked, ...) and passes the rule as a function of two positions. During a lane's forward,
the mask is that rule at the positions of the rows. Nothing here depends on the architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

from ..errors import ModelError
from .rows import Run


@dataclass(frozen=True)
class Window:
    """Where one forward writes, and how much of the cache it may see.

    Attributes:
        rows: the rows of this forward, ``n`` adjacent ones.
        index: ``(n, 1)`` their numbers.
        cache_positions: ``(n, q)`` where in the cache each query's key and value are written.
        limit: the forward sees cache positions 0 up to ``limit``.
        starts: ``(n, q)`` for alternatives of several tokens, the position in the text at which
            each query's alternative begins.
        same_length: every row writes one token, at ``limit - 1``, and sees all before it.
        start: every row reads its tokens from this position up to ``limit``; None elsewhere.
        runs: rows of like lengths, adjacent ones, which attend together, and the limit of each run;
            none where all rows do.
    """

    rows: slice
    index: Tensor
    cache_positions: Tensor
    limit: int
    starts: Tensor | None = None
    same_length: bool = False
    start: int | None = None
    runs: Sequence[Run] = ()


@dataclass
class _Forward:
    """The forward of a lane that is running.

    Attributes:
        positions: ``(n, q)`` of each query in its text.
        window: what it sees.
        mask_requested: whether the model has asked for a mask.
        open_mask: the mask that hides nothing, where one was made.
        causal_mask: the one that hides from each query what comes after it, where one was made.
        masks: those that the model was given, by their ids.
        folded: the same as ``folded`` makes them, by id and number of heads.
    """

    positions: Tensor
    window: Window
    mask_requested: bool = False
    open_mask: Tensor | None = None
    causal_mask: Tensor | None = None
    masks: dict[int, Tensor] = field(default_factory=dict)
    folded: dict[tuple[int, int], Tensor] = field(default_factory=dict)


_current: ContextVar[_Forward | None] = ContextVar("the forward of a lane", default=None)


def in_lane_forward() -> bool:
    """Whether the forward of a lane is running."""
    return _current.get() is not None


def hides_nothing(mask: Any) -> bool:
    """Whether this is the mask of this forward in which every query sees every key."""
    forward = _current.get()
    return forward is not None and mask is not None and mask is forward.open_mask


def causal_start(mask: Any) -> int | None:
    """Where the chunk begins whose queries see all before them by this mask; None elsewhere."""
    forward = _current.get()
    if forward is None or mask is None or mask is not forward.causal_mask:
        return None
    return forward.window.start


def runs_of(mask: Any) -> Sequence[Run]:
    """The runs of rows that attend together under this mask of the forward."""
    forward = _current.get()
    known = forward is not None and forward.masks.get(id(mask)) is mask
    return forward.window.runs if forward is not None and known else ()


def folded(mask: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """A mask for query heads folded into queries; made once for all layers that share it.

    Args:
        mask: ``(n, 1, q, L)``, bool or what is added.
        heads: query heads that share a key: they become rows of it.
        dtype: of the queries.

    Returns:
        ``(n, 1, heads * q, L)``, with minus infinity for what is hidden.
    """
    forward, key = _current.get(), (id(mask), heads)
    known = forward is not None and forward.masks.get(id(mask)) is mask
    masks = forward.folded if forward is not None and known else {}
    if key not in masks:
        n, _, q, length = mask.shape
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)
        rows = mask[:, :, None].expand(n, 1, heads, q, length)
        masks[key] = rows.reshape(n, 1, heads * q, length)
    return masks[key]


@contextmanager
def row_masks(positions: Tensor, window: Window) -> Iterator[None]:
    """In this context, a model's masks are those of rows that have lengths of their own.

    A query sees what is before its position, and its own key. Alternatives for one position have
    cache positions of their own; one of several tokens sees what is before its start, and its own
    tokens up to itself, at adjacent cache positions.

    Args:
        positions: ``(n, q)`` of each query in its text.
        window: where their keys are, and how many of the cache's the forward sees.

    Raises:
        ModelError: the model asked for no mask, so that it made one of its own.
    """
    forward = _Forward(positions, window)
    token = _current.set(forward)
    try:
        yield
    finally:
        _current.reset(token)
    if not forward.mask_requested:
        raise ModelError(
            "this model's code makes its masks by itself, and rows of different lengths cannot be",
            "use a model whose code in transformers asks masking_utils for its masks",
        )


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
    if window.starts is None:
        return (seen & (keys < positions)) | (keys == own)  # type: ignore[no-any-return]
    starts = window.starts[:, None, :, None]
    branch = (keys <= own) & (keys >= own - (positions - starts))  # adjacent, up to itself
    branch = branch & rule(rows, head, positions, keys + positions - own)
    return (seen & (keys < starts)) | branch  # type: ignore[no-any-return]


def _row_mask(original: Callable[..., Any], additive: bool) -> Callable[..., Any]:
    """A mask function for transformers: ours in the forward of a lane, else the original."""

    def mask(*args: Any, **settings: Any) -> Any:
        forward = _current.get()
        if forward is None:
            return original(*args, **settings)
        if "allow_is_bidirectional_skip" in settings:
            raise ModelError("this model reads both ways", "use a causal model")
        forward.mask_requested = True
        rule, window = settings["mask_function"], forward.window
        if window.same_length and rule is causal_mask_function:
            shape = (len(forward.positions), 1, 1, window.limit)
            sees = window.cache_positions.new_ones((), dtype=torch.bool).expand(shape)
            forward.open_mask = sees
        elif window.start is not None and rule is causal_mask_function:
            if forward.causal_mask is None:
                keys = torch.arange(window.limit, device=forward.positions.device)
                one = keys <= forward.positions[0, :, None]  # as in every row
                forward.causal_mask = one.expand(len(forward.positions), 1, *one.shape)
            sees = forward.causal_mask
        else:
            sees = visible(rule, forward.positions, window)
        forward.masks[id(sees)] = sees
        if not additive:
            return sees
        dtype = settings["dtype"]
        return torch.zeros_like(sees, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)

    return mask


for _name, _additive in (("sdpa", False), ("eager", True)):
    AttentionMaskInterface.register(
        _name, _row_mask(ALL_MASK_ATTENTION_FUNCTIONS[_name], _additive)
    )
