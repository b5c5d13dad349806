"""A mixture by component: a row draws one part of the final ``mix``, and only that is evaluated.

It is drawn by its weight from the noise of the step itself, which the host computes as well as a
device: without asking one, it knows which lanes a step has to run. The distribution of the tokens
is the mixture's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import c_float

import torch
from torch import Tensor

from ...models.kernels.noise import uniform, uniform_on_host
from .context import Context, Reading

ALL = -1  # what a row draws that has the whole mixture


def draw_component(keys: Tensor, steps: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """``(rows, 1)`` int64, a part for each row by its weight, alike on every device.

    A part of weight 0 is never drawn.

    Args:
        keys: ``(rows, 2)`` int32, and ``steps``, ``(rows,)``: of the rows' noise.
        weights: per part, ``(rows, 1)`` float32; in any row, one is above 0.
    """
    total = sum(weights, torch.zeros_like(weights[0]))  # in turn, as every device rounds it
    at, below = uniform(keys, steps) * total, torch.zeros_like(total)
    part = torch.zeros_like(total, dtype=torch.long)
    for number, weight in enumerate(weights):
        part = torch.where((weight > 0) & (at >= below), number, part)
        below = below + weight
    return part


def draw_component_on_host(key: tuple[int, int], step: int, weights: Sequence[float]) -> int:
    """``draw_component`` of one row, in Python's numbers, which are rounded as a device's."""
    total = 0.0
    for weight in weights:
        total = _float32(total + _float32(weight))
    at, below, part = _float32(uniform_on_host(key, step) * total), 0.0, 0
    for number, weight in enumerate(map(_float32, weights)):
        if weight > 0 and at >= below:
            part = number
        below = _float32(below + weight)
    return part


def _float32(value: float) -> float:
    return c_float(value).value


def drawn_scores(scores: Mapping[int, Reading], context: Context) -> Tensor:
    """``(rows, V)`` the scores of what each row has drawn; of nothing else is any evaluated.

    They are as good as log-probabilities, for to add a constant to a row's changes no draw.
    """
    assert context.components is not None
    own = context.zeros()
    for number in sorted(context.drawn):
        rows = context.components == number
        with context.only(rows):
            own = torch.where(rows, scores[number](context), own)
    return own
