"""The towers of a model that reads more than text: what a forward of text alone leaves out.

An image-text model is a language model, and a tower for images with what projects its outputs into
the language model's inputs. Which modules those are is found by the model's own code, on torch's
meta device: one token is read, and what stands beside the language model and was not called is
left out, as None, until ``read_tower`` puts it there. No weights are read here.
"""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..cache.kv_cache import RowCache, run_rows
from ..cache.layers.states import layer_kinds
from ..cache.window import Window

_FAULTS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)


@dataclass(frozen=True)
class Unread:
    """What of a model is not read yet.

    Attributes:
        towers: the paths of its modules, as in ``named_modules``.
        dtype: what their weights are to be read as.
    """

    towers: tuple[str, ...]
    dtype: torch.dtype


_unread: weakref.WeakKeyDictionary[nn.Module, Unread] = weakref.WeakKeyDictionary()


def has_tower(model: Any) -> bool:
    """Whether a model reads images, with its tower read or not; in memory or loaded."""
    return "pixel_values" in inspect.signature(type(model).forward).parameters


def tower_is_read(model: Any) -> bool:
    """Whether a model has all its modules; of one without a tower, True."""
    return model not in _unread


def unread(model: Any) -> Unread | None:
    """What of a model is not read yet, or None."""
    return _unread.get(model)


def paths(model: Any) -> tuple[str, ...]:
    """The modules that a model was made without."""
    left_out = _unread.get(model)
    return left_out.towers if left_out is not None else ()


def notes(name: str, model: Any) -> list[str]:
    """What a plan says of a model that was made without some of its modules."""
    if not (here := paths(model)):
        return []
    return [f"{name} is loaded without {' and '.join(here)}, which text does not call"]


def towers_of(model: Any) -> tuple[str, ...]:
    """The modules that text does not call, of a model that has them in memory."""
    with torch.device("meta"):
        skeleton = type(model)._from_config(copy.deepcopy(model.config)).eval()
    take_out_towers(skeleton, model.dtype)
    return paths(skeleton)


def take_out_towers(skeleton: Any, dtype: torch.dtype) -> None:
    """Leave out the modules that a forward of text alone does not call, beside the language model.

    Where the model's code fails on the meta device before it comes to its layers, none; where it
    fails among them, those that stand beside what was called and not on the whole of it. Nor where
    the code asks something else of them than to be called.

    Args:
        skeleton: the model, on torch's meta device.
        dtype: what their weights are to be read as.
    """
    if skeleton.config.get_text_config() is skeleton.config:
        return
    called: set[nn.Module] = set()
    hooks = [
        module.register_forward_pre_hook(lambda module, _: called.add(module))
        for module in skeleton.modules()
    ]
    fault = _reading_one_token(skeleton)
    for hook in hooks:
        hook.remove()
    embedding = _embedding(skeleton)
    if embedding not in called:
        return
    uncalled = _uncalled(skeleton, embedding, called)
    found = {path: skeleton.get_submodule(path) for path in uncalled if not fault or "." in path}
    leave_out(skeleton, found)
    if found and _reading_one_token(skeleton) == fault:
        _unread[skeleton] = Unread((*found,), dtype)
        return
    for path, module in found.items():
        _put(skeleton, path, module)


def without(cls: type, towers: Sequence[str]) -> type:
    """A class of transformers whose models are made without some of their modules.

    What a checkpoint has for these is not read.
    """

    def make(self: Any, config: Any, *args: Any, **options: Any) -> None:
        cls.__init__(self, config, *args, **options)  # type: ignore[misc]
        leave_out(self, towers)

    ignored = [*(getattr(cls, "_keys_to_ignore_on_load_unexpected", None) or ())]
    ignored += [rf"^{path}\." for path in towers]
    members = {
        "__init__": make, "__module__": cls.__module__, "__qualname__": cls.__qualname__,
        "_keys_to_ignore_on_load_unexpected": ignored,
    }  # fmt: skip
    return type(cls.__name__, (cls,), members)


def leave_out(model: Any, towers: Iterable[str]) -> None:
    """Put None in the place of some of a model's modules."""
    for path in towers:
        _put(model, path, None)
    tied = getattr(model, "all_tied_weights_keys", None)
    if tied:
        kept = {*model.state_dict()}
        pairs = {target: source for target, source in tied.items() if {target, source} <= kept}
        model.all_tied_weights_keys = pairs


def mark_unread(model: Any, towers: Sequence[str], dtype: torch.dtype) -> None:
    """Remember that a model was loaded without some of its modules."""
    _unread[model] = Unread(tuple(towers), dtype)


def put_back(model: Any, complete: Any) -> None:
    """Give a model the modules that it was loaded without, from another one that has them."""
    for path in _unread[model].towers:
        _put(model, path, complete.get_submodule(path))
    del _unread[model]


def language_part(model: Any, towers: Sequence[str]) -> tuple[str, ...]:
    """The modules beside some: what is left out where these alone are read."""
    paths: list[str] = []

    def walk(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            path = prefix + name
            if path in towers:
                continue
            if any(tower.startswith(f"{path}.") for tower in towers):
                walk(child, f"{path}.")
            else:
                paths.append(path)

    walk(model, "")
    return tuple(paths)


def _uncalled(skeleton: Any, embedding: nn.Module, called: set[nn.Module]) -> list[str]:
    """The modules beside the language model, from the whole model down, of which none was called.

    The language model is what has the embedding of tokens. It may leave layers out itself, and
    experts; only a model in it, with a configuration of its own, is a tower.
    """
    towers, head = [], skeleton.get_output_embeddings()
    module, prefix = skeleton, ""
    while module is not None:
        children, inner = dict(module.named_children()), None
        is_language_model = embedding in children.values()
        for name, child in children.items():
            inside = {*child.modules()}
            if embedding in inside:
                inner = None if is_language_model else (child, f"{prefix}{name}.")
                continue
            own = isinstance(child, PreTrainedModel) or not is_language_model
            if own and head not in inside and not inside & called and [*child.parameters()]:
                towers.append(prefix + name)
        module, prefix = inner or (None, "")
    return towers


def _embedding(skeleton: Any) -> nn.Module | None:
    """What embeds tokens; None where transformers does not find it."""
    try:
        module: nn.Module = skeleton.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    return module


def _put(model: nn.Module, path: str, module: nn.Module | None) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


@torch.no_grad()
def _reading_one_token(skeleton: Any) -> str:
    """What goes wrong when a model on the meta device reads a token; "" for nothing."""
    token = torch.zeros(1, 1, dtype=torch.long, device="meta")
    try:
        cache = RowCache(1, 1, 0, layer_kinds(skeleton.config.get_text_config()))
        run_rows(skeleton, cache, Window(token, 1, slice(0, 1), token), token, token)
    except _FAULTS as error:
        return str(error) or type(error).__name__
    return ""
