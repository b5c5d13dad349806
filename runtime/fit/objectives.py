"""What a fit by texts minimises: of likelihoods, or of preferences among pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import ArgumentError
from .likelihoods import LikelihoodOfTexts, Summed

LIKELIHOOD, PREFERENCE, REWARD = "likelihood", "preference", "reward"
OBJECTIVES = (LIKELIHOOD, PREFERENCE, REWARD)


class MinusLogLikelihood:
    """Minus the log-likelihood of some texts.

    Args:
        likelihood: of all texts.
        texts: which of them.
        every: only every so-many-th block of positions is read.
    """

    def __init__(self, likelihood: LikelihoodOfTexts, texts: Sequence[int], every: int = 1) -> None:
        self._likelihood, self._texts, self._every = likelihood, list(texts), every

    def __call__(self, values: np.ndarray, order: int) -> tuple[float, np.ndarray, np.ndarray]:
        if order == 1 and isinstance(self._likelihood, Summed):
            value, gradient = self._likelihood.summed(values, self._texts)
            return -value, -gradient, np.empty(0)
        of = self._likelihood.per_text(values, order, self._every)
        sums = [-each[self._texts].sum(axis=0) for each in of[: order + 1]]
        first, second = (sums[1:] + [np.empty(0)] * (2 - order))[:2]
        return float(sums[0]), first, second

    def of_values(self, value: np.ndarray) -> float:
        """The loss, by the log-likelihood ``(T,)`` of each text."""
        return -float(value[self._texts].sum())


class PreferenceLoss:
    """``Σ -log sigmoid(β (log p(chosen) - log p(rejected)))`` over pairs.

    It is the loss of an autoregressive reward model (Xu et al., ICLR 2025), of the formula's
    log-likelihoods. Texts 2i and 2i + 1 are the chosen and the rejected of pair i.
    """

    def __init__(
        self, likelihood: LikelihoodOfTexts, pairs: Sequence[int], beta: float, every: int = 1
    ) -> None:
        self._likelihood, self._beta, self._every = likelihood, beta, every
        self._pairs = np.array(pairs, dtype=int)

    def __call__(self, values: np.ndarray, order: int) -> tuple[float, np.ndarray, np.ndarray]:
        of = self._likelihood.per_text(values, order, self._every)
        margin, *more = (
            self._beta * (each[2 * self._pairs] - each[2 * self._pairs + 1])
            for each in of[: order + 1]
        )
        wrong = 1 / (1 + np.exp(np.clip(margin, -500, 500)))  # the probability of the rejected
        loss, none = float(np.logaddexp(0, -margin).sum()), np.empty(0)
        if order == 0:
            return loss, none, none
        gradient = -(wrong[:, None] * more[0]).sum(axis=0)
        if order == 1:
            return loss, gradient, none
        weight = wrong * (1 - wrong)
        curvature = np.einsum("k,kp,kq->pq", weight, more[0], more[0])
        return loss, gradient, curvature - np.einsum("k,kpq->pq", wrong, more[1])

    def of_values(self, value: np.ndarray) -> float:
        """The loss, by the log-likelihood ``(T,)`` of each text."""
        margin = self._beta * (value[2 * self._pairs] - value[2 * self._pairs + 1])
        return float(np.logaddexp(0, -margin).sum())

    def accuracy(self, values: np.ndarray) -> float:
        """The share of pairs whose chosen is the more likely; a tie is half a pair."""
        value = self._likelihood.per_text(values, 0).value
        margin = value[2 * self._pairs] - value[2 * self._pairs + 1]
        return float(((margin > 0) + 0.5 * (margin == 0)).mean())


def objective_of(
    kind: str, likelihood: LikelihoodOfTexts, texts: Sequence[int], beta: float, every: int = 1
) -> MinusLogLikelihood | PreferenceLoss:
    """The loss of an objective over texts, or over pairs."""
    if kind == PREFERENCE:
        return PreferenceLoss(likelihood, texts, beta, every)
    return MinusLogLikelihood(likelihood, texts, every)


def held_out(count: int, share: float, seed: int, what: str) -> tuple[list[int], list[int]]:
    """Which of some texts are fitted, and which are held out, by a seed.

    Raises:
        ArgumentError: a share that is none, or that leaves nothing on one side.
    """
    if not 0 <= share < 1:
        raise ArgumentError(f"holdout is {share!r}; it is a share, from 0 and below 1")
    held = max(1, round(count * share)) if share else 0
    if held >= count:
        raise ArgumentError(f"holdout {share:g} of {count} {what} leaves none to fit; give more")
    order = np.random.default_rng(seed).permutation(count).tolist()
    return sorted(order[held:]), sorted(order[:held])
