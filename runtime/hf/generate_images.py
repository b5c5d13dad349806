"""The images of a call of transformers' ``generate``: what its processor gave besides the ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import ArgumentError
from ...models.images.prompt import ImagePrompt
from ..binding.bound import Bound


def parted(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments by which a model reads images, none where there are none; and all others."""
    images, others = dict[str, Any](), dict[str, Any]()
    for name, value in arguments.items():
        is_image = name.startswith(("pixel_values", "pixel_attention", "image_"))
        kinds = images if is_image or name.endswith("token_type_ids") else others
        kinds[name] = value
    features = others.pop("mm_encoder_outputs", None) or {}  # transformers has run the tower
    if any(value is not None for value in features.values()):
        images["mm_encoder_outputs"] = features
        positions = others.pop("position_ids", None)
        if positions is not None and positions.ndim == 3:
            images["position_ids"] = positions[-3:]  # the first are those in the text
    images = {name: value for name, value in images.items() if value is not None}
    return (images if {"pixel_values", "mm_encoder_outputs"} & {*images} else {}), others


def prompt_seen(
    bound: Bound, model: Any, prompts: Sequence[Sequence[int]], rows: int, images: Mapping[str, Any]
) -> ImagePrompt:
    """The prompt of a call with images that are one model's inputs.

    Args:
        prompts: the ids of each.
        rows: of the call.
        images: the inputs.

    Raises:
        ArgumentError: several rows, or a term that is another model's or reads another prompt.
    """
    cure = "give prompts=…, messages with their images, and each model reads them by itself"
    if rows != 1:
        raise ArgumentError(f"whose images these are is not known, of {rows} rows; {cure}")
    for term in bound.all_terms:
        own = getattr(bound.lanes[term.lane], "model", None) is model
        if not own and not term.term.alone:
            problem = "the images are inputs of the model that generate was called on, and "
            raise ArgumentError(f"{problem}{term.term} is another; {cure}")
    return ImagePrompt(prompts[0], images)
