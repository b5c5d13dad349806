"""What weights are in memory: their bytes, the type they compute in, the device they run on.

Quantised weights stand for more numbers than they hold, and offloaded ones are elsewhere until they
are needed; whoever asks a parameter itself is told the wrong thing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def weight_bytes(model: Any) -> int:
    """Bytes of weights that a forward reads: all but an untied input embedding.

    Packed numbers, scales and zero points are counted as they are stored.
    """
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    stored = {id(tensor): tensor for tensor in _stored(model)}
    if head is None or getattr(head, "weight", None) is not embedding:
        stored.pop(id(embedding), None)
    return sum(map(held_bytes, stored.values()))


def held_bytes(tensor: Tensor) -> int:
    """Bytes that a tensor holds; of one that is made of others, theirs."""
    if not is_traceable_wrapper_subclass(tensor):
        return tensor.nbytes
    parts = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
    return sum(held_bytes(part) for part in parts if isinstance(part, Tensor))


def compute_dtype(model: Any) -> torch.dtype:
    """The type that a model's activations have: its embedding's, which is what layers are given."""
    embedding = model.get_input_embeddings().weight
    for tensor in (embedding, *model.parameters()):
        if tensor.is_floating_point() and tensor.itemsize > 1:  # an 8-bit float is storage
            return tensor.dtype  # type: ignore[no-any-return]
    return torch.get_default_dtype()


def execution_device(module: nn.Module) -> torch.device:
    """Where a module runs: of one that is offloaded, where its weights are brought."""
    hook = getattr(module, "_hf_hook", None)  # accelerate's
    device = getattr(hook, "execution_device", None)
    if device is not None:
        return torch.empty(0, device=device).device
    return next(_own(module), torch.empty(0)).device


def in_one_place(model: nn.Module) -> bool:
    """Whether all weights are on one device, and stay there."""
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    if any(getattr(hook, "offload", False) for hook in hooks):
        return False
    return len({tensor.device for tensor in model.parameters()}) == 1


def _stored(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers that are saved, and what quantised layers save beside them."""
    for value in model.state_dict(keep_vars=True).values():
        if isinstance(value, Tensor):
            yield value


def _own(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
