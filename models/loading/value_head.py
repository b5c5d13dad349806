"""Value heads beside a causal language model: one number for every token.

TRL's AutoModelForCausalLMWithValueHead saves ``v_head.summary.weight`` among the weights of the
language model, LLaMA-Factory in a ``value_head.safetensors`` beside them; the configuration says
nothing of either. Such a checkpoint is a reward model where a stage asks for one, and a language
model where it is a term.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.description import REWARD, SCORES, Description
from ..checkpoint.spec import ModelSpec
from ..errors import ModelError

NAMES = ("v_head", "value_head")
_BESIDE, _ONE = "value_head.safetensors", "model.safetensors"
_INDEX = "model.safetensors.index.json"


class Valued(nn.Module):
    """The backbone of a language model with a value head: a classifier of one output.

    Modules of the backbone keep their names, so that an adapter finds them.

    Args:
        model: the language model.
        head: from hidden states to one number.
    """

    def __init__(self, model: Any, head: nn.Module) -> None:
        super().__init__()
        self.config, self._backbone = model.config, model.base_model_prefix
        setattr(self, self._backbone, model.base_model)
        self.v_head = head

    @property
    def base_model(self) -> Any:
        """What the head is on."""
        return getattr(self, self._backbone)

    def get_input_embeddings(self) -> nn.Module:
        """Those of the backbone."""
        found: nn.Module = self.base_model.get_input_embeddings()
        return found

    def get_output_embeddings(self) -> None:
        """Nothing says what comes next."""


def as_reward(description: Description, spec: ModelSpec) -> Description:
    """The description as a reward's, where a language model has a value head; else as it is."""
    if description.kind != SCORES or description.config is None:
        return description
    head = hasattr(spec.model, "v_head") if spec.model is not None else bool(_files(spec))
    return replace(description, kind=REWARD, valued=True) if head else description


def valued(name: str, model: Any, spec: ModelSpec, skeleton: bool) -> Valued:
    """A language model's backbone with the value head of its checkpoint.

    Args:
        name: as declared.
        model: the language model, loaded.
        spec: its declaration.
        skeleton: shapes alone, on torch's meta device.

    Raises:
        ModelError: a head that is not one linear layer of one output.
    """
    if spec.model is not None:
        return Valued(getattr(spec.model, "pretrained_model", spec.model), spec.model.v_head)
    weights = _weights(_files(spec))
    kinds = {key.split(".", 1)[1].removeprefix("summary."): value for key, value in weights.items()}
    size = model.get_output_embeddings().weight.shape[-1]
    weight = kinds.get("weight")
    if weight is None or set(kinds) - {"weight", "bias"} or tuple(weight.shape) != (1, size):
        found = ", ".join(f"{key} {tuple(value.shape)}" for key, value in sorted(weights.items()))
        raise ModelError(
            f"the value head of {name} is not one linear layer from {size} to 1: it has {found}",
            "export it as a ForTokenClassification with one label",
            name,
        )
    with torch.device("meta") if skeleton else model.get_output_embeddings().weight.device:
        head = nn.Linear(size, 1, bias="bias" in kinds, dtype=torch.float32)
    if not skeleton:
        head.load_state_dict(kinds)
    return Valued(model, head.eval())


def _files(spec: ModelSpec) -> dict[str, str]:
    """The weights of a value head, and the file that holds each."""
    from safetensors import safe_open

    found: dict[str, str] = {}
    for file in _candidates(spec):
        if file.endswith(".json"):
            named = json.loads(Path(file).read_text(encoding="utf-8"))["weight_map"]
            heads = {key: part for key, part in named.items() if key.split(".")[0] in NAMES}
            found |= {key: _found(spec, part) or part for key, part in heads.items()}
            continue
        with safe_open(file, framework="pt") as stored:
            keys = stored.keys()
            found |= {key: file for key in keys if key.split(".")[0] in NAMES}
    return found


def _candidates(spec: ModelSpec) -> list[str]:
    index = _found(spec, _INDEX)
    files = [_found(spec, _BESIDE), index or _found(spec, _ONE)]
    return [file for file in files if file is not None]


def _found(spec: ModelSpec, file: str) -> str | None:
    assert spec.path is not None
    if os.path.isdir(spec.path):
        path = os.path.join(spec.path, file)
        return path if os.path.isfile(path) else None
    from transformers.utils.hub import cached_file

    found: str | None = cached_file(
        spec.path,
        file,
        revision=spec.revision or "main",
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found


def _weights(files: dict[str, str]) -> dict[str, Tensor]:
    from safetensors import safe_open

    found = {}
    for key, file in files.items():
        with safe_open(file, framework="pt") as stored:
            found[key] = stored.get_tensor(key)
    return found
