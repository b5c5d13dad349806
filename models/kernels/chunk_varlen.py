"""Attention of a chunk of each row's prompt on CUDA, by torch's flash attention over pages of keys.

Flash attention finds keys and values by a table of pages, as our own kernels do, and how many of
each row are used is said apart. Nothing is copied, and no mask is made. The keys are not split over
thread blocks (``num_splits=1``): a row's sums then depend neither on its neighbours nor on its
pages. In torch 2.13, split pages are wrong besides (https://github.com/pytorch/pytorch/issues/194167).
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from torch import Tensor

MODULE = "torch.nn.attention.varlen"
NEEDED = ("scale", "window_size", "enable_gqa", "seqused_k", "block_table", "num_splits")
MAX_SIZE = 256  # of a head
PAGE = 256  # keys: torch's own flash attention, the second, takes pages of its multiples


def varlen_chunk(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tables: Tensor,
    start: int,
    window: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Attention of the queries of a chunk, each to the keys before it and its own.

    Args:
        query: ``(n, heads, q, size)``, at positions ``start`` to ``start + q`` of every row.
        key: ``(pages, groups, page, size)``, a view of a pool, and ``value`` alike.
        tables: ``(n, most)`` int32, the pages of each row, with room for ``start + q`` keys.
        start: keys before the chunk.
        window: a query sees so many keys, its own among them; 0 is all.
        scale: of the products; None is ``size ** -0.5``.

    Returns:
        ``(n, q, heads, size)``.
    """
    n, heads, q, size = query.shape
    rows = torch.arange(n + 1, dtype=torch.int32, device=query.device)
    second = torch.nn.attention.current_flash_attention_impl() is None  # the third takes no bounds
    out: Tensor = importlib.import_module(MODULE).varlen_attn(
        query.transpose(1, 2).reshape(n * q, heads, size),
        key.transpose(1, 2),
        value.transpose(1, 2),
        rows * q,
        rows * (start + q) if second else None,
        q,
        start + q,
        scale=scale,
        window_size=(window - 1, 0) if window else (-1, 0),
        enable_gqa=True,
        seqused_k=torch.full((n,), start + q, dtype=torch.int32, device=query.device),
        block_table=tables,
        num_splits=1,
    )
    return out.view(n, q, heads, -1)


def why_not_varlen(
    head_size: int,
    value_size: int,
    dtype: torch.dtype,
    capability: tuple[int, int] | None = None,
    page: int = PAGE,
) -> str | None:
    """Why flash attention cannot read a layer's prompts, in words; None where it can.

    Args:
        head_size: of queries and keys.
        value_size: of values.
        dtype: of all three.
        capability: of the GPU, for CUDA; None leaves it unasked.
        page: keys of a page.
    """
    if head_size != value_size:
        return f"keys of size {head_size} and values of {value_size}: flash attention takes one"
    if head_size % 8 or not 8 <= head_size <= MAX_SIZE:
        return f"heads of size {head_size}: flash attention takes multiples of 8 up to {MAX_SIZE}"
    if dtype not in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        return f"keys in {name}: flash attention takes bfloat16 and float16"
    if page % PAGE:
        return f"pages of {page} keys: flash attention takes multiples of {PAGE}"
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
