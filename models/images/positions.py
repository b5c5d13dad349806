"""Rotary positions of several axes: those of a prompt with images, and of what follows it.

In the Qwen2-VL family an image's tokens have a time, a height and a width (Wang et al. 2024,
arXiv:2409.12191), and text goes on after the largest of them. The model's code says which.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor

from .prompt import ImagePrompt


def has_axes(model: Any) -> bool:
    """Whether a model's rotary positions have several axes."""
    return hasattr(model.base_model, "get_rope_index")


def rope_index(model: Any, prompt: ImagePrompt) -> tuple[Tensor | None, int]:
    """Positions of a prompt's tokens, ``(axes, 1, tokens)``; None where they are those in the text.

    And what is to be added to the position in the text of every token after the prompt.
    """
    if not has_axes(model):
        return None, 0
    if (known_positions := prompt.inputs.get("position_ids")) is not None:
        return known_positions, int(known_positions.max()) + 1 - len(prompt)
    find = model.base_model.get_rope_index
    known = signature(find).parameters
    inputs = {name: tensor for name, tensor in prompt.inputs.items() if name in known}
    positions, offset = find(torch.tensor([list(prompt)]), **inputs)
    return positions, int(offset)
