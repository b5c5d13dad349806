"""LoRA adapters as peft stores them: found, checked and read. (Hu et al. 2021, eq. 3.)

The factors are read with their scaling in B, so that an adapter adds ``B A x`` wherever it is used:
as rows of a lane, or in a merge. No base model is needed here. (rsLoRA: Kalajdzievski 2023; DoRA:
Liu et al. 2024.) Which fields of a configuration are understood is said in ``fields``.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError
from safetensors.torch import load_file
from torch import Tensor

from ...errors import quoted
from ..checkpoint.hub import cached, hub_error
from ..errors import ModelError, first_line, read_by_a_library
from ..invalid import explain
from .fields import check_row
from .patterns import first_values

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
ALPHA = 8  # peft's default
A, B, ADDED, MAGNITUDE, BIAS, WEIGHT = "A", "B", "added", "magnitude", "bias", "weight"
SUFFIXES = {  # of peft's keys, after the name of a module: what they hold
    "lora_A.weight": A, "lora_B.weight": B, "lora_B.bias": ADDED,
    "lora_embedding_A": A, "lora_embedding_B": B,
    "lora_magnitude_vector": MAGNITUDE, "lora_magnitude_vector.weight": MAGNITUDE,
    "base_layer.bias": BIAS, "bias": BIAS, "base_layer.weight": WEIGHT, "weight": WEIGHT,
}  # fmt: skip
TRAINING = ("lora_velora_", "lora_monteclora_sampler")  # parts that are used in training alone
_KEY = re.compile(rf"(.+?)\.({'|'.join(map(re.escape, sorted(SUFFIXES, key=len)[::-1]))})")
_SAVE_AGAIN = "save it again with peft's save_pretrained"
_EMBEDDING = "lora_embedding_"


@dataclass(frozen=True)
class LayerAdapter:
    """What an adapter does to one module, float32; None for what it does not.

    Attributes:
        a, b: ``(rank, in)`` and ``(out, rank)``, with the scaling in B.
        added: ``(out,)``, added to the output: the bias of B, scaled.
        magnitude: ``(out,)``, DoRA's.
        bias: ``(out,)``, the module's own bias, in place of its base's.
        embedding: whether A is looked up by token.
    """

    a: Tensor | None = None
    b: Tensor | None = None
    added: Tensor | None = None
    magnitude: Tensor | None = None
    bias: Tensor | None = None
    embedding: bool = False


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in memory.

    Attributes:
        config: what peft wrote beside the weights.
        layers: what it does, by module.
        base_weights: the weights of its base that peft saved with it, by module.
    """

    config: Mapping[str, Any]
    layers: Mapping[str, LayerAdapter]
    base_weights: Mapping[str, Tensor]


def adapter_folder(source: str | None, revision: str | None = None) -> str:
    """A folder as it is; a hub id, from the cache or the hub, as transformers finds files."""
    assert source is not None
    if os.path.isdir(source) or source.startswith((".", "/", "~")):
        return source
    try:
        config_file, _ = (cached(source, file, revision) for file in (CONFIG, WEIGHTS))
    except OSError as error:
        cure = "give a folder that peft's save_pretrained wrote, or a hub id"
        other = f"{source} cannot be found: ", cure
        raise hub_error(error, source, revision, "", other, "the adapter ") from error
    return os.path.dirname(str(config_file))


def read_config(name: str, folder: Path) -> dict[str, Any]:
    """What peft wrote beside an adapter's weights, of any kind.

    Raises:
        ModelError: no such files, or a damaged configuration.
    """
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            problem = f"the adapter {name} has no {file} in {folder}"
            cure = "an adapter is a folder that peft's save_pretrained wrote, as safetensors"
            raise ModelError(problem, cure, name)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG} is not an object")
        if not isinstance(kind := config.get("peft_type"), str | None):
            raise ValueError(f"peft_type of {CONFIG} is {quoted(kind)}, not the name of a kind")
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(name, folder, error) from error
    return config


def read_adapter(name: str, folder: Path) -> Adapter:
    """Read a LoRA adapter that can be rows.

    Raises:
        ModelError: no such files, damaged ones, or an adapter that rows cannot have.
    """
    config = read_config(name, folder)
    check_row(name, config)
    with read_by_a_library(partial(_unreadable, name, folder)):
        weights = load_file(folder / WEIGHTS)
    numbers = _numbers(name, config)
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    embeddings: set[str] = set()
    for key, tensor in sorted(weights.items()):
        if any(part in key for part in TRAINING):
            continue
        matched = _KEY.fullmatch(key.removeprefix(PREFIX))
        if matched is None:
            problem = f"the adapter {name} holds {key}, which is not a part of LoRA"
            cure = "say merge: true with it, if peft reads it: weights of its own"
            raise ModelError(problem, cure, name, "adapters")
        module, suffix = matched.groups()
        parts[module][SUFFIXES[suffix]] = tensor
        if suffix.startswith(_EMBEDDING):
            embeddings.add(module)
    base_weights = {module: held.pop(WEIGHT) for module, held in parts.items() if WEIGHT in held}
    alphas = first_values(name, "alpha_pattern", numbers.alpha_pattern or {}, parts)
    layers = {
        module: _layer(name, numbers, alphas, module, held, module in embeddings)
        for module, held in parts.items()
        if held
    }
    return Adapter(config, layers, base_weights)


def _unreadable(name: str, folder: Path, error: BaseException) -> ModelError:
    problem = f"the adapter {name} in {folder} cannot be read: {first_line(error)}"
    return ModelError(problem, _SAVE_AGAIN, name)


def _layer(
    name: str,
    numbers: _Numbers,
    alphas: Mapping[str, float],
    module: str,
    held: Mapping[str, Tensor],
    embedding: bool,
) -> LayerAdapter:
    """What an adapter does to a module, complete and as its configuration says."""
    held = {part: tensor.float() for part, tensor in held.items()}
    if not held.keys() & {A, B, ADDED, MAGNITUDE}:
        return LayerAdapter(bias=held[BIAS])
    expected = {A: True, B: True, MAGNITUDE: numbers.use_dora}
    expected[ADDED] = numbers.lora_bias and not embedding
    for part, is_expected in expected.items():
        if (part in held) != is_expected:
            what = {ADDED: "bias of B", MAGNITUDE: "magnitude of DoRA"}.get(part, f"lora_{part}")
            problem = f"the adapter {name} has {'no' if is_expected else 'a'} {what} for {module}"
            problem += "" if is_expected else f", which {CONFIG} does not say"
            raise ModelError(problem, _SAVE_AGAIN, name)
    a, b = held[A], held[B]
    if a.shape[0] != b.shape[1]:
        ranks = f"A has rank {a.shape[0]} and B has rank {b.shape[1]}"
        problem = f"the adapter {name} is damaged: for {module}, {ranks}"
        raise ModelError(problem, _SAVE_AGAIN, name)
    scaling = _scaling(numbers, alphas, module, a.shape[0])
    added = held[ADDED] * scaling if ADDED in held else None
    return LayerAdapter(a, b * scaling, added, held.get(MAGNITUDE), held.get(BIAS), embedding)


class _Numbers(BaseModel):
    """What rows read of a configuration."""

    model_config = ConfigDict(strict=True)

    lora_alpha: FiniteFloat = ALPHA
    alpha_pattern: dict[str, FiniteFloat] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False


def _numbers(name: str, config: Mapping[str, Any]) -> _Numbers:
    try:
        return _Numbers.model_validate(config)
    except ValidationError as error:
        problem = f"the adapter {name}: {CONFIG}: {explain(error, _Numbers)}"
        raise ModelError(problem, _SAVE_AGAIN, name) from None


def _scaling(numbers: _Numbers, alphas: Mapping[str, float], module: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA."""
    alpha = alphas.get(module, numbers.lora_alpha)
    return alpha / (math.sqrt(rank) if numbers.use_rslora else rank)
