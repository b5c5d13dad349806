"""How a model reads a prompt with images: the arguments of the forward that does."""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import Tensor

from .positions import rope_index
from .prompt import ImagePrompt


def seen(network: Any, model: Any, prompt: ImagePrompt, tokens: Tensor) -> dict[str, Any]:
    """The arguments besides ids by which a network reads the beginning of a prompt with images.

    Args:
        network: the model, or its backbone.
        tokens: ``(1, q)`` its first ids, all images' among them.
    """
    known, count = signature(network.forward).parameters, tokens.shape[1]
    arguments: dict[str, Any] = {
        name: _like(model, value).to(tokens.device) if isinstance(value, Tensor) else value
        for name, value in prompt.by_position(count).items()
        if name in known and name != "position_ids"
    }
    positions, _ = rope_index(model, prompt)
    if positions is not None:
        arguments["position_ids"] = positions[..., :count].to(tokens.device)
    return arguments


def _like(model: Any, tensor: Tensor) -> Tensor:
    """Pixels in the model's dtype; counts as they are."""
    return tensor.to(model.dtype) if tensor.is_floating_point() else tensor
