"""LoRA adapters as peft stores them: found, checked and read. (Hu et al. 2021, eq. 3.)

The factors are read with their scaling in B, so that an adapter adds ``B A x`` wherever it is used:
as rows of a lane, or in a merge. No base model is needed here. (rsLoRA: Kalajdzievski 2023.)
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import ModelError
from .hub import cached, hub_error

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
Factors: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]  # module: (rank, in) and (out, rank)
_SAVE_AGAIN = "save it again with peft's save_pretrained"


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in memory.

    Attributes:
        config: what peft wrote beside the weights.
        factors: A and B of each module, float32, with the scaling in B.
    """

    config: Mapping[str, Any]
    factors: Factors


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


def read_adapter(name: str, folder: Path) -> Adapter:
    """Read a plain LoRA adapter.

    Raises:
        ModelError: no such files, damaged ones, or an adapter that is more than LoRA's A and B.
    """
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            problem = f"the adapter {name} has no {file} in {folder}"
            cure = "an adapter is a folder that peft's save_pretrained wrote, as safetensors"
            raise ModelError(problem, cure, name)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        problem = f"the adapter {name} in {folder} cannot be read: {error}"
        raise ModelError(problem, _SAVE_AGAIN, name) from error
    _check_config(name, config)
    halves: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in sorted(weights.items()):
        module, _, kind = key.removeprefix(PREFIX).partition(".lora_")
        if kind not in ("A.weight", "B.weight"):
            problem = f"the adapter {name} holds {key}, and only the A and B of LoRA are read"
            cure = "bias, modules_to_save, embeddings and DoRA are not part of a row"
            raise ModelError(problem, cure, name)
        halves[module][kind[0]] = tensor.float()
    factors = {}
    for module, pair in halves.items():
        a, b = _checked_pair(name, module, pair)
        factors[module] = (a, b * _scaling(config, module, a.shape[0]))
    return Adapter(config, factors)


def _check_config(name: str, config: Mapping[str, Any]) -> None:
    problems = [
        (config.get("peft_type") != "LORA", f"is {config.get('peft_type')}, not LoRA"),
        (config.get("bias", "none") != "none", f"has bias={config.get('bias')!r}"),
        (bool(config.get("modules_to_save")), "has modules_to_save"),
        (bool(config.get("use_dora")), "uses DoRA"),
    ]
    cure = "merge it into a copy of its base and declare that as a model"
    for is_wrong, what in problems:
        if is_wrong:
            problem = f"the adapter {name} {what}, which rows of a shared base cannot have"
            raise ModelError(problem, cure, name, "adapters")


def _checked_pair(name: str, module: str, pair: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """A and B of one module, of one rank."""
    if missing := {"A", "B"} - set(pair):
        problem = f"the adapter {name} has no lora_{missing.pop()} for {module}"
        raise ModelError(problem, _SAVE_AGAIN, name)
    a, b = pair["A"], pair["B"]
    if a.shape[0] != b.shape[1]:
        ranks = f"A has rank {a.shape[0]} and B has rank {b.shape[1]}"
        problem = f"the adapter {name} is damaged: for {module}, {ranks}"
        raise ModelError(problem, _SAVE_AGAIN, name)
    return a, b


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA; as in peft, the first pattern counts."""
    patterns = (config.get("alpha_pattern") or {}).items()
    matching = (alpha for key, alpha in patterns if re.match(rf"(.*\.)?({key})$", module))
    alpha = next(matching, config.get("lora_alpha") or rank)
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
