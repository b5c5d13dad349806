"""A head as files that a declaration takes: ``head.safetensors`` and ``head.json``."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from .declared import CONFIG, FILE


def write_head(folder: Path, weight: Tensor, bias: Tensor, layer: int, base: str) -> None:
    """Write a head to a folder, which is made.

    Args:
        weight: ``(outputs, hidden)``, and ``bias``, ``(outputs,)``.
        layer: that it reads, counted from 0, of the model ``base``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": weight, "bias": bias}, folder / FILE)
    content = {"layer": layer, "base": base}
    (folder / CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
