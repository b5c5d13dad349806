"""Declared models, described and loaded: a base, and what an adapter or a vector makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..adapters.fields import check_merge, check_row
from ..adapters.lora import adapter_folder, read_config
from ..adapters.merged import merged
from ..adapters.steering import ANSWER
from ..adapters.vector_files import read_vector
from ..checkpoint.description import Description, describe
from ..checkpoint.files import folder_identity
from ..checkpoint.resolve import ResolvedModel
from ..errors import ModelError
from ..lanes.adapters import Adapters
from .load import load_model
from .quantized import method_of
from .read_tower import read_tower


def describe_declared(model: ResolvedModel, dtype: str | None, device: str | None) -> Description:
    """The description of the weights that a declared model uses; its adapter is checked too.

    Raises:
        ModelError: nothing there, or a kind of model or of adapter that cannot take part.
    """
    if model.addition is not None and model.addition.head is not None:
        cure = f"write head({model.base}, {model.name}) in a formula"
        raise ModelError(f"{model.name} is a head, and not a model", cure, model.name)
    description = describe(model.base, model.spec, dtype, device)
    if description.config is None and model.merged:
        problem = f"{model.name} is an adapter on a table, which has no layers"
        raise ModelError(problem, "", model.name)
    if model.addition is None or model.addition.adapter is None or description.config is None:
        return description
    name, folder = model.name, _folder(model)
    config = read_config(name, folder)
    if not model.merged:
        check_row(name, config)
        return description
    check_merge(name, config)
    if model.spec.quantization or method_of(description.config):
        problem = f"{name} is to be merged into {model.base}, whose weights are quantised"
        raise ModelError(problem, f"declare {model.base} again without quantization", name)
    if model.spec.tp_plan or model.spec.device_map:
        option = "tp_plan" if model.spec.tp_plan else "device_map"
        problem = f"{name} is to be merged into {model.base}, whose weights are not in one place"
        raise ModelError(problem, f"declare {model.base} again without {option}", name)
    weights = (*description.weights, *folder_identity(str(folder)))
    return replace(description, name=name, weights=weights)


def load_declared(
    description: Description,
    model: ResolvedModel,
    dtype: str | None,
    device: str,
    skeleton: bool = False,
) -> Any:
    """The weights of a declared model, as ``load_model``; merged with its adapter where it says so.

    Raises:
        ModelError: weights that cannot be read, or an adapter that peft cannot merge.
    """
    base = load_model(description, model.spec, dtype, device, skeleton)
    if not model.merged or skeleton:
        return base
    read_tower(base, description, model.spec)  # the adapter may be on it too
    return merged(model.name, base, _folder(model), in_memory=model.spec.model is not None)


def add_declared(model: ResolvedModel, adapters: Adapters) -> int:
    """Load what a declared model adds to the rows of its base; its number there.

    Raises:
        ModelError: it cannot be read, does not fit, or is more than rows can have.
    """
    addition = model.addition
    assert addition is not None
    if addition.vector is None:
        return adapters.add(model.name, _folder(model))
    directions = read_vector(model.name, addition.vector, addition.revision)
    return adapters.add_vector(model.name, directions, addition.tokens or ANSWER)


def _folder(model: ResolvedModel) -> Path:
    assert model.addition is not None
    return Path(adapter_folder(model.addition.adapter, model.addition.revision))
