"""The tower of an image-text model, read when the first image comes."""

from __future__ import annotations

from typing import Any

from ..checkpoint.description import Description
from ..checkpoint.spec import ModelSpec
from ..footprint import execution_device
from . import towers
from .load import load_part


def read_tower(model: Any, description: Description, spec: ModelSpec) -> None:
    """Read what a model was loaded without, from the same files into the same model.

    It is of the model's dtype, quantised as the spec says, and where tokens are embedded. A model
    that has all its modules stays as it is.

    Args:
        model: as ``load_model`` returned it.
        description, spec: those that it was loaded with.

    Raises:
        ModelError: as of ``load_model``: weights that are missing, or another model's.
    """
    left_out = towers.unread(model)
    if left_out is None:
        return
    device = str(execution_device(model.get_input_embeddings()))
    here = spec.model_copy(update={"device_map": None, "tp_plan": None, "device": device})
    dtype = str(left_out.dtype).removeprefix("torch.")
    language = towers.language_part(model, left_out.towers)
    towers.put_back(model, load_part(description, here, dtype, device, language))
