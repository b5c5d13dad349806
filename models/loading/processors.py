"""The processor of a checkpoint that reads images; nothing is read before the first of them."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from ..checkpoint.description import Description
from ..checkpoint.hub import hub_error
from ..checkpoint.spec import ModelSpec
from ..errors import ModelError, first_line, read_by_a_library
from ..images.processor import PromptProcessor
from .read_tower import read_tower
from .towers import has_tower


def declared_processor(
    spec: ModelSpec, description: Description, model: Any
) -> PromptProcessor | None:
    """The processor of a declared model: its spec's, or its checkpoint's; None without eyes.

    Raises:
        ModelError: a processor is declared of a model that has no image tower.
    """
    name, tokenizer = description.name, description.tokenizer
    if not has_tower(model):
        if spec.processor is not None:
            problem = f"{name} has a processor, and its model has no image tower"
            raise ModelError(problem, "leave processor out", name)
        return None
    source = spec.processor if spec.processor is not None else spec.path
    if source is None:
        return None
    see = partial(read_tower, model, description, spec)
    if not isinstance(source, (str, os.PathLike)):
        return PromptProcessor(name, tokenizer, lambda: source, see)
    if description.revision is not None and source == spec.path:
        spec = spec.model_copy(update={"revision": description.revision})
    return PromptProcessor(name, tokenizer, partial(_read, name, spec, str(source)), see)


def _read(name: str, spec: ModelSpec, source: str) -> Any:
    """The processor of a folder or hub id, as transformers reads it."""
    from transformers import AutoProcessor

    revision = spec.revision if source == spec.path else None

    def unreadable(error: BaseException) -> ModelError:
        if isinstance(error, ImportError):
            problem = f"the processor of {name} cannot be made: {first_line(error)}"
            cure = "install what it names; torchvision comes from where your torch is from"
            return ModelError(problem, cure, name)
        other = f"{source} has none that can be read: ", "name one with processor: …"
        return hub_error(error, source, revision, name, other, f"the processor of {name}: ")

    with read_by_a_library(unreadable):
        processor = AutoProcessor.from_pretrained(
            source, revision=revision or "main", trust_remote_code=spec.trust_remote_code
        )
    if getattr(processor, "image_processor", None) is None:
        problem = f"{name} has eyes, and {source} says nothing of how it reads images"
        raise ModelError(problem, "name another with processor: …", name)
    return processor
