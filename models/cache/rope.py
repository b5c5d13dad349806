"""Rotary frequencies that depend on how long a text is: for each row, by its own length.

LongRoPE (Ding et al. 2024, arXiv:2402.13753) has one set of frequencies for texts up to the length
of pretraining and another one for longer texts. transformers picks the set by the largest position
of a batch, so that rows of one batch would change each other.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_LIMIT = "original_max_position_embeddings"


def length_limits(config: Any) -> list[int]:
    """The lengths beyond which a model has other frequencies, in ascending order.

    Args:
        config: of the model; one with several kinds of layers has rotary parameters for each.
    """
    parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [parameters, *(item for item in parameters.values() if isinstance(item, Mapping))]
    return sorted({limit for kind in kinds if (limit := _limit(kind)) is not None})


def _limit(parameters: Mapping[str, Any]) -> int | None:
    """The length beyond which rotary parameters stand for other frequencies or another scale."""
    by_length = parameters.get("rope_type") == "longrope" or "long_mscale" in parameters
    return int(parameters[_LIMIT]) if by_length else None


class RowRope:
    """The frequencies of each row, in every rotary embedding of a model; the model stays as it is.

    A hook computes both sets and gives every row its own; nothing waits for the device.

    Args:
        model: with ``length_limits``.
    """

    def __init__(self, model: nn.Module) -> None:
        self._lengths: Tensor | None = None
        hooks: list[Any] = []
        weakref.finalize(self, _remove, hooks)
        for module in model.modules():
            if hasattr(module, "rope_type"):  # a rotary embedding
                hooks.append(module.register_forward_hook(self._hook(), with_kwargs=True))

    @contextmanager
    def during(self, positions: Tensor, lengths: Tensor) -> Iterator[None]:
        """During this context, rows have the frequencies of texts of ``(n,)`` lengths."""
        self._lengths = lengths
        try:
            yield
        finally:
            self._lengths = None

    def _hook(self) -> Any:
        owner = weakref.ref(self)  # the model outlives the lane

        def per_row(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            rope = owner()
            if rope is None or rope._lengths is None:
                return None
            call = inspect.signature(module.forward).bind(*args, **kwargs)
            kind, positions = call.arguments.get("layer_type"), call.arguments["position_ids"]
            parameters = module.config.rope_parameters
            limit = _limit(parameters.get(kind, parameters))
            if limit is None:
                return None

            def at(positions: Tensor) -> Any:
                call.arguments["position_ids"] = positions
                return module.forward(*call.args, **call.kwargs)

            # The largest position decides: one more column makes it long, a bound makes it short.
            column = positions.new_full((len(positions), 1), limit)
            long, short = (
                at(torch.cat((positions, column), dim=1)),
                at(positions.clamp(max=limit - 1)),
            )
            is_long = rope._lengths > limit
            if isinstance(output, Tensor):
                return _chosen(is_long, long, short)
            return tuple(_chosen(is_long, *pair) for pair in zip(long, short, strict=True))

        return per_row


def _chosen(is_long: Tensor, long: Tensor, short: Tensor) -> Tensor:
    """Of ``(n, q + 1, …)`` and ``(n, q, …)``, each row's own."""
    mask = is_long.view(-1, *[1] * (short.dim() - 1)).to(short.device)
    return torch.where(mask, long[:, : short.shape[1]], short)


def _remove(hooks: list[Any]) -> None:
    for hook in hooks:
        hook.remove()
