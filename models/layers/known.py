"""Which decoder layers can be computed in few launches: by their exact classes, and plain weights.

A class is known by its name and file, so that nothing of transformers is imported here. That its
forward is what it was is shown by the first forward of a lane, which computes every layer both
ways.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from ..kernels.live_attention import DTYPES
from .norms import MAX_SIZE

FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
HEAD_NORMS = ("qwen3",)  # of queries and of keys
_SILU = (nn.SiLU, type(ACT2FN["silu"]))


def family_of(layer: nn.Module) -> str | None:
    """The family whose decoder layer this is, and no subclass of it; None of others."""
    return next((name for name in FAMILIES if _is(layer, name, "DecoderLayer")), None)


def why_unknown(layer: Any) -> str | None:
    """Why a decoder layer is computed by transformers' code, in words; None where it is known."""
    family = family_of(layer)
    if family is None:
        return f"its layers are of the class {type(layer).__name__}"
    attention, mlp = layer.self_attn, layer.mlp
    kinds = [(attention, "Attention"), (mlp, "MLP")]
    kinds += [(norm, "RMSNorm") for norm in norms_of(layer)]
    changed = [module for module, kind in kinds if not _is(module, family, kind)]
    changed += [module for module in linears_of(layer) if not _is_linear(module)]
    if type(mlp.act_fn) not in _SILU or "forward" in vars(mlp.act_fn):
        changed.append(mlp.act_fn)
    if changed:
        return f"its layers have parts of the class {type(changed[0]).__name__}"
    joined = linears_of(layer)[:3], linears_of(layer)[4:6]
    if any(len({module.bias is None for module in modules}) > 1 for modules in joined):
        return "some of its products have biases, and others that read the same have none"
    return _why_not_plain(layer)


def _why_not_plain(layer: Any) -> str | None:
    """What its weights or its sizes are that no kernel takes."""
    weights = list(layer.parameters())
    kinds = {weight.dtype for weight in weights}
    if len(kinds) > 1 or not kinds <= DTYPES.keys():
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        return f"its layers are in {names}: one of {', '.join(DTYPES.values())} is taken"
    if len({weight.device for weight in weights}) > 1:
        return "a layer of it is on several devices"
    if any(type(weight) is not nn.Parameter and not _is_fake(weight) for weight in weights):
        return "its weights are no plain tensors"
    if any(weight.is_inference() for weight in weights):
        return "its weights were made in inference mode"
    hidden = len(layer.input_layernorm.weight)
    if hidden > MAX_SIZE:
        return f"its hidden states are {hidden} wide: at most {MAX_SIZE} is taken"
    if layer.self_attn.head_dim % 2:
        return f"heads of size {layer.self_attn.head_dim} have no halves"
    return None


def norms_of(layer: Any) -> list[Any]:
    """Before attention, before the feed-forward part, and those of heads."""
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    if family_of(layer) in HEAD_NORMS:
        norms += [layer.self_attn.q_norm, layer.self_attn.k_norm]
    return norms


def linears_of(layer: Any) -> Sequence[Any]:
    """Of queries, keys, values, attention's output; gate, up and down."""
    attention, mlp = layer.self_attn, layer.mlp
    return (
        attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
        mlp.gate_proj, mlp.up_proj, mlp.down_proj,
    )  # fmt: skip


def inner_modules(layer: Any) -> list[nn.Module | None]:
    """The modules in a layer: attention, the feed-forward part, norms, and what those two have."""
    parts = layer, layer.self_attn, layer.mlp
    return [module for part in parts for module in part._modules.values()]


def is_norm(module: nn.Module) -> bool:
    """Whether it is a norm of one of the families."""
    return any(_is(module, family, "RMSNorm") for family in FAMILIES)


def _is(module: Any, family: str, kind: str) -> bool:
    """Whether a module is of a family's class, with the forward of that class."""
    known, file = type(module), f"transformers.models.{family}.modeling_{family}"
    if (known.__module__, known.__qualname__) != (file, FAMILIES[family] + kind):
        return False
    return "forward" not in vars(module) and inspect.unwrap(known.forward).__module__ == file


def _is_linear(module: Any) -> bool:
    return type(module) is nn.Linear and "forward" not in vars(module)


def _is_fake(weight: torch.Tensor) -> bool:
    return type(weight).__name__ == "FakeTensor"
