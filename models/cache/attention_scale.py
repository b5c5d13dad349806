"""Attention that is scaled by a query's position: for each row, by its own.

Llama 4 sharpens the attention of layers without rotary embeddings as texts grow (Nakanishi 2025,
arXiv:2501.19399). transformers counts positions from the length of the cache, for all rows alike.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def scaled_layers(model: nn.Module) -> list[Any]:
    """The attention layers that scale queries by positions that they count themselves."""
    return [
        module
        for module in model.modules()
        if getattr(module, "attn_temperature_tuning", False) and not module.use_rope
    ]


class RowScale:
    """The scale of each row's queries, in every layer that has one; the model stays as it is.

    Queries are projected linearly, without a norm after it, so their projection is scaled instead.

    Args:
        model: with ``scaled_layers``.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = scaled_layers(model)
        self._positions: Tensor | None = None
        hooks: list[Any] = []
        weakref.finalize(self, _remove, hooks)
        for layer in self._layers:
            hooks.append(layer.q_proj.register_forward_hook(self._hook(layer)))

    @contextmanager
    def during(self, positions: Tensor, lengths: Tensor) -> Iterator[None]:
        """During this context, queries are at ``(n, q)`` positions; lengths do not matter."""
        self._positions = positions
        for layer in self._layers:
            layer.attn_temperature_tuning = False
        try:
            yield
        finally:
            self._positions = None
            for layer in self._layers:
                layer.attn_temperature_tuning = True

    def _hook(self, layer: Any) -> Any:
        owner = weakref.ref(self)  # the model outlives the lane

        def per_row(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            scale = owner()
            if scale is None or scale._positions is None:
                return None
            tokens = (scale._positions.float() + 1.0) / layer.floor_scale
            factors = torch.log1p(torch.floor(tokens)) * layer.attn_scale + 1.0
            scaled: Tensor = output * factors[..., None].to(output.device)
            return scaled.to(output.dtype)

        return per_row


def _remove(hooks: list[Any]) -> None:
    for hook in hooks:
        hook.remove()
