"""Value heads of causal language models: one number for every token.

TRL's AutoModelForCausalLMWithValueHead saves ``v_head.summary.weight`` among the weights of the
language model, LLaMA-Factory in a ``value_head.safetensors`` of its own; config.json mentions
neither. Such a checkpoint is a reward model where a stage names it, and a language model as a term.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ..checkpoint.description import REWARD, SCORES, Description
from ..checkpoint.files import INDEX, SINGLE, StoredTensor, stored_tensors, weight_map
from ..checkpoint.hub import cached
from ..checkpoint.spec import ModelSpec
from ..errors import ModelError

NAMES = ("v_head", "value_head")
SEPARATE = "value_head.safetensors"


class ValueHeadModel(nn.Module):
    """The backbone of a language model with a value head: a classifier of one output.

    Modules of the backbone keep their names, so that an adapter finds them.
    """

    def __init__(self, model: Any, head: nn.Module) -> None:
        super().__init__()
        self.config, self._backbone = model.config, model.base_model_prefix
        setattr(self, self._backbone, model.base_model)
        self.v_head = head

    @property
    def base_model(self) -> Any:
        """The backbone."""
        return getattr(self, self._backbone)

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.base_model.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> None:
        """None: it is no language model."""


def as_reward(description: Description, spec: ModelSpec) -> Description:
    """The description as a reward's, where a language model has a value head; else as it is."""
    if description.kind != SCORES or description.config is None or description.gguf:
        return description
    in_memory = spec.model is not None
    head = hasattr(spec.model, "v_head") if in_memory else _stored(description.name, spec)
    return replace(description, kind=REWARD, value_head=True) if head else description


def with_value_head(name: str, model: Any, spec: ModelSpec, skeleton: bool) -> ValueHeadModel:
    """A language model's backbone with the value head of its checkpoint.

    Args:
        name, model, spec: of the loaded language model.
        skeleton: shapes alone, on torch's meta device.

    Raises:
        ModelError: a head that is not one linear layer of one output.
    """
    if spec.model is not None:
        language = getattr(spec.model, "pretrained_model", spec.model)
        return ValueHeadModel(language, spec.model.v_head)
    weights = {key: stored[...] for key, stored in _stored(name, spec).items()}
    state = {key.split(".", 1)[1].removeprefix("summary."): value for key, value in weights.items()}
    size = model.get_output_embeddings().weight.shape[-1]
    weight = state.get("weight")
    if weight is None or set(state) - {"weight", "bias"} or tuple(weight.shape) != (1, size):
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in sorted(weights.items()))
        problem = f"the value head of {name} is not one linear layer from {size} to 1"
        cure = "export it as a ForTokenClassification with one label"
        raise ModelError(f"{problem}: it has {shapes}", cure, name)
    with torch.device("meta") if skeleton else model.get_output_embeddings().weight.device:
        head = nn.Linear(size, 1, bias="bias" in state, dtype=torch.float32)
    if not skeleton:
        head.load_state_dict(state)
    return ValueHeadModel(model, head.eval())


def _stored(name: str, spec: ModelSpec) -> dict[str, StoredTensor]:
    """The weights of a checkpoint's value head, not read yet; empty where it has none."""
    absences = ("gated_repo", "missing_entries", "connection_errors")
    find = partial(cached, str(spec.path), revision=spec.revision, absences=absences)
    index = find(INDEX)
    files = [find(SEPARATE), None if index else find(SINGLE)]
    if index is not None:
        names = {file for key, file in weight_map(name, index).items() if _in_head(key)}
        files = [*(find(file) or file for file in sorted(names)), *files]
    tensors = stored_tensors(name, [file for file in files if file is not None])
    return {key: tensor for key, tensor in tensors.items() if _in_head(key)}


def _in_head(key: str) -> bool:
    return key.split(".")[0] in NAMES
