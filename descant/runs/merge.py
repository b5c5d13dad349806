"""Merged adapters: a weighted sum of LoRA adapters as one (rewarded soups, Ramé et al. 2023).

The sum of ``w_i B_i A_i`` is ``[w_1 B_1 … w_n B_n] [A_1; …; A_n]``: the merge is exact, its rank is
the sum of theirs, and the base is not needed for it. Whatever a term takes can be merged.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..models import ModelSpec
from ..models.checkpoint.adapter import CONFIG, PREFIX, WEIGHTS, adapter_folder, read_adapter


def merged_adapter(
    parts: Mapping[str, ModelSpec], weights: Mapping[str, float], folder: Path
) -> Path:
    """The merged adapter's folder, in ``folder``; written where it is not there yet.

    Raises:
        ModelError: an adapter that is not plain LoRA, or cannot be read.
    """
    sources = {name: Path(adapter_folder(s.adapter, s.revision)) for name, s in parts.items()}
    content = json.dumps([[str(sources[name]), weights[name]] for name in sorted(parts)])
    target = folder / hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix="."))
        _write(sources, weights, temporary)
        try:
            os.rename(temporary, target)
        except OSError:  # another process was faster
            shutil.rmtree(temporary)
    return target


def _write(sources: Mapping[str, Path], weights: Mapping[str, float], target: Path) -> None:
    adapters = {name: read_adapter(name, source) for name, source in sorted(sources.items())}
    tensors, ranks = {}, {}
    for module in sorted({path for adapter in adapters.values() for path in adapter.factors}):
        having = {name: a.factors[module] for name, a in adapters.items() if module in a.factors}
        stacked_a = torch.cat([a for a, _ in having.values()])
        stacked_b = torch.cat([b * weights[name] for name, (_, b) in having.items()], dim=1)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = stacked_a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = stacked_b.contiguous()
        ranks[module] = len(stacked_a)
    rank = max(ranks.values())
    differing = {module: size for module, size in ranks.items() if size != rank}
    config = {  # alpha is the rank everywhere: the scaling is in B
        **list(adapters.values())[-1].config,
        "r": rank, "lora_alpha": rank, "use_rslora": False,
        "rank_pattern": differing, "alpha_pattern": differing,
        "target_modules": sorted({module.split(".")[-1] for module in ranks}),
    }  # fmt: skip
    save_file(tensors, target / WEIGHTS)
    (target / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True))
