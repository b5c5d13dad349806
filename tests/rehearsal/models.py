"""Models without numbers: shapes of published checkpoints on fake devices, and adapters on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

# Hidden size, feed-forward size, layers, heads, key heads, vocabulary.
SHAPES = {
    "tiny": (64, 128, 2, 4, 2, 512),
    "llama-2-7b": (4096, 11008, 32, 32, 32, 32000),
    "llama-3.1-8b": (4096, 14336, 32, 32, 8, 128256),
    "llama-2-70b": (8192, 28672, 80, 64, 8, 32000),
}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


def config(shape: str, layers: int = 0, **more: Any) -> LlamaConfig:
    """A Llama of a shape, or of so many of its layers."""
    hidden, inner, depth, heads, groups, words = SHAPES[shape]
    sizes = {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers or depth,
        "num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": words,
        "max_position_embeddings": 16384, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    return LlamaConfig(**{**sizes, **more})


def language_model(
    shape: str, layers: int = 0, device_map: Mapping[str, str] | None = None, **more: Any
) -> Any:
    """A causal language model in bfloat16, on ``cuda:0`` or laid out by a device map."""
    return _placed(LlamaForCausalLM, config(shape, layers, **more), device_map)


def reward_model(shape: str, layers: int = 0, **more: Any) -> Any:
    """A classifier with one label, read token by token."""
    return _placed(
        LlamaForSequenceClassification, config(shape, layers, num_labels=1, **more), None
    )


def write_lora(folder: Path, rank: int) -> None:
    """What peft writes for an adapter on the attention projections, with nothing in its weights."""
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": [*TARGETS]}
    (folder / "adapter_config.json").write_text(json.dumps({**said, "bias": "none"}))
    (folder / "adapter_model.safetensors").touch()


def lora_layers(folder: Path, model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """What would stand in such a file for a model: A and B by module."""
    rank = json.loads((folder / "adapter_config.json").read_text())["r"]
    return {
        path: (torch.zeros(rank, one.in_features), torch.zeros(one.out_features, rank))
        for path, one in model.named_modules()
        if isinstance(one, nn.Linear) and path.rpartition(".")[2] in TARGETS
    }


def layers_over(devices: int, layers: int) -> dict[str, str]:
    """A device map: as many layers on each, the embedding on the first, the head on the last."""
    layout = {f"model.layers.{i}": i * devices // layers for i in range(layers)}
    ends = {"model.norm": devices - 1, "lm_head": devices - 1}
    layout |= {"model.embed_tokens": 0, "model.rotary_emb": 0, **ends}
    return {path: f"cuda:{number}" for path, number in layout.items()}


def _placed(kind: Any, config: LlamaConfig, device_map: Mapping[str, str] | None) -> Any:
    options = {"dtype": torch.bfloat16, "attn_implementation": "sdpa"}
    with torch.device("meta"):
        model = kind._from_config(config, **options).requires_grad_(False).eval()
    for path, module in model.named_modules():
        device = _device_of(path, device_map or {})
        for name, weight in module._parameters.items():
            if weight is not None:
                there = torch.empty(weight.shape, dtype=weight.dtype, device=device)
                module._parameters[name] = nn.Parameter(there, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                there = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
                module._buffers[name] = there
    if device_map is not None:
        from accelerate import dispatch_model

        model = dispatch_model(model, dict(device_map), force_hooks=True)
    return model


def _device_of(path: str, device_map: Mapping[str, str]) -> str:
    """The device of a module: that of the longest beginning of its path."""
    found = [name for name in device_map if path == name or path.startswith(f"{name}.")]
    return device_map[max(found, key=len)] if found else "cuda:0"
