"""Attention of a chunk of each row's prompt on CUDA, by torch's flash attention for packed texts.

Flash attention wants texts packed one after the other. Rows of a cache are: they lie apart by their
capacity, so the beginnings are its multiples, and how many keys of each are used is said apart.
Nothing is copied, and no mask is made. The keys are not split over thread blocks
(``num_splits=1``): a row's sums then do not depend on its neighbours.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError

MODULE = "torch.nn.attention.varlen"
NEEDED = ("scale", "window_size", "enable_gqa", "seqused_k", "num_splits")
MAX_SIZE = 256  # of a head


def varlen_chunk(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    start: int,
    window: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Attention of the queries of a chunk, each to the keys before it and its own.

    Args:
        query: ``(n, heads, q, size)``, at positions ``start`` to ``start + q`` of every row.
        key: ``(n, groups, start + q, size)``, a view of a cache from each row's first position on,
            and ``value`` alike.
        start: keys before the chunk.
        window: a query sees so many keys, its own among them; 0 is all.
        scale: of the products; None is ``size ** -0.5``.

    Returns:
        ``(n, q, heads, size)``.

    Raises:
        ModelError: the rows of the cache are no multiple of its positions apart.
    """
    n, heads, q, size = query.shape
    keys, apart = _packed(key)
    values, _ = _packed(value)
    rows = torch.arange(n + 1, dtype=torch.int32, device=query.device)
    out: Tensor = importlib.import_module(MODULE).varlen_attn(
        query.transpose(1, 2).reshape(n * q, heads, size),
        keys,
        values,
        rows * q,
        rows * apart,
        q,
        start + q,
        scale=scale,
        window_size=(window - 1, 0) if window else (-1, 0),
        enable_gqa=True,
        seqused_k=torch.full((n,), start + q, dtype=torch.int32, device=query.device),
        num_splits=1,
    )
    return out.view(n, q, heads, -1)


def _packed(rows: Tensor) -> tuple[Tensor, int]:
    """``(positions, groups, size)`` of rows' memory, and how many positions rows lie apart."""
    n, groups, length, size = rows.shape
    row, group, position, one = rows.stride()
    if n == 1:
        row = length * position
    if one != 1 or row % position:
        raise ModelError(
            f"a cache with strides {rows.stride()} is not packed",
            "its heads lie in one piece, and its rows a multiple of its positions apart",
        )
    apart = row // position
    shape, strides = ((n - 1) * apart + length, groups, size), (position, group, 1)
    return rows.as_strided(shape, strides), apart


def why_not_varlen(
    head_size: int,
    value_size: int,
    dtype: torch.dtype,
    capability: tuple[int, int] | None = None,
) -> str | None:
    """Why flash attention cannot read a layer's prompts, in words; None where it can.

    Args:
        head_size: of queries and keys.
        value_size: of values.
        dtype: of all three.
        capability: of the GPU, for CUDA; None leaves it unasked.
    """
    if head_size != value_size:
        return f"keys of size {head_size} and values of {value_size}: flash attention takes one"
    if head_size % 8 or not 8 <= head_size <= MAX_SIZE:
        return f"heads of size {head_size}: flash attention takes multiples of 8 up to {MAX_SIZE}"
    if dtype not in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        return f"keys in {name}: flash attention takes bfloat16 and float16"
    if capability is not None and capability < (8, 0):
        version = ".".join(map(str, capability))
        return f"a GPU of compute capability {version}: flash attention takes 8.0 and later"
    if torch.version.cuda is not None and not torch.backends.cuda.is_flash_attention_available():
        return f"torch {torch.__version__} was built without flash attention"
    return _lacking()


def _lacking() -> str | None:
    """What torch's function lacks in this version."""
    version = f"torch {torch.__version__}"
    try:
        module: Any = importlib.import_module(MODULE)
    except ImportError:
        return f"{version} has no {MODULE}"
    arguments = inspect.signature(module.varlen_attn).parameters
    lacking = [name for name in NEEDED if name not in arguments]
    return f"{version} has varlen_attn without {', '.join(lacking)}" if lacking else None
