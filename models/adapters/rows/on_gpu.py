"""Which additions kernels do on a GPU, held against torch's operations when they are first used."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ...kernels.first_use import FirstUse
from ...kernels.gpu import why_disabled, why_no_triton
from ...kernels.lora.products import DTYPES, MOST, Factors, add_products
from ...kernels.lora.row_lists import RowLists, list_adapters, listed

TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 4e-3}  # of the largest number
_EXACT = 1e-4


def _why_not(device: torch.device) -> str | None:
    return why_disabled("lora") or why_no_triton(torch.cuda.get_device_capability(device))


_LISTS: FirstUse[RowLists] = FirstUse("finding rows' adapters", _why_not)
_PRODUCTS: FirstUse[Tensor] = FirstUse("LoRA", _why_not)


def lists_of(table: Tensor, slots: Tensor, loaded: int, positions: int) -> RowLists | None:
    """The adapters of a forward's rows, where kernels add what they add; else None.

    Args:
        table, slots, loaded: as in ``list_adapters``.
        positions: of all rows.
    """
    device = table.device
    if device.type != "cuda" or not loaded or positions > MOST or _why_not(device):
        return None
    arguments = table, slots, loaded
    return _LISTS.run(device, lambda: list_adapters(*arguments), lambda: listed(*arguments), _other)


def takes(factors: Factors, x: Tensor, out: Tensor) -> bool:
    """Whether the kernels can add to this output: ``(n, outs)``, of inputs ``(n, in)``."""
    kinds = {(each.dtype, each.device) for each in (x, out, factors.a)}
    return len(kinds) == 1 and x.is_cuda and x.dtype in DTYPES and 0 < len(x) <= MOST


def add_on_gpu(
    factors: Factors, lists: RowLists, x: Tensor, out: Tensor, plain: Callable[[Tensor], Tensor]
) -> None:
    """Add in place what the rows' adapters add.

    Args:
        plain: does the same by torch's operations.
    """
    x = x if x.stride(1) == 1 else x.contiguous()

    def kernel() -> Tensor:
        add_products(out, x, factors, lists)
        return out

    result = _PRODUCTS.run(x.device, kernel, lambda: plain(out.clone()), partial(_wrong, out.dtype))
    if result is not out:  # by torch's operations, in memory of its own
        out.copy_(result)


def _wrong(dtype: torch.dtype, found: Tensor, expected: Tensor) -> str | None:
    limit = TOLERANCE.get(dtype, _EXACT) * expected.float().abs().max().clamp_min(1e-6)
    worst = (found.float() - expected.float()).abs().max()
    return None if bool(worst <= limit) else f"its kernels give other numbers, by {worst.item():g}"


def _other(found: RowLists, expected: RowLists) -> str | None:
    listed = torch.arange(expected.lists.shape[1], device=expected.lists.device)
    same = (found.lists == expected.lists) | (listed >= expected.counts[:, None])
    agree = torch.equal(found.numbers, expected.numbers)
    agree = agree and torch.equal(found.counts, expected.counts) and bool(same.all())
    return None if agree else "its kernel finds others"
