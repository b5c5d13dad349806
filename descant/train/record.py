"""The record of a training beside its weights: ``training.json`` and a curve."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..disk import replace, written
from ..extras import require

RECORD, CURVE = "training.json", "curve.png"
PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers")
_ACCURACY = "rewards/accuracies"


def versions() -> dict[str, str]:
    """Of Python, of this package and of those that train, where installed."""
    versions = {"descant": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def write_record(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``training.json``, the last file: a folder that has it is complete."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    replace(folder / RECORD, text + "\n")


def draw_curve(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Draw the loss and, for pairs, the accuracy over steps.

    Raises:
        MissingExtra: there is no matplotlib.
    """
    require("drawing", "matplotlib")
    from matplotlib.figure import Figure

    keys = ["loss", *([_ACCURACY] if any(_ACCURACY in row for row in history) else [])]
    figure = Figure(figsize=(5 * len(keys), 3.4), layout="constrained")
    for number, key in enumerate(keys, 1):
        axes = figure.add_subplot(1, len(keys), number)
        for name, label in ((key, "training"), (f"eval_{key}", "evaluation")):
            points = [(row["step"], row[name]) for row in history if name in row]
            if points:
                mark = "o" if len(points) < 40 else ""
                axes.plot(*zip(*points, strict=True), marker=mark, markersize=3, label=label)
        axes.set(xlabel="step", ylabel="loss" if key == "loss" else "accuracy")
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(frameon=False)
    with written(folder / CURVE) as partial:
        figure.savefig(partial, dpi=150)
