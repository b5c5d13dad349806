"""What a fit asks of a likelihood: values and derivatives of every text, by the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from .kept_scores import Scores


class PerText(NamedTuple):
    """The log-likelihood of each text, and its derivatives.

    Attributes:
        value: ``(T,)`` float64, in nats.
        gradient: ``(T, P)``; and ``curvature``, ``(T, P, P)``, where they are asked for.
    """

    value: np.ndarray
    gradient: np.ndarray = np.empty(0)
    curvature: np.ndarray = np.empty(0)


class TermRow(NamedTuple):
    """A term in a formula at some values.

    Attributes:
        term: as it is written.
        coefficient: its value, and ``gradient``, ``(P,)``, that one's by the parameters.
        left: ``(T,)`` the log-likelihood of each text without the term, the others as they are.
    """

    term: str
    coefficient: float
    gradient: np.ndarray
    left: np.ndarray


@dataclass
class Texts:
    """What was kept of the texts of a fit.

    Attributes:
        kept: the scores.
        count: of texts.
        tokens: per text.
        masked: whether any score is minus infinity.
    """

    kept: Scores
    count: int
    tokens: list[int]
    masked: bool = False


class LikelihoodOfTexts(Protocol):
    """The log-likelihood of every text, by the parameters."""

    has_curvature: bool

    def per_text(self, values: np.ndarray, order: int, every: int = 1) -> PerText:
        """At some values, up to derivatives of an order; of every so-many-th block alone."""

    def terms(self, values: np.ndarray) -> list[TermRow]:
        """A row per term, at some values."""


@runtime_checkable
class Summed(Protocol):
    """A likelihood whose gradient costs less of all texts than of each."""

    def summed(self, values: np.ndarray, texts: Sequence[int]) -> tuple[float, np.ndarray]:
        """The log-likelihood of some texts together, and its gradient."""


def refuse_excluded(of_target: Tensor, owners: Tensor) -> None:
    """Refuse a text that has a token of score minus infinity.

    Raises:
        ArgumentError: names the text.
    """
    if (of_target == -torch.inf).any():
        text = int(owners[of_target == -torch.inf][0])
        problem = f"the formula excludes a token of completion {text}, whatever is fitted"
        raise ArgumentError(f"{problem}; leave that text out, or the mask")
