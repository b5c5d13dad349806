"""The only file that calls optuna: what is tried next, and what is not worth finishing.

A study is made anew of finished trials whenever it is asked, with a sampler seeded by the round's
number. So what is proposed depends on the seed and on what is finished, and on nothing in memory.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from ...extras import require
from ...inputs.grid import Point
from .space import Proposal, Space

Sampler = Literal["tpe", "nsga2", "gp", "random"]
Pruner = Literal["wilcoxon", "median"]
_GENERATION = "NSGAIISampler:generation"  # optuna's name for an attribute of a trial
_FEW = 4  # completed trials before one is compared with their median


@dataclass(frozen=True)
class Proposed:
    """What a sampler proposes, and what it keeps with the trial."""

    proposal: Proposal
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """A trial that has ended.

    Attributes:
        means: of the objectives, each maximised; over the prompts that it has.
        by_prompt: means of the first objective, in the order of the prompts.
        pruned: whether it has not got them all.
    """

    proposed: Proposed
    means: tuple[float, ...]
    by_prompt: tuple[float, ...]
    pruned: bool = False


@dataclass(frozen=True)
class Search:
    """How trials are chosen.

    Attributes:
        signs: per objective 1, or -1 where it is minimised.
        trials: how many there are to be, which sets how many begin at random (TPE) and how many
            make a generation (NSGA-II).
        at_once: trials of one round, which are decoded together.
        start: the values that are tried first, where they are inside the bounds.
    """

    space: Space
    signs: tuple[int, ...]
    trials: int
    at_once: int
    seed: int
    start: Point = field(default_factory=dict)
    sampler: Sampler = "tpe"
    pruner: Pruner | None = None

    def propose(self, number: int, finished: Sequence[Finished], count: int) -> list[Proposed]:
        """The trials of a round by its number; the start is in round 0."""
        first = self.space.proposal(self.start) if number == 0 else None
        with _quiet() as optuna:
            sampler = self._sampler(optuna.samplers, _seed(self.seed, number))
            study = self._study(optuna, sampler)
            for each in finished:
                study.add_trial(self._trial(optuna, each))
            if first is not None:
                study.enqueue_trial(first)
            asked = [study.ask(self.space.distributions) for _ in range(count)]
            kept = study.get_trials(deepcopy=False)[-count:]
            return [
                Proposed(dict(trial.params), self._attributes(own.system_attrs))
                for trial, own in zip(asked, kept, strict=True)
            ]

    def prunes(self, finished: Sequence[Finished], running: Finished) -> bool:
        """Whether a trial is so far worse than those that are complete.

        ``median``: its mean is below the median of theirs over as many prompts. ``wilcoxon``: so
        say its differences from the best of them, prompt by prompt, at p < 0.1.
        """
        complete = [each for each in finished if not each.pruned]
        if self.pruner is None or not complete:
            return False
        seen = len(running.by_prompt)
        with _quiet() as optuna:
            kinds = optuna.pruners
            if self.pruner == "median":
                pruner = kinds.MedianPruner(n_startup_trials=_FEW)
            else:
                pruner = kinds.WilcoxonPruner(p_threshold=0.1)
            study = self._study(optuna, optuna.samplers.RandomSampler(), pruner)
            for each in complete:
                study.add_trial(self._trial(optuna, each, self._steps(each, seen)))
            state = optuna.trial.TrialState.RUNNING
            trial = self._trial(optuna, running, self._steps(running, seen), state)
            return bool(pruner.prune(study, trial))

    def _attributes(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """What the sampler is to know of a trial later; optuna leaves it out of the very first."""
        return {_GENERATION: attributes.get(_GENERATION, 0)} if self.sampler == "nsga2" else {}

    def _steps(self, trial: Finished, seen: int) -> dict[int, float]:
        """What a pruner sees: every prompt's mean, or the mean over so many prompts."""
        if self.pruner == "wilcoxon":
            return dict(enumerate(trial.by_prompt))
        return {seen: sum(trial.by_prompt[:seen]) / seen}

    def _sampler(self, kinds: Any, seed: int) -> Any:
        startup = max(2, min(10, self.trials // 3))
        match self.sampler:
            case "tpe":
                return kinds.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
            case "nsga2":
                size = max(4, min(50, self.trials // 5))
                return kinds.NSGAIISampler(seed=seed, population_size=size)
            case "gp":
                return kinds.GPSampler(seed=seed, n_startup_trials=startup)
            case "random":
                return kinds.RandomSampler(seed=seed)

    def _study(self, optuna: Any, sampler: Any, pruner: Any = None) -> Any:
        directions = ["maximize"] * len(self.signs)
        return optuna.create_study(directions=directions, sampler=sampler, pruner=pruner)

    def _trial(
        self,
        optuna: Any,
        each: Finished,
        steps: Mapping[int, float] | None = None,
        state: Any = None,
    ) -> Any:
        """A trial as optuna has it; one that was pruned has its mean after so many prompts."""
        states = optuna.trial.TrialState
        state = state or (states.PRUNED if each.pruned else states.COMPLETE)
        if steps is None:
            steps = {len(each.by_prompt): each.means[0]} if each.pruned else {}
        return optuna.trial.create_trial(
            state=state,
            values=each.means if state == states.COMPLETE else None,
            params=each.proposed.proposal,
            distributions=self.space.distributions,
            system_attrs=dict(each.proposed.attributes),
            intermediate_values=dict(steps),
        )


def check_search(sampler: str, pruner: str | None, objectives: int) -> None:
    """Check that the packages of a search are there.

    Raises:
        MissingExtra: one is not.
    """
    require("a search for the best rewards", "optuna")
    if pruner == "wilcoxon" or sampler == "gp":
        require(f"{pruner or sampler}", "scipy")
    if objectives > 1:
        require("a front", "moocore")


def _seed(seed: int, number: int) -> int:
    """The seed of a round's sampler, below 2**32."""
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


@contextmanager
def _quiet() -> Iterator[Any]:
    """optuna, without a line for every study, and without warnings of what is new in it."""
    import optuna

    log = logging.getLogger("optuna")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield optuna
    finally:
        log.setLevel(level)
