"""Models of real shapes with random weights, made in memory on the measured device."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

_COMMON = {"eos_token_id": None, "pad_token_id": 0, "max_position_embeddings": 8192 + 256}

# Hidden size, layers, heads, key heads, feed-forward size and vocabulary of published checkpoints;
# "small" is for a CPU, "tiny" for a try.
SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    name: (kind, dict(zip(
        ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "intermediate_size", "vocab_size"), sizes, strict=True,
    )))
    for name, kind, sizes in (
        ("tiny", "llama", (128, 2, 4, 4, 352, 4096)),
        ("tiny-grouped", "mistral", (128, 2, 8, 2, 352, 4096)),
        ("small", "llama", (512, 8, 8, 8, 1376, 32000)),
        ("qwen2.5-0.5b", "qwen2", (896, 24, 14, 2, 4864, 151936)),
        ("qwen2.5-1.5b", "qwen2", (1536, 28, 12, 2, 8960, 151936)),
        ("tinyllama-1.1b", "llama", (2048, 22, 32, 4, 5632, 32000)),
        ("llama-2-7b", "llama", (4096, 32, 32, 32, 11008, 32000)),
    )
}  # fmt: skip
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


def config(shape: str, **more: Any) -> Any:
    """The configuration of a shape."""
    from transformers import AutoConfig

    kind, sizes = SHAPES[shape]
    return AutoConfig.for_model(kind, **_COMMON, **sizes, **more)


def language_model(shape: str, seed: int, dtype: torch.dtype, device: str, **more: Any) -> Any:
    """A causal language model that never ends a text; ``more`` is of its configuration."""
    from transformers import AutoModelForCausalLM

    model = _made(AutoModelForCausalLM, config(shape, **more), seed, dtype, device)
    model.generation_config.eos_token_id = None
    return model


def reward_model(shape: str, seed: int, dtype: torch.dtype, device: str) -> Any:
    """A classifier with one label."""
    from transformers import AutoModelForSequenceClassification

    auto = AutoModelForSequenceClassification
    return _made(auto, config(shape, num_labels=1), seed, dtype, device)


def lora(shape: str, seed: int, folder: Path, rank: int = 16) -> Path:
    """A LoRA adapter on every attention projection, as peft stores one, in ``folder``."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        skeleton = language_model(shape, 0, torch.float32, "meta")
    tensors = {}
    for name, module in skeleton.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in TARGETS:
            sizes = {"A": (rank, module.in_features), "B": (module.out_features, rank)}
            for letter, size in sizes.items():
                weight = torch.randn(size, generator=generator) / size[1] ** 0.5
                tensors[f"base_model.model.{name}.lora_{letter}.weight"] = weight
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    options = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(TARGETS)}
    (folder / "adapter_config.json").write_text(json.dumps({**options, "bias": "none"}))
    return folder


def twin(model: Any) -> Any:
    """Another model over the same weights; hooks and compiled code are not shared."""
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def _made(auto: Any, config: Any, seed: int, dtype: torch.dtype, device: str) -> Any:
    torch.manual_seed(seed)
    with torch.device(device):
        return auto.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()
