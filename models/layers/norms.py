"""Root mean square normalisation (Zhang and Sennrich, 2019), of rows or of sums of two.

On a CPU it is transformers' operations; on CUDA it is one launch of a kernel of ``layer_kernel``.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..kernels.gpu import Cost

MAX_SIZE = 1 << 14  # numbers of a row, which one thread block holds


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``weight * (hidden / rms(hidden))``, computed in float32 and rounded before the weight.

    Args:
        hidden: ``(…, size)``.
        weight: ``(size,)``, of the same type.
        eps: added to the mean square.
    """
    assert hidden.dtype == weight.dtype and hidden.shape[-1] == len(weight) <= MAX_SIZE
    return _norm(hidden, weight, eps)  # type: ignore[no-any-return]


def add_rms_norm(
    hidden: Tensor, added: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The sum of two tensors, ``(…, size)`` each, and ``rms_norm`` of it."""
    assert hidden.dtype == added.dtype == weight.dtype and hidden.shape == added.shape
    assert hidden.shape[-1] == len(weight) <= MAX_SIZE
    return _add_norm(hidden, added, weight, eps)  # type: ignore[no-any-return]


@torch.library.custom_op("descant::rms_norm", mutates_args=(), device_types="cpu")
def _norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    return plain_rms_norm(hidden, weight, eps)


def plain_rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The same as ``rms_norm`` by torch's operations."""
    wide = hidden.float()
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * scaled.to(hidden.dtype)


@torch.library.custom_op("descant::add_rms_norm", mutates_args=(), device_types="cpu")
def _add_norm(hidden: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = hidden + added
    return total, plain_rms_norm(total, weight, eps)


@_norm.register_fake
def _norm_result(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    return hidden.new_empty(hidden.shape)


@_add_norm.register_fake
def _add_norm_result(
    hidden: Tensor, added: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    return hidden.new_empty(hidden.shape), hidden.new_empty(hidden.shape)


def cost(rows: int, size: int, itemsize: int, adds: bool) -> Cost:
    """What a launch reads and writes; every row reads the weight.

    Args:
        rows: of ``size`` numbers of ``itemsize`` bytes.
        adds: whether it is of sums, which are written, too.
    """
    row = size * itemsize
    return Cost(
        read=rows * (2 + adds) * row, written=rows * (1 + adds) * row, launches=1, blocks=rows
    )


@_norm.register_kernel("cuda")
def launch(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """One launch on the current stream, without a wait; a graph can hold it."""
    hidden = hidden.contiguous()
    normed = torch.empty_like(hidden)
    _launch(hidden, hidden, weight, hidden, normed, eps, adds=False)
    return normed


@_add_norm.register_kernel("cuda")
def launch_sum(hidden: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The same of a sum."""
    hidden, added = hidden.contiguous(), added.contiguous()
    total, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    _launch(hidden, added, weight, total, normed, eps, adds=True)
    return total, normed


def _launch(
    hidden: Tensor, added: Tensor, weight: Tensor, total: Tensor, normed: Tensor, eps: float,
    adds: bool,
) -> None:  # fmt: skip
    from . import layer_kernel

    size = hidden.shape[-1]
    block = 1 << (size - 1).bit_length()
    guard: Any = torch.cuda.device(hidden.device) if hidden.is_cuda else nullcontext()
    with guard:
        layer_kernel.normalise[hidden.numel() // size,](
            hidden, added, weight.contiguous(), total, normed, size, eps,
            ADDS=adds, BLOCK=block, num_warps=warps(block), enable_fp_fusion=False,
        )  # fmt: skip


def warps(block: int) -> int:
    """Of a thread block that holds so many numbers: about sixteen to a thread."""
    return max(1, min(16, block // 512))
