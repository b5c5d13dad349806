"""Matrices of modules that read the same input, as one matrix, in the memory of the modules.

The modules' weights become views of it: no memory is doubled, and the model is what it was for
whoever else has it. They stay the same parameters, so that what is loaded, merged or trained into
them is in the joined matrix, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Joined:
    """The joined weights of some modules.

    Attributes:
        modules: in the order of their rows.
        weight: ``(sum of out, in)``.
        bias: ``(sum of out,)``, or None.
    """

    modules: Sequence[Any]
    weight: Tensor
    bias: Tensor | None

    @property
    def is_current(self) -> bool:
        """Whether the modules' weights still are in it."""
        memory = self.weight.untyped_storage()
        if any(module.weight.untyped_storage() is not memory for module in self.modules):
            return False
        if self.bias is None:
            return all(module.bias is None for module in self.modules)
        memory, biases = self.bias.untyped_storage(), [module.bias for module in self.modules]
        return all(bias is not None and bias.untyped_storage() is memory for bias in biases)


def why_not_joined(modules: Sequence[Any]) -> str | None:
    """Why the weights of modules stay where they are, in words; None where they can be joined."""
    for tensors in _tensors(modules):
        if _side_by_side(tensors) is None and any(_is_part(tensor) for tensor in tensors):
            return "its matrices share memory with others"
    return None


@torch.no_grad()
def join(modules: Sequence[Any]) -> Joined:
    """The joined weights; they are moved, unless they lie side by side already.

    Args:
        modules: linear layers with the same input, all with biases, or none.
    """
    weight, *bias = (_joined(tensors) for tensors in _tensors(modules))
    return Joined(modules, weight, bias[0] if bias else None)


def _tensors(modules: Sequence[Any]) -> list[list[Tensor]]:
    weights, biases = [m.weight for m in modules], [m.bias for m in modules if m.bias is not None]
    return [weights, biases] if biases else [weights]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    if (found := _side_by_side(tensors)) is not None:
        return found
    found = torch.cat([tensor.detach() for tensor in tensors])
    parts = torch.split(found, [len(each) for each in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.set_(part)  # type: ignore[call-overload]
    return found


def _side_by_side(tensors: Sequence[Tensor]) -> Tensor | None:
    """One tensor over memory that some share, one after the other; None where they do not."""
    first = tensors[0].detach()
    memory = first.untyped_storage()
    for one, other in pairwise(tensors):
        follows = one.storage_offset() + one.numel() == other.storage_offset()
        if not follows or other.untyped_storage() is not memory:
            return None
    if not all(tensor.is_contiguous() for tensor in tensors):
        return None
    shape = sum(map(len, tensors)), *first.shape[1:]
    return first.as_strided(shape, first.stride(), first.storage_offset())


def _is_part(tensor: Tensor) -> bool:
    """Whether there is more in its memory than itself: moving it would free nothing."""
    return tensor.untyped_storage().nbytes() > tensor.nbytes
