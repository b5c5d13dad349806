"""``descant train vector``: contrastive pairs to a steering vector.

The difference of means is contrastive activation addition's (Rimsky et al., ACL 2024); principal
components are representation engineering's (Zou et al. 2023).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import __version__
from ...models.adapters.vector_files import FILE, write_vector
from ...runs.provenance import revision
from ..encode import Counts
from ..examples import read_examples
from ..folder import claim, held
from ..record import versions, write_record
from ..trainfile import TrainFileError
from .hidden import HiddenStates, of_examples
from .recipe import VectorFile


@dataclass(frozen=True)
class TrainedVector:
    """A finished vector: its file, its directions by layer, what each does, the rows it is of."""

    file: Path
    directions: dict[int, Tensor]
    layers: list[dict[str, float]]
    rows: Counts


def train_vector(recipe: VectorFile, say: Callable[[str], None] = print) -> TrainedVector:
    """Measure a steering vector, and write it to the output folder.

    The folder gets ``vector.safetensors`` with ``direction.N`` for each decoder layer N, counted
    from 0, ``train.yaml`` (the resolved train file) and, last, ``training.json``.

    Args:
        say: is called with each message.

    Raises:
        TrainFileError: the folder holds another training, or the data cannot be used.
        RunFileError: another process writes to the folder.
        ModelError: the base is no language model, or has no such layer.
        DiskError: the folder cannot be written.
    """
    with held(Path(recipe.output)):
        return _train_vector(recipe, Path(recipe.output), say)


def _train_vector(recipe: VectorFile, folder: Path, say: Callable[[str], None]) -> TrainedVector:
    start = time.perf_counter()
    content = recipe.model_dump(mode="json", exclude={"output"}, exclude_none=True)
    claim(folder, content)
    good, bad = read_examples(recipe.data, recipe.method, chat=recipe.model.template is not None)
    counts = Counts(rows=len(good) + bad, bad=bad)
    base = HiddenStates(recipe, recipe.method)
    texts, _ = of_examples(base, good, counts)
    say(f"pairs: {counts}")
    layers = list(range(base.layers)) if recipe.layers is None else recipe.layers
    states = base.of(texts, layers, recipe.tokens)
    directions, measures = {}, []
    for layer, one in zip(layers, states, strict=True):
        differences = one[::2].double() - one[1::2].double()
        if not differences.any():
            raise TrainFileError(f"no pair differs at layer {layer}: chosen and rejected are alike")
        directions[layer], measured = direction_of(differences, recipe)
        measures.append({"layer": layer, **measured})
    file = folder / FILE
    write_vector(file, directions, _metadata(recipe, base.description.config, counts))
    write_record(folder, {
        "recipe": content,
        "rows": vars(counts),
        "layers": measures,
        "versions": versions(),
        "git": revision(),
        "seconds": round(time.perf_counter() - start, 3),
    })  # fmt: skip
    shares = sorted((row["separated"], row["layer"]) for row in measures)
    ends = [f"{share:.1%} (layer {layer})" for share, layer in (shares[0], shares[-1])]
    said = f"{shares[0][0]:.1%}" if shares[0][0] == shares[-1][0] else " to ".join(ends)
    say(f"{file}: {len(layers)} layers, each of which tells {said} of the pairs apart")
    return TrainedVector(file, directions, measures, counts)


def direction_of(differences: Tensor, recipe: VectorFile) -> tuple[Tensor, dict[str, float]]:
    """The direction of one layer, and what it does.

    Args:
        differences: ``(pairs, hidden)`` float64, chosen minus rejected.

    Returns:
        ``(hidden,)`` float32, and its ``norm``, the share of pairs that are ``separated``, whose
        chosen text lies further along it, and of ``pca`` the ``explained`` share of the
        differences' squares.
    """
    measured: dict[str, float] = {}
    direction = differences.mean(0)
    if recipe.direction == "pca":
        direction, measured["explained"] = principal_direction(differences)
    elif recipe.normalize:
        direction = direction / direction.norm()
    separated = (differences @ direction > 0).double().mean()
    measured = {"norm": float(direction.norm()), "separated": float(separated), **measured}
    return direction.float(), measured


def principal_direction(differences: Tensor) -> tuple[Tensor, float]:
    """The first principal component of differences, around zero.

    It is the unit vector along which the differences' squares are largest, as in llama.cpp and in
    repeng's ``pca_center``; around their mean, as in repeng's ``pca_diff``, it would leave out what
    all pairs share. Its sign is that of the mean: chosen lies further along it than rejected.

    Args:
        differences: ``(pairs, hidden)`` float64, not all zero.

    Returns:
        ``(hidden,)`` float64 of length 1, and its share of the sum of squares.
    """
    pairs, hidden = differences.shape
    if pairs < hidden:  # the smaller of two matrices with the same eigenvalues
        squares, vectors = torch.linalg.eigh(differences @ differences.T)
        direction = differences.T @ vectors[:, -1]
    else:
        squares, vectors = torch.linalg.eigh(differences.T @ differences)
        direction = vectors[:, -1]
    direction = direction / direction.norm()
    along = float(differences.mean(0) @ direction)
    largest = float(direction[direction.abs().argmax()])
    sign = along or largest  # without a mean along it, any sign that is always the same
    return direction if sign > 0 else -direction, float(squares[-1] / squares.sum())


def _metadata(recipe: VectorFile, config: Any, counts: Counts) -> dict[str, str]:
    texts = {
        "base": recipe.model.path, "revision": recipe.model.revision,
        "model_hint": config.model_type, "direction": recipe.direction, "tokens": recipe.tokens,
        "pairs": counts.used, "descant": __version__,
    }  # fmt: skip
    return {key: str(text) for key, text in texts.items() if text is not None}
