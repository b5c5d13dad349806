"""What a lane costs in bytes, the type that its weights compute in, and the device they run on.

A parameter alone does not tell: a quantised one holds fewer bytes than its shape suggests, and an
offloaded one is on another device than its forward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


class Held(NamedTuple):
    """An object in memory: where, and its bytes."""

    device: torch.device
    size: int


@dataclass(frozen=True)
class Footprint:
    """What a lane costs, in bytes.

    Attributes:
        weight_bytes: weights that a forward reads.
        token_bytes: cache of one token of one row.
        row_bytes: cache of one row, whatever its length: states, and what is said with them.
        cache_bytes: cache that is allocated now.
        kept_bytes: copies of what was read, for others to share, at most.
        memory: each object in memory by its id, so that what lanes share counts once.
        work: pairs of what a forward works in per token: a fixed part, and a part per token seen.
            The largest pair counts.
        layers: the share of the layers, and so of the cache, on each device that runs any.
    """

    weight_bytes: int
    token_bytes: int = 0
    row_bytes: int = 0
    cache_bytes: int = 0
    kept_bytes: int = 0
    memory: Mapping[int, Held] = field(default_factory=dict)
    work: tuple[tuple[int, int], ...] = ()
    layers: Mapping[torch.device, float] = field(default_factory=dict)

    def work_bytes(self, tokens: int, seen: int) -> int:
        """Bytes that a forward of ``tokens`` works in, where each sees ``seen`` tokens."""
        return tokens * max((fixed + each * seen for fixed, each in self.work), default=0)

    def with_adapters(self, adapters: Any) -> Footprint:
        """The same with adapters on the weights."""
        size = self.weight_bytes + adapters.nbytes
        return replace(self, weight_bytes=size, memory={**self.memory, **adapters.memory})

    def on(self, device: torch.device) -> Footprint:
        """The part of it on one device; a forward works on each in turn."""
        share = self.layers.get(device, 0.0)
        return replace(
            self, weight_bytes=round(self.weight_bytes * share),
            token_bytes=round(self.token_bytes * share),
            row_bytes=round(self.row_bytes * share),
            cache_bytes=round(self.cache_bytes * share),
            memory={key: held for key, held in self.memory.items() if held.device == device},
            layers={device: 1.0} if share else {},
        )  # fmt: skip


def weights_footprint(model: Any) -> Footprint:
    """A model's weights. A forward reads all but an untied input embedding.

    Packed numbers, scales and zero points are counted as they are stored. To be called once, before
    any forward: a state dict repacks the weights of some quantised layers.
    """
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    tensors = model.state_dict(keep_vars=True).values()  # with what quantised layers save
    stored = {id(tensor): tensor for tensor in tensors if isinstance(tensor, Tensor)}
    if head is None or getattr(head, "weight", None) is not embedding:
        stored.pop(id(embedding), None)
    memory = {id(p): Held(p.device, stored_bytes(p)) for p in model.parameters()}
    size = sum(map(stored_bytes, stored.values()))
    return Footprint(size, memory=memory, layers=layer_shares(model))


def layer_shares(model: Any) -> dict[torch.device, float]:
    """The share of a model's layers on each device, as in ``Footprint.layers``.

    A model whose layers have no numbers is where its embedding runs.
    """
    numbered = (module for module in model.modules() if hasattr(module, "layer_idx"))
    devices = {module.layer_idx: execution_device(module) for module in numbered}
    counts = Counter(devices.values() or [execution_device(model.get_input_embeddings())])
    return {device: count / counts.total() for device, count in counts.items()}


def forward_work(config: Any, dtype: torch.dtype) -> tuple[tuple[int, int], ...]:
    """What a forward of a model works in, as in ``Footprint.work``.

    Per token, three vectors of the feed-forward size and the token's own; or queries, keys, values,
    and the mask, as bool and in the model's dtype.
    """
    size, hidden = dtype.itemsize, config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    inner = max(inner) if isinstance(inner, (list, tuple)) else inner  # a size per layer
    inner *= getattr(config, "num_experts_per_tok", None) or 1
    return ((3 * inner + 4 * hidden) * size, 1), (6 * hidden * size, 1 + size)


def stored_bytes(tensor: Tensor) -> int:
    """Bytes that a tensor stores; for a wrapper of other tensors, theirs."""
    if not is_traceable_wrapper_subclass(tensor):
        return tensor.nbytes
    parts = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
    return sum(stored_bytes(part) for part in parts if isinstance(part, Tensor))


def compute_dtype(model: Any) -> torch.dtype:
    """The type of a model's activations: that of its embedding."""
    embedding = model.get_input_embeddings().weight
    for tensor in (embedding, *model.parameters()):
        if tensor.is_floating_point() and tensor.itemsize > 1:  # an 8-bit float is storage
            return tensor.dtype  # type: ignore[no-any-return]
    return torch.get_default_dtype()


def execution_device(module: nn.Module) -> torch.device:
    """The device that a module runs on; an offloaded one, where its weights are moved to."""
    hook = getattr(module, "_hf_hook", None)  # accelerate's
    device = getattr(hook, "execution_device", None)
    if device is not None:
        return torch.empty(0, device=device).device
    tensors: Iterator[Tensor] = chain(module.parameters(), module.buffers())
    return next(tensors, torch.empty(0)).device


def on_one_device(model: nn.Module) -> bool:
    """Whether all weights are on one device, and stay there."""
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    if any(getattr(hook, "offload", False) for hook in hooks):
        return False
    return len({tensor.device for tensor in model.parameters()}) == 1
