"""A decoder layer of the Llama family in ten launches, of which four are products.

What it gives differs from transformers' code by the order in which sums are added up, and by one
rounding less: the last product is added to the layer's sum as it is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..cache.attention import by_live_lengths, unknown_settings
from ..cache.blocks.paged_cache import PagedLayer
from ..cache.masks import LiveWindow, live_window
from ..cache.window import Window
from .comparison import Comparison
from .gated import gated
from .joined import Joined, join, why_not_joined
from .known import HEAD_NORMS, family_of, inner_modules, linears_of
from .norms import add_rms_norm, rms_norm
from .rotary import rotate_into_pages

# Hooks on modules in a layer that need not run: rows' adapters, of this lane and of others, and
# those by which transformers looks at weights of attention, which nobody asks for.
_HOOKS = ("descant.models.adapters.", "transformers.utils.output_capturing")


class RowAdapters(Protocol):
    """What rows add to modules in a layer."""

    def joins(self, paths: tuple[str, ...]) -> bool:
        """Whether ``add_to`` adds all that rows add to the outputs of these modules."""

    def add_to(self, paths: tuple[str, ...], x: Tensor, out: Tensor) -> Tensor:
        """Add to ``out``, in place, what rows add to the outputs of modules that read ``x``."""


class FusedLayer:
    """What computes a decoder layer; the layer stays as it is, but for where its weights lie.

    Args:
        module: a layer that is known.
        path: its name in the model.
        adapters: of the lane.
    """

    def __init__(self, module: Any, path: str, adapters: RowAdapters) -> None:
        self.module, self._adapters = module, adapters
        query, key, value, self._out, opened, up, self._down = linears_of(module)
        self._inputs, self._gates = join((query, key, value)), join((opened, up))
        names = {id(inner): name for name, inner in module.named_modules()}
        joined = (query, key, value), (self._out,), (opened, up), (self._down,)
        self._paths = [tuple(f"{path}.{names[id(one)]}" for one in some) for some in joined]
        self._has_head_norms = family_of(module) in HEAD_NORMS
        self._inner = inner_modules(module)

    @property
    def is_usable(self) -> bool:
        """Whether the module is what it was, nobody looks into it, and its rows' adapters fit."""
        if inner_modules(self.module) != self._inner or "forward" in vars(self.module):
            return False
        if not self._inputs.is_current or not self._gates.is_current:
            return False
        if any(map(_is_watched, self._inner)):
            return False
        return all(map(self._adapters.joins, self._paths))

    @contextmanager
    def installed(self, window: Window, comparison: Comparison | None) -> Iterator[None]:
        """In this context, the module's forward is this.

        Args:
            window: of the forward that runs. Others, in other threads, go their own way.
            comparison: where both ways are to be compared; the module gives what it always does.
        """

        def forward(hidden_states: Tensor, **settings: Any) -> Any:
            plain = type(self.module).forward
            live = self._live(hidden_states, settings)
            if live is None or live.window is not window:
                return plain(self.module, hidden_states, **settings)
            if comparison is None:
                return self._computed(hidden_states, live, settings)
            found = comparison.tried(lambda: self._computed(hidden_states, live, settings))
            expected = plain(self.module, hidden_states, **settings)  # whose keys stay
            comparison.add(found, expected, hidden_states)
            return expected

        vars(self.module)["forward"] = forward
        try:
            yield
        finally:
            del vars(self.module)["forward"]

    def _live(self, hidden: Tensor, settings: dict[str, Any]) -> LiveWindow | None:
        """What attention goes by; None where it goes by a mask, or is told what is not known."""
        known = ("attention_mask", "past_key_values", "position_embeddings")
        others = {name: said for name, said in settings.items() if name not in known}
        mask, cache, turns = map(settings.get, known)
        live = live_window(mask)
        if live is None or live.window.places is None or turns is None or cache is None:
            return None
        if unknown_settings(others) or hidden.dim() != 3:
            return None
        shape = (*hidden.shape[:2], self.module.self_attn.head_dim)
        pages, kind = self._pages(cache), self.module.input_layernorm.weight.dtype
        if not isinstance(pages, PagedLayer) or pages.keys is None:
            return None
        if any(turn.shape != shape for turn in turns):
            return None
        kinds = {each.dtype for each in (hidden, *turns, pages.keys)}
        return live if kinds == {kind} else None

    def _pages(self, cache: Any) -> Any:
        return cache.layers[self.module.self_attn.layer_idx]

    def _computed(self, hidden: Tensor, live: LiveWindow, settings: dict[str, Any]) -> Tensor:
        """``(n, q, hidden)`` of a tensor that is not written to: others may have kept it."""
        layer, attention = self.module, self.module.self_attn
        inputs, outputs, gates, downs = self._paths
        first, second = layer.input_layernorm, layer.post_attention_layernorm
        normed = rms_norm(hidden, first.weight, first.variance_epsilon)
        joined = _product(normed, self._inputs)
        self._adapters.add_to(inputs, normed, joined)
        pages = self._pages(settings["past_key_values"])
        queries = self._rotated(joined, live, pages, settings["position_embeddings"])
        pools = pages.keys.transpose(1, 2), pages.values.transpose(1, 2)
        mixed = by_live_lengths(queries, *pools, live, {"scaling": attention.scaling}).flatten(2)
        out = functional.linear(mixed, self._out.weight, self._out.bias)
        self._adapters.add_to(outputs, mixed, out)
        total, normed = add_rms_norm(hidden, out, second.weight, second.variance_epsilon)
        joined = _product(normed, self._gates)
        self._adapters.add_to(gates, normed, joined)
        opened = gated(joined)
        total.view(-1, total.shape[-1]).addmm_(opened.flatten(0, 1), self._down.weight.T)
        if self._down.bias is not None:
            total += self._down.bias
        self._adapters.add_to(downs, opened, total)
        return total

    def _rotated(
        self, joined: Tensor, live: LiveWindow, pages: Any, turns: tuple[Tensor, Tensor]
    ) -> Tensor:
        places, norms, eps = live.window.places, None, 0.0
        assert places is not None
        if self._has_head_norms:
            query_norm, key_norm = self.module.self_attn.q_norm, self.module.self_attn.k_norm
            norms, eps = (query_norm.weight, key_norm.weight), query_norm.variance_epsilon
        return rotate_into_pages(joined, *turns, pages.keys, pages.values, *places, norms, eps)


class FusedNorm:
    """What computes a norm behind the layers; as ``FusedLayer``."""

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    def is_usable(self) -> bool:
        """Whether the module is what it was."""
        return "forward" not in vars(self.module)

    @contextmanager
    def installed(self, window: Window, comparison: Comparison | None) -> Iterator[None]:
        """As of ``FusedLayer``."""

        def forward(hidden_states: Tensor) -> Tensor:
            module = self.module
            if hidden_states.dtype != module.weight.dtype:
                return type(module).forward(module, hidden_states)  # type: ignore[no-any-return]
            if comparison is None:
                return rms_norm(hidden_states, module.weight, module.variance_epsilon)
            found = comparison.tried(
                lambda: rms_norm(hidden_states, module.weight, module.variance_epsilon)
            )
            expected: Tensor = type(module).forward(module, hidden_states)
            comparison.add(found, expected, torch.zeros_like(expected))
            return expected

        vars(self.module)["forward"] = forward
        try:
            yield
        finally:
            del vars(self.module)["forward"]


def why_not_joined_in(module: Any) -> str | None:
    """Why a layer's matrices cannot be joined, or None."""
    query, key, value, _, opened, up, _ = linears_of(module)
    return why_not_joined((query, key, value)) or why_not_joined((opened, up))


def _product(x: Tensor, joined: Joined) -> Tensor:
    return functional.linear(x, joined.weight, joined.bias)


def _is_watched(module: Any) -> bool:
    """Whether anybody has a hook on a module that has to run."""
    if not module._forward_hooks and not module._forward_pre_hooks:
        return False
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(not str(getattr(hook, "__module__", "")).startswith(_HOOKS) for hook in hooks)
