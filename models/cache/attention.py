"""A layer's attention in the forward of a lane: by live lengths, or by a mask.

By live lengths, kernels read what each row has and no mask (``live_attention``, ``chunk_varlen``).
Elsewhere grouped-query attention goes without repeated keys: query heads of a group become queries.
With a mask, transformers repeats keys and values for every query head (5.17 always, 5.23 for more
than one query): a copy of the cache at every step. Folding the query heads of a group into the
query positions gives the same sums, and copies only the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..kernels.chunk_varlen import varlen_chunk
from ..kernels.live_attention import MAX_QUERIES, live_attention
from .blocks.paged_cache import side_by_side
from .masks import (
    LiveWindow,
    causal_start,
    current_pages,
    current_survey,
    current_window,
    folded,
    goes_by_masks,
    hides_nothing,
    is_known,
    known_rule,
    live_window,
    runs_of,
    segment_masks,
)
from .survey import Call

FOLDED = 128  # with more, the mask of every group is larger than what folding saves
# What transformers' code may say to attention by live lengths: its own, or of no effect on it.
_KNOWN = {
    "dropout", "scaling", "sliding_window", "is_causal", "position_ids", "cache_position",
    "use_cache", "return_dict", "output_attentions", "output_hidden_states",
    "output_router_logits",
}  # fmt: skip


def grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **settings: Any
) -> tuple[Tensor, None]:
    """What transformers' scaled dot product attention gives, in the forward of a lane.

    Args:
        query: ``(n, heads, q, size)``.
        key: ``(n, groups, L, size)``, and ``value`` alike.
        attention_mask: ``(n, 1, q, L)``.

    Returns:
        ``(n, q, heads, size)``, and no weights.
    """
    if goes_by_masks():
        return _masked(module, query, key, value, attention_mask, settings), None
    survey, live = current_survey(), live_window(attention_mask)
    why = _why_masked(key, value, attention_mask, settings)
    if survey is not None:
        survey.calls.append(Call(query.shape[-1], value.shape[-1], why))
    if live is not None and why is None and survey is None:
        return by_live_lengths(query, key, value, live, settings), None
    rows = key, value
    if (pages := current_pages()) is not None:
        rows = side_by_side(key, pages), side_by_side(value, pages)
    out = _masked(module, query, *rows, attention_mask, settings)
    if live is None or why is not None or survey is None:
        return out, None
    other = by_live_lengths(query, key, value, live, settings)
    largest = out.abs().amax().clamp(min=1e-6)  # a token without an embedding has no values
    survey.deviations.append((other - out).abs().amax() / largest)
    return out, None


def _why_masked(
    key: Tensor, value: Tensor, attention_mask: Any, settings: Mapping[str, Any]
) -> str | None:
    """What attention by live lengths does not know of a layer's attention, or None."""
    if unknown := unknown_settings(settings):
        return f"its attention has {', '.join(unknown)}"
    if attention_mask is not None and not is_known(attention_mask):
        return "its code changes masks"
    if known_rule(attention_mask) is None:
        return "its masks are neither causal nor sliding windows"
    if key.shape[:3] != value.shape[:3]:
        return "its values have other heads than its keys"
    if current_pages() is None and key.stride(0) * value.stride(2) != value.stride(0) * key.stride(
        2
    ):
        return "it copies keys or values"  # which rows' lengths are then not those of
    return None


def unknown_settings(settings: Mapping[str, Any]) -> list[str]:
    """What is said to a layer that attention by live lengths does not know."""
    return [name for name, said in settings.items() if name not in _KNOWN and said is not None]


def by_live_lengths(
    query: Tensor, key: Tensor, value: Tensor, live: LiveWindow, settings: Mapping[str, Any]
) -> Tensor:
    """``(n, q, heads, size)``: chunks of prompts, or a few queries of each row."""
    window, scale = live.window, settings.get("scaling")
    assert window.tables is not None, "rows attend by live lengths where keys are in pages"
    pool = key, value, window.tables
    if window.start is not None:
        return varlen_chunk(query, *pool, window.start, live.sliding, scale)
    parts = []
    for first in range(0, query.shape[2], MAX_QUERIES):
        some = slice(first, first + MAX_QUERIES)
        starts = None if window.starts is None else window.starts[:, some]
        where = live.positions[:, some], window.cache_positions[:, some], starts
        part = live_attention(query[:, :, some], *pool, *where, live.sliding, scale)
        parts.append(part)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _masked(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, settings: Any
) -> Tensor:
    """``(n, q, heads, size)`` by a mask over all keys of the window."""
    n, heads, q, size = query.shape
    groups = key.shape[1]
    if (start := causal_start(attention_mask)) is not None and _is_plain(query, value, settings):
        out = chunk_attention(query, key, value, start, settings.get("scaling"))
        return out.transpose(1, 2).contiguous()
    one_mask = attention_mask is not None and attention_mask.shape[1] == 1  # for all heads
    folds = one_mask and q <= FOLDED and settings.get("position_bias") is None
    if hides_nothing(attention_mask):
        attention_mask = None
    if not folds:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return out  # type: ignore[no-any-return]
    each = heads // groups
    runs = runs_of(attention_mask) or [(slice(n), key.shape[2])]
    if attention_mask is not None:
        attention_mask = folded(attention_mask, each, query.dtype)
    queries = query.reshape(n, groups, each * q, size)
    outputs = []
    for rows, limit in runs:
        mask = None if attention_mask is None else attention_mask[rows, :, :, :limit]
        keys, values = key[rows, :, :limit], value[rows, :, :limit]
        out, _ = sdpa_attention_forward(_NoRepeat, queries[rows], keys, values, mask, **settings)
        outputs.append(out)
    out = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    # (n, each * q, groups, size) back to heads in their order
    return out.reshape(n, each, q, groups, -1).permute(0, 2, 3, 1, 4).reshape(n, q, heads, -1)


def _ragged(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **settings: Any
) -> Tensor:
    """``(tokens, 1, heads, size)`` of ``(tokens, heads, 1, size)`` queries, by segments."""
    window, outputs = current_window(), []
    assert window is not None
    for (tokens, rows, limit), mask in zip(
        window.segments, segment_masks(attention_mask), strict=True
    ):
        own = query[tokens, :, 0]
        own = own.reshape(rows.stop - rows.start, -1, *own.shape[1:]).transpose(1, 2)
        keys = key[rows, :, :limit], value[rows, :, :limit]
        outputs.append(_masked(module, own, *keys, mask, settings).flatten(0, 1)[:, None])
    return torch.cat(outputs)


def chunk_attention(
    query: Tensor, key: Tensor, value: Tensor, start: int, scale: float | None
) -> Tensor:
    """Attention of a chunk of texts: each query sees the keys up to its own.

    What is before the chunk needs no mask, and what is in it only half of the products: the two are
    merged by their log-sum-exps, as flash attention merges blocks of keys (Dao et al., 2022).

    Args:
        query: ``(n, heads, q, size)``.
        key: ``(n, groups, start + q, size)``, and ``value`` alike.
        start: keys before the chunk.
        scale: of the products; None is ``size ** -0.5``.

    Returns:
        ``(n, heads, q, size)``.
    """
    n, heads, q, size = query.shape
    groups = key.shape[1]
    each = heads // groups
    own_keys, own_values = (
        tensor[:, :, start:].repeat_interleave(each, dim=1) if each > 1 else tensor[:, :, start:]
        for tensor in (key, value)
    )
    own, own_sum = _flash(query, own_keys, own_values, is_causal=True, scale=scale)
    if start == 0:
        return own
    queries = query.reshape(n, groups, each * q, size)
    before, sums = _flash(queries, key[:, :, :start], value[:, :, :start], scale=scale)
    share = (sums.reshape(n, heads, q) - own_sum).sigmoid().to(own.dtype)
    return own.lerp(before.reshape(n, heads, q, size), share[..., None])


_flash: Callable[..., tuple[Tensor, Tensor]] = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
)


def _is_plain(query: Tensor, value: Tensor, settings: Mapping[str, Any]) -> bool:
    """Whether ``chunk_attention`` can do it: a CPU's kernel, and nothing beside the products."""
    same = query.device.type == "cpu" and query.shape[-1] == value.shape[-1]
    return same and settings.get("position_bias") is None


class _NoRepeat:
    """Stands for a layer whose keys need no repeating."""

    num_key_value_groups = 1
    is_causal = False


def _row_attention(original: Callable[..., Any]) -> Callable[..., Any]:
    """An attention function for transformers: ours in the forward of a lane, else the original."""

    def attention(module: Any, query: Tensor, *args: Any, **settings: Any) -> Any:
        window = current_window()
        if window is None:
            return original(module, query, *args, **settings)
        if window.segments:
            return _ragged(module, query, *args, **settings), None
        if not window.copies:
            return grouped_attention(module, query, *args, **settings)
        out, weights = grouped_attention(module, window.as_queries(query), *args, **settings)
        return out.reshape(len(query), 1, *out.shape[2:]), weights

    return attention


AttentionInterface.register("sdpa", _row_attention(ALL_ATTENTION_FUNCTIONS["sdpa"]))
