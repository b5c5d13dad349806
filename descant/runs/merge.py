"""Merged adapters: a weighted sum of LoRA adapters as one (rewarded soups, Ramé et al. 2023).

The sum of ``B_i A_i`` is ``[w_1 B_1 … w_n B_n] [A_1; …; A_n]``: the merge is exact, its rank is the
sum of theirs, and the base is not needed for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..inputs.runfile import RunFileError
from ..models import ModelSpec, adapter_folder

_FILES = ("adapter_config.json", "adapter_model.safetensors")


def merged_adapter(
    parts: Mapping[str, ModelSpec], weights: Mapping[str, float], folder: Path
) -> Path:
    """The folder of the merged adapter, written where it is not there yet.

    Args:
        parts: the adapters' specs by name.
        weights: of each.
        folder: gets a folder for every merge.

    Raises:
        RunFileError: adapters that are no plain LoRA.
    """
    sources = {name: Path(adapter_folder(s.adapter, s.revision)) for name, s in parts.items()}
    said = json.dumps([[str(sources[name]), weights[name]] for name in sorted(parts)])
    target = folder / hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder, prefix="."))
        _write(sources, weights, beside)
        try:
            os.rename(beside, target)
        except OSError:  # another process was faster
            for name in _FILES:
                (beside / name).unlink()
            beside.rmdir()
    return target


def _write(sources: Mapping[str, Path], weights: Mapping[str, float], target: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    stacked: dict[str, list[torch.Tensor]] = {}
    config: dict[str, object] = {}
    for name, source in sorted(sources.items()):
        config = _config(name, source)
        for key, tensor in load_file(source / _FILES[1]).items():
            one = tensor.float()
            if ".lora_B." in key:
                one = one * (weights[name] * _scaling(config, one.shape[1]))
            stacked.setdefault(key, []).append(one)
    joined = {
        key: torch.cat(some, dim=1 if ".lora_B." in key else 0).contiguous()
        for key, some in stacked.items()
    }
    ranks = {t.shape[1] for key, t in joined.items() if ".lora_B." in key}
    merged = {**config, "use_rslora": False, "alpha_pattern": {}, "rank_pattern": {}}
    merged |= {"r": max(ranks), "lora_alpha": max(ranks)}
    if len(ranks) > 1:  # not every adapter has every module
        names = {k.split(".lora_B.")[0].removeprefix("base_model.model."): t.shape[1]
                 for k, t in joined.items() if ".lora_B." in k}  # fmt: skip
        merged |= {"rank_pattern": names, "alpha_pattern": names}
    merged["target_modules"] = sorted({key.split(".lora_")[0].split(".")[-1] for key in joined})
    save_file(joined, target / _FILES[1])
    (target / _FILES[0]).write_text(json.dumps(merged, indent=1, sort_keys=True))


def _config(name: str, source: Path) -> dict[str, object]:
    try:
        config: dict[str, object] = json.loads((source / _FILES[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFileError(f"the adapter {name} in {source} cannot be read: {error}") from None
    plain = config.get("peft_type") == "LORA" and config.get("bias", "none") == "none"
    odd = [key for key in ("use_dora", "modules_to_save", "alpha_pattern") if config.get(key)]
    if not plain or odd:
        what = ", ".join(odd) or str(config.get("peft_type"))
        raise RunFileError(f"the adapter {name} is more than plain LoRA ({what}): not merged")
    return config


def _scaling(config: Mapping[str, object], rank: int) -> float:
    alpha = float(str(config.get("lora_alpha") or rank))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
