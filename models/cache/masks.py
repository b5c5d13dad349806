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
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

from ..errors import ModelError
from .survey import Survey
from .window import Run, Window, sliding_window, visible


@dataclass
class _Forward:
    """The forward of a lane that is running.

    Attributes:
        positions: ``(n, q)`` of each query in its text.
        window: what it sees.
        mask_requested: whether the model has asked for a mask.
        open_mask: the mask that hides nothing, where one was made.
        causal_mask: the one that hides from each query what comes after it, where one was made.
        masks: those that the model was given, by their ids, and ``sliding``, which of them stand
            for a rule that attention by live lengths knows: their windows, 0 for none.
        folded: the same as ``folded`` makes them, by id and number of heads.
        parts: the same for each segment of a ragged forward.
    """

    positions: Tensor
    window: Window
    mask_requested: bool = False
    open_mask: Tensor | None = None
    causal_mask: Tensor | None = None
    masks: dict[int, Tensor] = field(default_factory=dict)
    sliding: dict[int, int] = field(default_factory=dict)
    folded: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    parts: dict[int, list[Tensor]] = field(default_factory=dict)


_current: ContextVar[_Forward | None] = ContextVar("the forward of a lane", default=None)


def current_window() -> Window | None:
    """Of the forward of a lane that is running, if one is."""
    forward = _current.get()
    return None if forward is None else forward.window


class LiveWindow(NamedTuple):
    """What attention by live lengths goes by.

    Attributes:
        positions: ``(n, q)`` of each query in its text.
        window: what they see.
        sliding: the sliding window of their mask; 0 where it is causal alone.
    """

    positions: Tensor
    window: Window
    sliding: int


def goes_by_masks() -> bool:
    """Whether nobody asks for live lengths in the forward that is running."""
    forward = _current.get()
    return forward is None or not (forward.window.live or forward.window.survey)


def live_window(mask: Any) -> LiveWindow | None:
    """What a mask of this forward stands for; None where attention has to go by the mask itself."""
    forward = _current.get()
    if forward is None or not forward.window.live or known_rule(mask) is None:
        return None
    return LiveWindow(forward.positions, forward.window, forward.sliding[id(mask)])


def is_known(mask: Any) -> bool:
    """Whether the model was given this mask in this forward."""
    forward = _current.get()
    return forward is not None and forward.masks.get(id(mask), forward) is mask


def known_rule(mask: Any) -> int | None:
    """The sliding window that a mask of this forward stands for, or 0; None if for another rule."""
    forward = _current.get()
    return forward.sliding.get(id(mask)) if forward is not None and is_known(mask) else None


def current_survey() -> Survey | None:
    """The survey of the forward that is running."""
    forward = _current.get()
    return None if forward is None else forward.window.survey


def current_pages() -> Window | None:
    """What the forward that is running sees, where layers return the pages of all rows."""
    forward = _current.get()
    if forward is None or not forward.window.live or forward.window.tables is None:
        return None
    return forward.window


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


def segment_masks(mask: Tensor) -> list[Tensor]:
    """Of each segment of a ragged forward, its mask, ``(n, 1, q, limit)``."""
    forward = _current.get()
    assert forward is not None
    if id(mask) not in forward.parts:
        own = []
        for tokens, rows, limit in forward.window.segments:
            part = mask[tokens, :, :, :limit].reshape(rows.stop - rows.start, -1, 1, limit)
            own.append(part.transpose(1, 2))
        forward.parts[id(mask)] = own
        forward.masks |= {id(part): part for part in (mask, *own)}  # kept as long as their ids
    return forward.parts[id(mask)]


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
def row_masks(positions: Tensor, window: Window, attends: bool = True) -> Iterator[None]:
    """In this context, a model's masks are those of rows that have lengths of their own.

    A query sees what is before its position, and its own key. Alternatives for one position have
    cache positions of their own; one of several tokens sees what is before its start, and its own
    tokens up to itself, at adjacent cache positions.

    Args:
        positions: ``(n, q)`` of each query in its text.
        window: where their keys are, and how many of the cache's the forward sees.
        attends: whether the model has attention, which needs a mask.

    Raises:
        ModelError: the model asked for no mask, so that it made one of its own.
    """
    forward = _Forward(positions, window)
    token = _current.set(forward)
    try:
        yield
    finally:
        _current.reset(token)
    if attends and not forward.mask_requested:
        raise ModelError(
            "this model's code makes its masks by itself, and rows of different lengths cannot be",
            "use a model whose code in transformers asks masking_utils for its masks",
        )


def _row_mask(original: Callable[..., Any], additive: bool) -> Callable[..., Any]:
    """A mask function for transformers: ours in the forward of a lane, else the original."""

    def mask(*args: Any, **settings: Any) -> Any:
        forward = _current.get()
        if forward is None:
            return original(*args, **settings)
        if "allow_is_bidirectional_skip" in settings:
            if forward.window.images:
                return original(*args, **settings)  # of an image's patches
            raise ModelError("this model reads both ways", "use a causal model")
        forward.mask_requested = True
        rule, window = settings["mask_function"], forward.window
        sliding = sliding_window(rule) if window.live or window.survey else None
        if window.live and window.survey is None and sliding is not None and not additive:
            # It stands for the rule. Whoever takes it for a mask gets NaN, and is found out.
            shape = (*forward.positions.shape[:1], 1, forward.positions.shape[1], window.limit)
            sees = forward.positions.new_full((), torch.nan, dtype=settings["dtype"]).expand(shape)
        elif window.same_length and rule is causal_mask_function:
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
        if sliding is not None:
            forward.sliding[id(sees)] = sliding
        if not additive:
            return sees
        dtype = settings["dtype"]
        return torch.zeros_like(sees, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)

    return mask


for _name, _additive in (("sdpa", False), ("eager", True)):
    AttentionMaskInterface.register(
        _name, _row_mask(ALL_MASK_ATTENTION_FUNCTIONS[_name], _additive)
    )
