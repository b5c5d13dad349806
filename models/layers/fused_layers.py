"""The layers of a lane in few launches: whether they can be, and in which forwards they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.modules import module as torch_module

from ..adapters.decoder_layers import decoder_layers
from ..cache.window import Window
from ..errors import ModelError
from ..footprint import on_one_device
from ..kernels.gpu import why_disabled, why_no_triton
from .comparison import Comparison
from .known import is_norm, why_unknown
from .layer import FusedLayer, FusedNorm, RowAdapters, why_not_joined_in

_log = logging.getLogger("descant")


class FusedLayers:
    """What computes the decoder layers of a model in the forwards of one lane.

    Matrices are joined here, before anything of the model is recorded, and never again: recordings
    hold their addresses.

    Args:
        model: a transformers model.
        device: that the lane is on; elsewhere than on CUDA, transformers' code computes layers.
        adapters: of the lane.

    Attributes:
        why_plain: why transformers' code computes layers, or None.
    """

    def __init__(self, model: Any, device: torch.device, adapters: RowAdapters) -> None:
        self._name = type(model).__name__
        self._parts: list[FusedLayer | FusedNorm] = []
        self._is_proven = False
        self.why_plain = self._why_plain(model, device)
        if self.why_plain is None:
            self._find(model, adapters)

    @contextmanager
    def during(self, window: Window) -> Iterator[None]:
        """Around a forward of the model: layers are computed in few launches, where they can be.

        They are where rows attend by live lengths, to a few queries each.
        """
        live = window.live and window.tables is not None and window.start is None
        if self.why_plain is not None or not live or window.images or _is_watched():
            yield
            return
        comparison = self.first()
        if comparison is not None and _is_recorded():
            yield  # which is compared another time
            return
        with ExitStack() as stack:
            for part in self._parts:
                if part.is_usable:
                    stack.enter_context(part.installed(window, comparison))
            yield
        if comparison is not None and not comparison.is_empty:
            self._judge(comparison)

    def first(self) -> Comparison | None:
        """A comparison where a forward is the first, in which layers are computed both ways."""
        return None if self._is_proven else Comparison()

    def _judge(self, comparison: Comparison) -> None:
        self._is_proven, self.why_plain = True, comparison.why_not()
        if self.why_plain is not None:
            cure = "please report this with the output of `descant doctor --gpu`"
            how = "layers go on in transformers' code"
            _log.warning("%s: %s, for %s; %s", self._name, how, self.why_plain, cure)

    def _why_plain(self, model: Any, device: torch.device) -> str | None:
        if device.type != "cuda":
            return "it is not on a GPU"
        asked = torch.cuda.is_available()
        capability = torch.cuda.get_device_capability(device) if asked else None
        if why := why_disabled("layers") or why_no_triton(capability):
            return why
        if not on_one_device(model):
            return "its weights are on several devices, or moved"
        if any(module._compiled_call_impl is not None for module in model.modules()):
            return "it is compiled"
        try:
            layers = decoder_layers(self._name, model)
        except ModelError:
            return "it has no one stack of decoder layers"
        reasons = (why_unknown(layer) or why_not_joined_in(layer) for layer in layers)
        return next(filter(None, reasons), None)

    def _find(self, model: Any, adapters: RowAdapters) -> None:
        stack = decoder_layers(self._name, model)
        paths = {id(module): path for path, module in model.named_modules()}
        for layer in stack:
            self._parts.append(FusedLayer(layer, paths[id(layer)], adapters))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # what the layer's matrices were in
        holder = next(each for each in model.modules() if any(c is stack for c in each.children()))
        norm = getattr(holder, "norm", None)
        if norm is not None and is_norm(norm):
            self._parts.append(FusedNorm(norm))


def _is_watched() -> bool:
    """Whether anybody looks at all modules."""
    return bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks)


def _is_recorded() -> bool:
    """Whether a CUDA graph is made of what runs, in which nothing can be compared."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
