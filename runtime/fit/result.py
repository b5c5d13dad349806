"""What a fit has found: values, how sure they are, and a run file with them put in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CHI_SQUARED_95 = 5.991464547107979  # of two degrees of freedom: -2 ln 0.05


@dataclass(frozen=True)
class Fit:
    """The values of a formula's parameters, found. The decoder is as it was.

    Attributes:
        params: the values found, by name.
        stderr: the standard error of each; NaN where none is known, as at a bound that is hit.
        covariance: ``(P, P)``, in the order of ``params``: the inverse of the observed information.
        loglikelihood: of the texts at these values, in nats; of preferences, the log-probability of
            all of them; NaN where rewards decided.
        table: one row per term: ``term``, ``coefficient``, ``stderr``, and ``lost``: how much
            log-likelihood is lost without it, the others as they are.
        run_file: a run file with the values put in, as data: ``yaml.dump`` writes it.
        objective: ``likelihood``, ``preference`` or ``reward``.
        tokens: that were scored; and ``texts``, completions or pairs.
        start: the values that the fit began with, and ``start_loglikelihood`` there.
        at_bounds: parameters whose bound is hit.
        trace: per evaluation, the values and what the objective was.
        holdout: what texts that took no part say, before and after: ``loglikelihood``, ``tokens``,
            ``perplexity``; of preferences, ``accuracy``. Empty where none were held out.
        folds: of a cross-validation, the same for each fold, with the ``params`` it found.
        accuracy: of preferences, the share of pairs whose chosen is more likely, before and after.
        slices: by parameter, pairs of a value and the log-likelihood there, where asked for.
        notes: what a reader has to know: a bound that is hit, how scores were kept.
        search: of rewards, as data: ``front``, ``hypervolume`` with its interval, ``convergence``,
            ``grid`` and what else ``fit.json`` has. Then ``stderr`` is that of each score at the
            values found, and ``table`` has a row per trial.
    """

    params: dict[str, float]
    stderr: dict[str, float]
    covariance: np.ndarray
    loglikelihood: float
    table: list[dict[str, Any]]
    run_file: dict[str, Any]
    objective: str = "likelihood"
    tokens: int = 0
    texts: int = 0
    start: dict[str, float] = field(default_factory=dict)
    start_loglikelihood: float = math.nan
    at_bounds: tuple[str, ...] = ()
    trace: list[dict[str, Any]] = field(default_factory=list, repr=False)
    holdout: dict[str, Any] = field(default_factory=dict)
    folds: list[dict[str, Any]] = field(default_factory=list, repr=False)
    accuracy: tuple[float, float] | None = None
    slices: dict[str, list[tuple[float, float]]] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    search: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def perplexity(self) -> float:
        """``exp`` of minus the mean log-likelihood of a token."""
        return math.exp(-self.loglikelihood / self.tokens) if self.tokens else math.nan

    def ellipse(self, x: str, y: str, points: int = 100) -> np.ndarray:
        """``(points, 2)``: the 95 % confidence ellipse of two parameters, at their values found."""
        names = [*self.params]
        at = [names.index(x), names.index(y)]
        lengths, axes = np.linalg.eigh(self.covariance[np.ix_(at, at)])
        angles = np.linspace(0, 2 * math.pi, points)
        circle = np.stack([np.cos(angles), np.sin(angles)])
        radii = np.sqrt(np.maximum(lengths, 0) * CHI_SQUARED_95)
        centre = np.array([self.params[x], self.params[y]])
        return np.asarray(centre + (axes @ (radii[:, None] * circle)).T)

    def as_dict(self) -> Any:
        """All of it as plain data, for JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return _finite({**plain, "covariance": self.covariance.tolist()})


def _finite(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON has not."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def run_file_of(
    formula: str,
    params: Mapping[str, float],
    specs: Mapping[str, Any],
    texts: Sequence[Mapping[str, Any]] = ({}, {}, {}),
) -> dict[str, Any]:
    """A run file as data: the formula, the models that can be written down, and the values.

    Models in memory have no path, and are left out.
    """
    models = {
        name: written for name, spec in specs.items() if (written := _declaration(spec)) is not None
    }
    named = zip(("prompts", "schemas", "grammars"), texts, strict=True)
    more = {key: dict(each) for key, each in named if each}
    return {"formula": formula, "models": models, "params": dict(params), **more}


def _declaration(spec: Any) -> dict[str, Any] | None:
    if spec.model is not None:
        return None
    written: dict[str, Any] = spec.model_dump(mode="json", exclude_defaults=True)
    return written
