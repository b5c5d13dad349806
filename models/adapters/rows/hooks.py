"""What LoRA adapters add to a module's output, row by row: hooks that read the rows' numbers.

The output is ``(1 + sum w_i (gain_i - 1)) * bare + sum w_i shift_i + sum w_i B_i A_i x``. Where
nothing but the last sum is there, a hook adds it in place (``products``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .products import ForwardRows, Joined, add, columns_of
from .stacked import Stacked


def hook(parts: Stacked, rows: ForwardRows, joined: Joined | None) -> Any:
    """A forward hook of one module; it leaves the output of bare weights alone.

    Args:
        joined: the module by itself, where its parts are ``plain``.
    """
    return _full_hook(parts, rows) if joined is None else _plain_hook(joined, rows)


def _plain_hook(joined: Joined, rows: ForwardRows) -> Any:
    def change(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if rows.numbers is None:
            return None
        return add(joined, rows, args[0], output.contiguous())

    return change


def _full_hook(parts: Stacked, rows: ForwardRows) -> Any:
    """With gains and shifts, and for embeddings."""

    def change(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if rows.numbers is None:
            return None
        count = len(rows.numbers)
        changed = output.reshape(count, -1, output.shape[-1])
        if parts.gain is not None:
            changed = changed * (1 + _sum(rows.numbers, parts.gain))[:, None]
        if parts.shift is not None:
            changed = changed + _sum(rows.numbers, parts.shift)[:, None]
        if parts.a is not None and parts.b is not None:
            read = functional.embedding if parts.embedding else _linear
            low = read(args[0], parts.a)
            low = low.view(count, -1, low.shape[-1])
            more = low.mul_(columns_of(parts, rows)) @ parts.b
            if parts.embedding and hasattr(module, "embed_scale"):  # Gemma's, in the layer's type
                more = more * torch.as_tensor(module.embed_scale, dtype=more.dtype)
            changed = changed + more.to(changed)
        return changed.to(output.dtype).view_as(output)

    return change


def _sum(numbers: Tensor, parts: Tensor) -> Tensor:
    return numbers[:, : len(parts)].to(parts) @ parts


def _linear(hidden: Tensor, a: Tensor) -> Tensor:
    return functional.linear(hidden.to(a), a)
