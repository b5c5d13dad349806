"""A LoRA adapter on its base: checked against it, and what depends on the base's weights computed.

DoRA gives an output another scale, and a bias of its own another shift. Both depend on weights
alone, so that they are computed once: an output is ``gain * (W x + bias) + shift + B A x``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import align_module_device, has_offloaded_params
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..errors import ModelError
from .language_paths import is_left_out, placed_in
from .lora import Adapter, LayerAdapter

_TRAINED_ON = "give the base that it was trained on"
_OWN_WEIGHTS = "say merge: true with it: weights of its own"


@dataclass(frozen=True)
class PlacedLayer:
    """What an adapter does to one module of its base, on the CPU.

    Attributes:
        a, b: ``(rank, in)`` and ``(out, rank)``, scaled; None where only the bias is another.
        gain, shift: ``(out,)``, of the base's output; None for 1 and 0.
        embedding: whether A is looked up by token.
    """

    a: Tensor | None
    b: Tensor | None
    gain: Tensor | None
    shift: Tensor | None
    embedding: bool


def placed(name: str, model: nn.Module, adapter: Adapter) -> dict[str, PlacedLayer]:
    """An adapter's layers for a base.

    Raises:
        ModelError: it is not of this base; names the first module that does not fit.
    """
    modules, adapter = dict(model.named_modules()), placed_in(model, adapter)
    tokens = model.get_input_embeddings()  # type: ignore[operator]
    skeleton = all(p.is_meta for p in model.parameters())
    skeleton = skeleton and not any(map(has_offloaded_params, modules.values()))
    paths, layers = {*adapter.layers, *adapter.base_weights}, {}
    for path in [*sorted(paths - modules.keys()), *(path for path in modules if path in paths)]:
        if is_left_out(model, path):
            problem = f"the adapter {name} has weights for {path}, which sees no text"
            raise ModelError(f"{problem}: rows do not run it", _OWN_WEIGHTS, name, "adapters")
        if path not in modules:
            problem = f"the adapter {name} has weights for {path}, which its base does not have"
            raise ModelError(problem, _TRAINED_ON, name, "adapters")
        module, layer = modules[path], adapter.layers.get(path)
        with align_module_device(module):  # an offloaded one is in memory here
            if layer is not None:
                _check_fit(name, path, module, layer, tokens)
                shaped = _shapes_alone(layer, module) if skeleton else None
                layers[path] = shaped or _placed(name, path, module, layer)
            if path in adapter.base_weights and not skeleton:
                _check_same(name, path, module, adapter.base_weights[path])
    return layers


@torch.no_grad()
def _placed(name: str, path: str, module: Any, layer: LayerAdapter) -> PlacedLayer:
    b, gain = layer.b, None
    if layer.a is not None and b is not None and layer.magnitude is not None:
        across = hasattr(module, "nf") or layer.embedding  # stored as (in, out)
        weight = _numbers(name, path, module, "weight")
        norm = torch.linalg.norm((weight.T if across else weight) + b @ layer.a, dim=1)
        gain = layer.magnitude / norm
        b = gain[:, None] * b
    shift = layer.added
    if getattr(module, "bias", None) is not None and (gain is not None or layer.bias is not None):
        own = _numbers(name, path, module, "bias")
        # DoRA's magnitude is not of the bias.
        moved = (own if layer.bias is None else layer.bias) - (own if gain is None else gain * own)
        shift = moved if shift is None else shift + moved
    return PlacedLayer(layer.a, b, gain, shift, layer.embedding)


def _shapes_alone(layer: LayerAdapter, module: Any) -> PlacedLayer:
    """For a base of shapes without numbers: what ``_placed`` gives takes as much."""
    own = None if layer.magnitude is None else getattr(module, "bias", None)
    parts = (layer.added, layer.bias, None if own is None else torch.zeros(own.shape))
    shift = next((part for part in parts if part is not None), None)
    return PlacedLayer(layer.a, layer.b, layer.magnitude, shift, layer.embedding)


def _numbers(name: str, path: str, module: Any, kind: str) -> Tensor:
    """A module's weight or bias, float32, on the CPU.

    Raises:
        ModelError: it is packed, or not in memory.
    """
    tensor = _in_float32(getattr(module, kind, None))
    if tensor is None or (kind == "weight" and tuple(tensor.shape) not in _shapes(module)):
        problem = f"the adapter {name} needs the {kind} of {path}, which its base has packed"
        cure = "DoRA and biases are of numbers: give a base without quantization"
        raise ModelError(problem, cure, name, "adapters")
    return tensor


def _shapes(module: Any) -> list[tuple[int, int]]:
    sizes = linear_sizes(module) or _embedding_sizes(module)
    return [] if sizes is None else [sizes, sizes[::-1]]


def _in_float32(weight: Tensor | None) -> Tensor | None:
    """A weight on the CPU; None where it is packed, or not in memory."""
    if weight is None or weight.is_meta or is_traceable_wrapper_subclass(weight):
        return None
    if not weight.is_floating_point() or weight.itemsize < 2:  # an 8-bit float is storage
        return None
    return weight.detach().to("cpu", torch.float32)


def _check_fit(name: str, path: str, module: Any, layer: LayerAdapter, tokens: nn.Module) -> None:
    """Refuse a module that is of another sort, or of another size, than the adapter's."""
    if layer.bias is not None:
        bias = getattr(module, "bias", None)
        if not isinstance(module, nn.LayerNorm) and linear_sizes(module) is None:
            problem = f"the adapter {name} has a bias for {path}, which adds none to its output"
            raise ModelError(problem, _OWN_WEIGHTS, name, "adapters")
        if bias is None or bias.shape != layer.bias.shape:
            have = "none" if bias is None else f"one of {tuple(bias.shape)}"
            problem = f"the adapter {name} has a bias of {tuple(layer.bias.shape)} for {path}"
            raise ModelError(f"{problem}, and its base has {have}", _TRAINED_ON, name, "adapters")
    if layer.a is None or layer.b is None:
        return
    is_tokens = module is tokens
    if layer.embedding:
        sizes = _embedding_sizes(module) if is_tokens else None
    else:
        sizes = linear_sizes(module)
    if sizes is None:
        kind = "the embedding of tokens" if layer.embedding else "a linear layer"
        problem = f"the adapter {name} is on {path}, which is not {kind}"
        raise ModelError(problem, _OWN_WEIGHTS, name)
    if sizes != (layer.a.shape[1], layer.b.shape[0]):
        shapes = f"{sizes[0]}→{sizes[1]}, the adapter's is {layer.a.shape[1]}→{layer.b.shape[0]}"
        problem = f"the adapter {name} does not fit its base: {path} is {shapes}"
        raise ModelError(problem, _TRAINED_ON, name, "adapters")


def _check_same(name: str, path: str, module: Any, saved: Tensor) -> None:
    """Refuse an adapter that brings other weights of its base, in the coarser of their types."""
    own = getattr(module, "weight", None)
    if own is not None and own.shape == saved.shape and (number := _in_float32(own)) is not None:
        coarser = max(own.dtype, saved.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        if torch.equal(number.to(coarser), saved.to(coarser)):
            return
    problem = f"the adapter {name} brings other weights for {path} than its base has"
    problem += ", which rows of a shared base cannot have"
    raise ModelError(problem, _OWN_WEIGHTS, name, "adapters")


def linear_sizes(module: Any) -> tuple[int, int] | None:
    """Input and output size of a linear layer; GPT-2's Conv1D keeps its weight as (in, out)."""
    if hasattr(module, "in_features"):
        return int(module.in_features), int(module.out_features)
    return (int(module.nx), int(module.nf)) if hasattr(module, "nf") else None


def _embedding_sizes(module: Any) -> tuple[int, int] | None:
    """Rows and columns of an embedding that is looked up by token, scaled or not."""
    plain = type(module).forward is nn.Embedding.forward or hasattr(module, "embed_scale")
    if not isinstance(module, nn.Embedding) or not plain:
        return None
    return int(module.num_embeddings), int(module.embedding_dim)
