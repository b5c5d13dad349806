"""What a search is asked for, by a run file's ``fit:`` or by ``Decoder.fit``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ...errors import ArgumentError
from ...formula import Plan
from ...grammar import did_you_mean
from ...inputs.fit_section import FitSection
from ...inputs.grid import Point
from .space import space_of
from .study import Pruner, Sampler, Search, check_search

TRIALS = 50
_ROUNDS = 5  # the fewest rounds that trials are parted in, so that later ones can learn


@dataclass(frozen=True)
class Options:
    """How rewards are maximised.

    Attributes:
        bounds: per parameter its ends, as ``space_of`` takes them.
        constraints: ``simplex(a, b)`` each.
        trials: points that are tried.
        seed: of what is proposed, and of the noise: all trials draw with the same noise.
        holdout: the share of the prompts that the best trials alone are measured on, at the end.
        sampler: ``tpe`` (of several objectives MOTPE), ``nsga2``, ``gp`` (a Gaussian process) or
            ``random``.
        pruner: ``wilcoxon`` or ``median`` stops a trial after a quarter or half of the prompts;
            None gives all of them to each.
        at_once: trials that are decoded together; left out, as many as fill a batch, and at most a
            fifth of all.
        grid: whether a grid that costs as much is measured as well.
        weights: of objectives, to choose a point of a front by.
    """

    bounds: Mapping[str, Any]
    constraints: Sequence[str] = ()
    trials: int = TRIALS
    seed: int = 0
    holdout: float = 0.0
    sampler: Sampler = "tpe"
    pruner: Pruner | None = None
    at_once: int | None = None
    grid: bool = False
    weights: Mapping[str, float] | None = field(default=None)

    def search(
        self, plan: Plan, start: Point, objectives: Sequence[str], rows: int, batch_size: int
    ) -> Search:
        """The search for a formula; ``rows`` are those of one trial.

        Raises:
            ArgumentError: options that do not fit together; FormulaError: bounds that the formula
                cannot take. MissingExtra: optuna is not installed.
        """
        if self.trials < 1:
            raise ArgumentError(f"trials is {self.trials}; at least 1 is tried")
        if self.pruner is not None and len(objectives) > 1:
            cure = "leave pruner out, or maximise one score"
            raise ArgumentError(f"pruner: {self.pruner} compares trials by one score; {cure}")
        plain = [name.removeprefix("-") for name in objectives]
        for name in self.weights or ():
            if name not in plain:
                cure = did_you_mean(name, plain)
                raise ArgumentError(f"weights.{name}: {name} is not maximised; {cure}")
        check_search(self.sampler, self.pruner, len(objectives))
        space = space_of(self.bounds, plan, self.constraints)
        space.check(plan, start)
        at_once = self.at_once or max(1, min(-(-batch_size // rows), self.trials // _ROUNDS))
        signs = tuple(-1 if name.startswith("-") else 1 for name in objectives)
        inside = {name: start[name] for name in space.names if name in start}
        return Search(
            space, signs, self.trials, at_once, self.seed, inside, self.sampler, self.pruner
        )


def options_of(section: FitSection, seed: int) -> Options:
    """What a run file asks for; ``seed`` where the section has none."""
    names = {item.name for item in fields(Options)} - {"seed", "bounds"}
    own = {name: getattr(section, name) for name in names}
    return Options(section.bounds or {}, seed=seed if section.seed is None else section.seed, **own)
