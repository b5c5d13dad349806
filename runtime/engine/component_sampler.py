"""The components that rows draw in a step: on the host for its lanes, on the device for scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ..requests.request import Request
from ..scores.components import ALL, draw_component, draw_component_on_host, drawn_scores
from ..scores.context import Context, Reading


class DrawingRows(Protocol):
    """What is read of a batch, and ``drawn``, which is written."""

    state: Any
    requests: list[Request]
    drawn: Mapping[int, int]

    @property
    def width(self) -> int:
        """How many rows, with idle ones."""


class ComponentSampler:
    """Draws components of a plan's final mixture, for the rows that ask for it.

    Args:
        columns: per component, the column of its weight among the plan's numbers.
        lanes: what each of them needs, and ``ALL``, the whole mixture.
        scores: what gives the scores of each.

    Attributes:
        scores: what gives those of what the context says was drawn.
    """

    def __init__(
        self,
        columns: Sequence[int],
        lanes: Mapping[int, set[int]],
        scores: Mapping[int, Reading],
    ) -> None:
        self._columns, self._lanes = columns, lanes
        self.scores: Reading = partial(drawn_scores, scores)

    def lanes(self, batch: DrawingRows) -> set[int]:
        """Draw for the next step, on the host; the lanes that it has to run."""
        rows, drawn = zip(batch.requests, *batch.state.noise(), strict=True), Counter[int]()
        for request, key, step in rows:
            if request.sample_components:
                weights = [request.values[column] for column in self._columns]
                drawn[draw_component_on_host(key, step, weights)] += 1
            else:
                drawn[ALL] += 1
        batch.drawn = drawn
        return set().union(*(self._lanes[number] for number in batch.drawn))

    def tell(self, batch: DrawingRows, context: Context) -> None:
        """Draw the same where the step is computed, and tell its context."""
        state, used = batch.state.mirror.device, slice(batch.width)
        rows = state.keys[used], context.steps, context.values, state.by_component[used]
        context.components, context.drawn = self.drawn(*rows), batch.drawn

    def drawn(self, keys: Tensor, steps: Tensor, values: Tensor, by_component: Tensor) -> Tensor:
        """``(rows, 1)`` what rows of a batch draw: the number of a component, or ``ALL``.

        Args:
            keys, steps: as for ``draw_component``.
            values: ``(rows, numbers)`` float32, the plan's numbers.
            by_component: ``(rows,)`` bool, which rows ask for it.
        """
        weights = [values[:, column : column + 1] for column in self._columns]
        return torch.where(by_component[:, None], draw_component(keys, steps, weights), ALL)
