"""Which keys each query may see, for every kind of attention layer a model has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
ATTENTION = frozenset((FULL, SLIDING, CHUNKED))


def layer_types(config: Any) -> frozenset[str]:
    """The kinds of layer that a configuration names."""
    named = getattr(config, "layer_types", None)
    if named:
        return frozenset(named)
    return frozenset((SLIDING if getattr(config, "sliding_window", None) else FULL,))


def attention_masks(
    config: Any,
    dtype: torch.dtype,
    positions: Tensor,
    slots: Tensor,
    limit: int,
    starts: Tensor | None = None,
) -> Tensor | dict[str, Tensor]:
    """The mask, or one per layer type, that a model's forward takes.

    Args:
        config: the text configuration.
        dtype: of the weights; eager attention adds a mask of this type, others take booleans.
        positions: ``(n, q)`` the place of each query in its text.
        slots: ``(n, q)`` the place of each query's key in the cache; where queries are alternatives
            for one position, each has a slot of its own and sees what is before them, and itself.
        limit: the keys to look at are 0 up to ``limit``.
        starts: ``(n, q)`` for alternatives of several tokens, the place where each one's own
            begin: a query sees what is before that, and its own up to itself, in slots side by
            side.

    Returns:
        ``(n, 1, q, limit)``, boolean with True where a query may look.
    """
    keys = torch.arange(limit, device=positions.device)
    places, slots = positions[..., None], slots[..., None]
    before, own = keys < places, keys == slots
    if starts is not None:
        before = keys < starts[..., None]
        own = (keys <= slots) & (keys >= slots - (places - starts[..., None]))
    masks = {}
    for kind in sorted(layer_types(config)):
        near, mine = before, own
        if kind == SLIDING:
            near = before & (keys > places - config.sliding_window)
            mine = own & (keys > slots - config.sliding_window)
        elif kind == CHUNKED:
            size = config.attention_chunk_size
            near = before & (keys // size == places // size)
            mine = own & ((keys + places - slots) // size == places // size)
        masks[kind] = _as_taken(config, dtype, (near | mine)[:, None])
    named = getattr(config, "layer_types", None)
    if named and set(masks) != {FULL}:
        return masks
    return next(iter(masks.values()))


def _as_taken(config: Any, dtype: torch.dtype, allowed: Tensor) -> Tensor:
    if config._attn_implementation != "eager":
        return allowed
    lowest = torch.finfo(dtype).min
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, lowest)
