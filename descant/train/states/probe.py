"""``descant train probe``: labelled texts to a linear head on hidden states.

Logistic regression on the state of each text's last token at one decoder layer (Alain & Bengio
2016). The head's number is the log-odds of the positive label.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from ... import __version__, disk
from ...errors import quoted
from ...runs.provenance import revision
from ..encode import Counts
from ..examples import Example, Label, read_examples
from ..folder import claim, held
from ..record import versions, write_record
from ..trainfile import Data, TrainFileError
from .hidden import HiddenStates, of_examples
from .recipe import ProbeFile

HEAD, CONFIG = "head.safetensors", "head.json"
_TRUTHS = {"1", "true"}  # labels that are the positive one where the file names none
_FALSE = {"0", "false"}
_STEPS = 5000


@dataclass(frozen=True)
class TrainedProbe:
    """A finished probe: its folder, ``(1, hidden)`` weight and ``(1,)`` bias, and its metrics."""

    folder: Path
    weight: Tensor
    bias: Tensor
    metrics: dict[str, float]


def train_probe(recipe: ProbeFile, say: Callable[[str], None] = print) -> TrainedProbe:
    """Fit a probe, and write it to the output folder.

    The folder gets ``head.safetensors`` (``weight (1, hidden)`` and ``bias (1,)``, float32),
    ``head.json`` (its layer, base and labels, the positive one last), ``train.yaml`` and, last,
    ``training.json`` with the accuracy and the area under the ROC curve on held-out rows.

    Args:
        say: is called with each message.

    Raises:
        TrainFileError: the folder holds another training, or the data cannot be used.
        RunFileError: another process writes to the folder.
        ModelError: the base is no language model, or has no such layer.
        DiskError: the folder cannot be written.
    """
    with held(Path(recipe.output)):
        return _train_probe(recipe, Path(recipe.output), say)


def _train_probe(recipe: ProbeFile, folder: Path, say: Callable[[str], None]) -> TrainedProbe:
    start = time.perf_counter()
    content = recipe.model_dump(mode="json", exclude={"output"}, exclude_none=True)
    claim(folder, content)
    parts, counts = _examples(recipe)
    labels = _labels(recipe.positive, parts)
    base = HiddenStates(recipe, recipe.method)
    states, targets, metrics = {}, {}, {}
    for part, good in parts.items():
        texts, kept = of_examples(base, good, counts[part])
        say(f"{part}: {counts[part]}")
        targets[part] = torch.tensor([_key(each.label) == _key(labels[1]) for each in kept])
        if targets[part].all() or not targets[part].any():
            raise TrainFileError(f"the {part} rows that are left have one label alone")
        states[part] = base.of(texts, [recipe.layer], "last")[0].double()
    weight, bias = logistic_regression(states["train"], targets["train"].double(), recipe.l2)
    for part, values in states.items():
        prefix = "" if part == "train" else f"{part}_"
        odds = (values @ weight.T + bias).squeeze(1)
        metrics[f"{prefix}accuracy"] = float(((odds > 0) == targets[part]).double().mean())
        metrics[f"{prefix}auc"] = area_under_curve(odds, targets[part])
    weight, bias = weight.float(), bias.float()
    config = {
        "layer": recipe.layer, "base": recipe.model.path, "revision": recipe.model.revision,
        "labels": labels, "descant": __version__,
    }  # fmt: skip
    with disk.written(folder / HEAD) as partial:
        partial.write_bytes(save({"weight": weight.contiguous(), "bias": bias}))
    disk.replace(folder / CONFIG, json.dumps(config, indent=1, ensure_ascii=False) + "\n")
    write_record(folder, {
        "recipe": content,
        "rows": {part: vars(count) for part, count in counts.items()},
        "metrics": metrics,
        "versions": versions(),
        "git": revision(),
        "seconds": round(time.perf_counter() - start, 3),
    })  # fmt: skip
    shown = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())
    say(f"{folder / HEAD}: {shown}")
    return TrainedProbe(folder, weight, bias, metrics)


def _examples(recipe: ProbeFile) -> tuple[dict[str, list[Example]], dict[str, Counts]]:
    """The rows to fit, and those to measure on, where there are any."""
    chat = recipe.model.template is not None

    def read(data: Data) -> tuple[list[Example], int]:
        return read_examples(data, recipe.method, chat=chat)

    parts = {"train": read(recipe.data)}
    if recipe.eval_data is not None:
        parts["eval"] = read(recipe.eval_data)
    elif recipe.eval_share:
        good, bad = parts["train"]
        fitted, held_out = _divided(good, recipe.eval_share, Random(recipe.seed))
        parts = {"train": (fitted, bad), "eval": (held_out, 0)}
    counts = {part: Counts(rows=len(good) + bad, bad=bad) for part, (good, bad) in parts.items()}
    return {part: good for part, (good, _) in parts.items()}, counts


def _divided(
    examples: list[Example], share: float, rng: Random
) -> tuple[list[Example], list[Example]]:
    """Hold out a share of each label's rows, at least one."""
    groups: dict[str, list[Example]] = {}
    for example in rng.sample(examples, len(examples)):
        groups.setdefault(_key(example.label), []).append(example)
    cuts = {key: max(1, round(len(group) * share)) for key, group in groups.items()}
    fitted = [example for key, group in groups.items() for example in group[cuts[key] :]]
    return fitted, [example for key, group in groups.items() for example in group[: cuts[key]]]


def _labels(positive: Label | None, parts: dict[str, list[Example]]) -> list[Label]:
    """The two labels, the positive one last.

    Raises:
        TrainFileError: there are not two, or it is not known which is positive.
    """
    found: dict[str, Label] = {}
    for example in (example for examples in parts.values() for example in examples):
        assert example.label is not None
        found.setdefault(_key(example.label), example.label)
    if len(found) != 2:
        names = ", ".join(quoted(label) for label in [*found.values()][:5])
        raise TrainFileError(f"a probe tells two labels apart, and these rows have {names}")
    keys = sorted(found)
    if positive is not None:
        last = [key for key in keys if key == _key(positive)]
    else:
        last = [key for key in keys if key in _TRUTHS and {*keys} - {key} <= _FALSE]
    if not last:
        names = " and ".join(quoted(found[key]) for key in keys)
        wrong = f"positive is {quoted(positive)}" if positive is not None else "no positive"
        raise TrainFileError(f"the labels are {names}, and {wrong}; write positive: one of them")
    return [found[key] for key in sorted(keys, key=lambda key: key in last)]


def _key(label: Any) -> str:
    """What makes labels one: those of a table are text, and Python writes True."""
    text = str(label)
    return text.lower() if text.lower() in _TRUTHS | _FALSE else text


def logistic_regression(states: Tensor, targets: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """Minimise the sum of log losses and ``l2/2 |w|^2`` over standardised states.

    Args:
        states: ``(texts, hidden)`` float64.
        targets: ``(texts,)`` float64, 1 where the label is positive.

    Returns:
        ``(1, hidden)`` weight and ``(1,)`` bias, float64, for states as they are.

    Raises:
        TrainFileError: no minimum is found.
    """
    mean, deviation = states.mean(0), states.std(0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    features = (states - mean) / deviation
    parameters = torch.zeros(states.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=_STEPS, max_eval=2 * _STEPS, history_size=50,
        tolerance_grad=1e-9 * len(states), tolerance_change=0.0, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        odds = features @ parameters[:-1] + parameters[-1]
        losses = functional.binary_cross_entropy_with_logits(odds, targets, reduction="sum")
        return losses + l2 / 2 * parameters[:-1].square().sum()

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    closure()
    assert parameters.grad is not None
    if not float(parameters.grad.abs().max()) < 1e-5 * len(states):
        raise TrainFileError("the probe finds no minimum: give a larger l2")
    found = parameters.detach()
    weight = found[:-1] / deviation
    return weight.unsqueeze(0), (found[-1] - weight @ mean).unsqueeze(0)


def area_under_curve(odds: Tensor, targets: Tensor) -> float:
    """The chance that a positive text has higher odds than a negative one; ties count half.

    Args:
        odds: ``(texts,)``.
        targets: ``(texts,)`` bool, with both values.
    """
    negatives, positives = odds[~targets].sort().values, odds[targets]
    below = torch.searchsorted(negatives, positives)
    up_to = torch.searchsorted(negatives, positives, right=True)
    return float((below + up_to).double().mean() / 2 / len(negatives))
