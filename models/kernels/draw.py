"""The draw: the best token of each row of scores, with noise where the row samples.

On a CPU it is torch's operations; on CUDA it is the kernels of ``draw_kernel``, which read the
scores once and keep no noise.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from .gpu import Cost
from .noise import noisy

PART = 1024  # tokens that a thread block finds the best of, whatever the batch


def draw(
    scores: Tensor, temperatures: Tensor, keys: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor]:
    """The best token of each row, the lowest id of those that tie; NaN is above everything.

    Args:
        scores: ``(n, V)`` float32, rows of any stride.
        temperatures: ``(n,)`` float32. Above 0, a row's scores are divided by it, and its noise is
            added; else its scores are taken as they are.
        keys: ``(n, 2)`` int32, and ``steps``, ``(n,)`` int64: what the noise is a function of.

    Returns:
        ``(n,)`` int64 tokens, and ``(n,)`` float32 their scores without noise.
    """
    assert scores.dtype == temperatures.dtype == torch.float32
    assert (keys.dtype, steps.dtype) == (torch.int32, torch.int64)
    return _draw(scores, temperatures, keys, steps)  # type: ignore[no-any-return]


@torch.library.custom_op("descant::draw", mutates_args=(), device_types="cpu")
def _draw(
    scores: Tensor, temperatures: Tensor, keys: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor]:
    tokens = noisy(scores, temperatures, keys, steps).argmax(dim=-1)
    return tokens, scores.gather(1, tokens[:, None])[:, 0]


@_draw.register_fake
def _result(scores: Tensor, *settings: Tensor) -> tuple[Tensor, Tensor]:
    return scores.new_empty(len(scores), dtype=torch.long), scores.new_empty(len(scores))


def parts(vocabulary: int) -> int:
    """Thread blocks that share a row."""
    return -(-vocabulary // PART)


def cost(rows: int, vocabulary: int) -> Cost:
    """What a draw reads and writes.

    Args:
        rows: of scores, whether they sample or not.
        vocabulary: tokens of each.
    """
    blocks = rows * parts(vocabulary)
    settings = 4 + 2 * 4 + 8  # bytes: a temperature, a key and a step
    return Cost(
        read=rows * vocabulary * 4 + blocks * (settings + 8) + rows * 4,
        written=blocks * 8 + rows * (8 + 4),
        launches=2,
        blocks=blocks + rows,
    )


@_draw.register_kernel("cuda")
def launch(
    scores: Tensor, temperatures: Tensor, keys: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor]:
    """Two launches on the current stream, without a wait; a graph can hold them."""
    from . import draw_kernel

    scores = scores if scores.stride(1) == 1 else scores.contiguous()
    n, vocabulary = scores.shape
    count = parts(vocabulary)
    bests = scores.new_empty(n, count, dtype=torch.long)
    tokens, drawn = scores.new_empty(n, dtype=torch.long), scores.new_empty(n)
    settings = [each.contiguous() for each in (temperatures, keys, steps)]
    guard: Any = torch.cuda.device(scores.device) if scores.is_cuda else nullcontext()
    with guard:
        draw_kernel.partial_best[n, count](
            scores, *settings, bests, scores.stride(0), vocabulary,
            PART=PART, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
        draw_kernel.merge_bests[n,](
            scores, bests, tokens, drawn, scores.stride(0), count,
            PARTS=1 << (count - 1).bit_length(), num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return tokens, drawn
