"""What tests of language-model-arithmetic's classes share: templates, a prompt, loading."""

from __future__ import annotations

from typing import Any

import torch

from descant.compat.model_arithmetic import ModelArithmetic

PROMPT = "a small stone"


def plainly(system_prompt: str, input_string: str) -> str:
    return input_string


def chatty(system_prompt: str, input_string: str) -> str:
    return f"[{system_prompt}] {input_string} >"


def made(formula: Any, **more: Any) -> ModelArithmetic:
    return ModelArithmetic(formula, dtype=torch.float32, **more)
