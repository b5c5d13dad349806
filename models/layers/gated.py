"""The gated activation of a feed-forward layer (SwiGLU: Shazeer, 2020), of the joined product.

On a CPU it is torch's operations; on CUDA it is one launch of a kernel of ``layer_kernel``.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..kernels.gpu import Cost

PART = 1024  # numbers that a thread block works on


def gated(joined: Tensor) -> Tensor:
    """``silu(gate) * up``, ``(…, size)``, of ``(…, 2 * size)``: gate and up behind each other."""
    return _gate(joined)  # type: ignore[no-any-return]


@torch.library.custom_op("descant::gated", mutates_args=(), device_types="cpu")
def _gate(joined: Tensor) -> Tensor:
    return plain_gated(joined)


def plain_gated(joined: Tensor) -> Tensor:
    """The same as ``gated`` by torch's operations."""
    opened, up = joined.chunk(2, dim=-1)
    return functional.silu(opened) * up


@_gate.register_fake
def _result(joined: Tensor) -> Tensor:
    return joined.new_empty(*joined.shape[:-1], joined.shape[-1] // 2)


def cost(rows: int, size: int, itemsize: int) -> Cost:
    """What a launch reads and writes, of rows of ``2 * size`` numbers of ``itemsize`` bytes."""
    numbers = rows * size * itemsize
    return Cost(read=2 * numbers, written=numbers, launches=1, blocks=rows * -(-size // PART))


@_gate.register_kernel("cuda")
def launch(joined: Tensor) -> Tensor:
    """One launch on the current stream, without a wait; a graph can hold it."""
    from . import layer_kernel

    joined = joined.contiguous()
    size = joined.shape[-1] // 2
    result = joined.new_empty(*joined.shape[:-1], size)
    guard: Any = torch.cuda.device(joined.device) if joined.is_cuda else nullcontext()
    with guard:
        layer_kernel.gate[joined.numel() // (2 * size), -(-size // PART)](
            joined, result, size, PART=PART, num_warps=4, enable_fp_fusion=False
        )
    return result
