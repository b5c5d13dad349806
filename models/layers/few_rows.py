"""Products of a few rows with large weights, on a CPU.

There a linear layer of two rows reads its weights twice, and of three rows three times: MKL takes a
product of few rows for so many of one row, and does not well at a few more. By columns, ``weight @
x.T``, they are read once: two to seven times as fast at 2 and 3 rows where they are larger than a
cache, and 1.1 to 2.8 times at 4 to 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

LEAST, MOST = 2, 6  # rows; one is read once as it is, and more are a product of their own
LARGE = 1 << 25  # bytes of all weights: smaller ones may stay in a cache


class FewRows:
    """The linear layers of a model, which stay as they are but for the time of a forward.

    Args:
        modules: all of a model.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        linear = [each for each in modules if type(each) is nn.Linear and _by_torch(each)]
        large = sum({id(each.weight): each.weight.nbytes for each in linear}.values()) > LARGE
        self._forwards: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = [
            (each, partial(by_columns, each)) for each in linear if large
        ]

    @contextmanager
    def during(self, rows: int) -> Iterator[None]:
        """In this context a forward of so many rows, all tokens together, goes by columns."""
        forwards = self._forwards if LEAST <= rows <= MOST else ()
        for module, forward in forwards:
            module.__dict__["forward"] = forward  # before the class's own
        try:
            yield
        finally:
            for module, _ in forwards:
                module.__dict__.pop("forward", None)


def by_columns(module: nn.Linear, rows: Tensor) -> Tensor:
    """What a linear layer gives of ``(…, in)``."""
    flat = rows.reshape(-1, rows.shape[-1])
    out = torch.mm(module.weight, flat.t()).t().contiguous()
    if module.bias is not None:
        out += module.bias
    return out.view(*rows.shape[:-1], -1)


def _by_torch(module: nn.Linear) -> bool:
    """Whether nobody else computes it, in float32 on a CPU."""
    weight = module.weight
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return plain and "forward" not in vars(module)
