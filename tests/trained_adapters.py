"""Adapters of every kind, as peft makes, saves and reads them: what ours is compared with.

A trained adapter is peft's own with every trained parameter moved; nothing here knows of descant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from checkpoints import fresh
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS
from torch import Tensor

IDS = [1, 17, 30, 9, 200, 33, 5]
TARGETS = {"gpt2": ["c_attn", "c_fc"], "opt": ["v_proj", "fc1"]}
NEEDS: dict[str, dict[str, Any]] = {  # what a kind cannot do without, on models of 32 numbers
    "ADALORA": {"total_step": 10},
    "BOFT": {"boft_block_size": 8},
    "C3A": {"block_size": 16},
    "FOURIERFT": {"n_frequency": 50},
    "IA3": {"target_modules": ["v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm", "norm"]},
    "MISS": {"r": 8},
    "OFT": {"oft_block_size": 8},
    "PSOFT": {"r": 8},
    "PVERA": {"target_modules": ["q_proj"]},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"token_indices": [1, 17], "target_modules": None},
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    "VERA": {"target_modules": ["q_proj"]},
    "WAVEFT": {"n_frequency": 40},
}


def config_of(kind: str, base: str = "base", **options: Any) -> Any:
    """peft's configuration of a kind for one of the tiny checkpoints."""
    targets = {"target_modules": TARGETS.get(base, ["q_proj", "v_proj"])}
    return CONFIGS[kind](task_type="CAUSAL_LM", **{**targets, **NEEDS.get(kind, {}), **options})


def trained(base: str, config: Any, folder: Path, seed: int = 3, size: float = 0.1) -> str:
    """The folder of an adapter whose every trained parameter has been moved."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(fresh(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def with_peft(base: str, folder: str) -> Tensor:
    """Log-probabilities after each of the ids, by peft's own reading and forward."""
    model = peft.PeftModel.from_pretrained(fresh(base), folder).eval()
    return logprobs(model, torch.tensor([IDS]))[0]


@torch.no_grad()
def logprobs(model: Any, ids: Tensor) -> Tensor:
    """``(rows, positions, vocabulary)``."""
    return model(input_ids=ids).logits.float().log_softmax(-1)  # type: ignore[no-any-return]
