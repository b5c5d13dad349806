"""Grouped-query attention without repeated keys: query heads of a group become queries.

With a mask, transformers repeats keys and values for every query head (5.17 always, 5.23 for more
than one query): a copy of the cache at every step. Folding the query heads of a group into the
query positions gives the same sums, and copies only the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .masks import folded, hides_nothing, in_lane_forward

MAX_QUERIES = 128  # with more, the mask of every group is larger than what folding saves


def grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **settings: Any
) -> tuple[Tensor, None]:
    """transformers' scaled dot product attention, with the query heads of a group folded.

    Args:
        query: ``(n, heads, q, size)``.
        key: ``(n, groups, L, size)``, and ``value`` alike.
        attention_mask: ``(n, 1, q, L)``.

    Returns:
        ``(n, q, heads, size)``, and no weights.
    """
    n, heads, q, size = query.shape
    groups = key.shape[1]
    one_mask = attention_mask is not None and attention_mask.shape[1] == 1  # for all heads
    folds = one_mask and q <= MAX_QUERIES and heads != groups
    folds = folds and settings.get("position_bias") is None
    if hides_nothing(attention_mask):
        attention_mask = None
    if not folds:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)  # type: ignore[no-any-return]
    each = heads // groups
    if attention_mask is not None:
        attention_mask = folded(attention_mask, each, query.dtype)
    out, _ = sdpa_attention_forward(
        _NoRepeat, query.reshape(n, groups, each * q, size), key, value, attention_mask, **settings
    )
    # (n, each * q, groups, size) back to heads in their order
    return out.reshape(n, each, q, groups, -1).permute(0, 2, 3, 1, 4).reshape(n, q, heads, -1), None


class _NoRepeat:
    """Stands for a layer whose keys need no repeating."""

    num_key_value_groups = 1
    is_causal = False


def _row_attention(original: Callable[..., Any]) -> Callable[..., Any]:
    """An attention function for transformers: ours in the forward of a lane, else the original."""

    def attention(module: Any, *args: Any, **settings: Any) -> Any:
        return (grouped_attention if in_lane_forward() else original)(module, *args, **settings)

    return attention


AttentionInterface.register("sdpa", _row_attention(ALL_ATTENTION_FUNCTIONS["sdpa"]))
