"""Where the modules of an adapter are in an image-text model.

An image-text model has its language model under a path of its own, which older versions of
transformers had elsewhere, and which an adapter of the language model alone does not know. A
module is found by the end of its path, inside the language model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from .lora import Adapter


def placed_in(model: Any, adapter: Adapter) -> Adapter:
    """The adapter with the paths that its modules have in a model; what is nowhere stays."""
    config = getattr(model, "config", None)
    modules = dict(model.named_modules())
    paths = {*adapter.layers, *adapter.base_weights}
    if config is None or config.get_text_config() is config or paths <= modules.keys():
        return adapter
    embedding = model.get_input_embeddings()
    holder = next(path for path, module in modules.items() if embedding in module.children())
    found = {path: _found(path, holder, modules) for path in paths}
    if len({*found.values()}) < len(found):  # two of its modules would be one
        return adapter
    layers = {found[path]: layer for path, layer in adapter.layers.items()}
    weights = {found[path]: weight for path, weight in adapter.base_weights.items()}
    return replace(adapter, layers=layers, base_weights=weights)


def is_left_out(model: nn.Module, path: str) -> bool:
    """Whether a path is in a part that a model was loaded without."""
    module: nn.Module | None = model
    for name in path.split("."):
        assert module is not None
        if name not in module._modules:
            return False
        module = module._modules[name]
        if module is None:
            return True
    return False


def _found(path: str, holder: str, modules: Mapping[str, nn.Module]) -> str:
    names = path.split(".")
    ends = [".".join(names[start:]) for start in range(len(names))]
    inside = (f"{holder}.{end}" for end in ends)
    return next((other for other in (path, *inside, *ends) if other in modules), path)
