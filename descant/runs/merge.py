"""Merged adapters: a weighted sum of LoRA adapters as one (rewarded soups, Ramé et al. 2023).

The sum of ``w_i B_i A_i`` is ``[w_1 B_1 … w_n B_n] [A_1; …; A_n]``: the merge is exact, its rank is
the sum of theirs, and the base is not needed for it. DoRA, which is not linear, is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..disk import written
from ..models import ModelError, ModelSpec
from ..models.adapters.lora import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    Adapter,
    LayerAdapter,
    adapter_folder,
    read_adapter,
)

LINEAR_PARTS, EMBEDDING_PARTS = (
    ("lora_A.weight", "lora_B.weight"),
    ("lora_embedding_A", "lora_embedding_B"),
)
BIAS_OF_B = "lora_B.bias"


def merged_adapter(
    parts: Mapping[str, ModelSpec], weights: Mapping[str, float], folder: Path
) -> Path:
    """The merged adapter's folder, in ``folder``; written where it is not there yet.

    Raises:
        ModelError: an adapter that is no sum of products, such as DoRA, or cannot be read.
        DiskError: it cannot be written.
    """
    sources = {name: Path(adapter_folder(s.adapter, s.revision)) for name, s in parts.items()}
    content = json.dumps([[str(sources[name]), weights[name]] for name in sorted(parts)])
    target = folder / hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    if not target.is_dir():
        tensors, config = _merged(sources, weights)
        with written(target, shared=True) as partial:
            partial.mkdir()
            save_file(tensors, partial / WEIGHTS)
            text = json.dumps(config, indent=1, sort_keys=True)
            (partial / CONFIG).write_text(text, encoding="utf-8")
    return target


def _merged(
    sources: Mapping[str, Path], weights: Mapping[str, float]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the configuration of a merged adapter."""
    adapters = {name: read_adapter(name, source) for name, source in sorted(sources.items())}
    tensors: dict[str, Tensor] = {}
    ranks = {}
    has_bias = any(
        layer.added is not None for a in adapters.values() for layer in a.layers.values()
    )
    for module in sorted({path for adapter in adapters.values() for path in adapter.layers}):
        having = {name: a.layers[module] for name, a in adapters.items() if module in a.layers}
        pairs = {name: _check_linear(name, module, layer) for name, layer in having.items()}
        stacked_a = torch.cat([a for a, _ in pairs.values()])
        stacked_b = torch.cat([b * weights[name] for name, (_, b) in pairs.items()], dim=1)
        embedding = any(layer.embedding for layer in having.values())
        part_a, part_b = EMBEDDING_PARTS if embedding else LINEAR_PARTS
        tensors[f"{PREFIX}{module}.{part_a}"] = stacked_a
        tensors[f"{PREFIX}{module}.{part_b}"] = stacked_b.contiguous()
        if has_bias and not embedding:
            added = torch.zeros(len(stacked_b))
            for name, layer in having.items():
                added += 0 if layer.added is None else layer.added * weights[name]
            tensors[f"{PREFIX}{module}.{BIAS_OF_B}"] = added
        ranks[module] = len(stacked_a)
    tensors |= _base_weights(adapters)
    rank = max(ranks.values())
    differing = {module: size for module, size in ranks.items() if size != rank}
    config = {  # alpha is the rank everywhere: the scaling is in B
        **list(adapters.values())[-1].config,
        "r": rank, "lora_alpha": rank, "use_rslora": False, "lora_bias": has_bias,
        "rank_pattern": differing, "alpha_pattern": differing,
        "target_modules": sorted({module.split(".")[-1] for module in ranks}),
    }  # fmt: skip
    return tensors, config


def _check_linear(name: str, module: str, layer: LayerAdapter) -> tuple[Tensor, Tensor]:
    """A and B; refuses what adds more than ``B A x`` and a constant, for which a base is needed."""
    if layer.magnitude is not None or layer.bias is not None or layer.a is None or layer.b is None:
        what = "DoRA" if layer.magnitude is not None else "another bias than its base"
        problem = f"the adapter {name} has {what} on {module}, which is no weighted sum's"
        raise ModelError(problem, "give it a term of its own instead", name, "adapters")
    return layer.a, layer.b


def _base_weights(adapters: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """What the adapters saved of their base, which is checked where the merged one is loaded."""
    saved: dict[str, Tensor] = {}
    for name, adapter in adapters.items():
        for module, weight in adapter.base_weights.items():
            key = f"{PREFIX}{module}.base_layer.weight"
            if key in saved and not torch.equal(saved[key], weight):
                problem = f"the adapter {name} is of another base: {module} differs"
                raise ModelError(problem, "merge adapters of one base", name, "adapters")
            saved[key] = weight
    return saved
