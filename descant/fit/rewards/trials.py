"""The trials of a search: proposed in rounds, measured prompt by prompt, pruned or complete.

Everything that was decided is in the log, and everything else is measured again or known: a search
that is killed goes on as if it had not been.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

from ...inputs.grid import Point
from .study import Finished, Proposed, Search

Ids = Sequence[Any]  # of prompts
Measured = Mapping[Any, Sequence[float]]  # per prompt, a mean of its samples for each objective
Record = dict[str, Any]
DIGITS = 5  # significant: equal texts have equal scores to so many
RUNGS = (0.25, 0.5)  # the shares of the prompts after which a trial may be pruned


class Log(Protocol):
    """Lines that are kept. Of several processes the first writes, and all read the same."""

    def read(self) -> list[Record]:
        """Every line, in order."""

    def add(self, records: Sequence[Record]) -> None:
        """Keep more lines."""


class Measure(Protocol):
    """What gives the objectives at some points for some prompts, each decoded once at most."""

    def __call__(self, points: Mapping[int, Point], ids: Ids) -> Mapping[int, Measured]:
        """Per point and prompt, the means of the objectives over samples, as they are declared."""


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: from 0, in the order of proposals; 0 is the start where that is inside the bounds.
        point: its number among the points: of the first trial with the same values.
        params: the values.
        measured: per prompt the means of the objectives, as they are declared.
        pruned: whether it ended before it had all prompts.
    """

    number: int
    point: int
    params: Point
    measured: Measured
    pruned: bool = False

    def mean(self, objective: int) -> float:
        """The mean of an objective over its prompts."""
        values = [own[objective] for own in self.measured.values()]
        return math.fsum(values) / len(values)


def run_trials(
    search: Search,
    ids: Ids,
    measure: Measure,
    log: Log,
    show: Callable[[Sequence[Trial]], None] = lambda _: None,
) -> list[Trial]:
    """Run the trials that the log does not hold yet, in rounds; ``show`` sees each round's.

    Returns:
        All trials, those of the log among them.
    """
    trials: list[Trial] = []
    history: list[Finished] = []
    for number in itertools.count():
        if len(trials) >= search.trials:
            return trials
        if not (proposed := _of_round(log, number)):
            proposed = search.propose(
                number, history, min(search.at_once, search.trials - len(trials))
            )
            log.add([{"round": number, "proposed": [asdict(each) for each in proposed]}])
            proposed = _of_round(log, number)  # what the first process has written
        round_ = _Round(search, number, proposed, trials, history, log)
        finished = round_.run(ids, measure)
        trials += finished
        history += map(partial(_finished, search), proposed, finished)
        show(finished)
    raise AssertionError


@dataclass(frozen=True)
class _Round:
    """Trials that are decoded together, after those that have ended."""

    search: Search
    number: int
    proposed: Sequence[Proposed]
    trials: Sequence[Trial]
    history: Sequence[Finished]
    log: Log

    def run(self, ids: Ids, measure: Measure) -> list[Trial]:
        """Measure rung by rung, prune after each."""
        begun, seen = self._begun(), 0
        for rung in _rungs(self.search, len(ids)):
            running = {trial.point: trial.params for trial in begun if not trial.pruned}
            if running:
                values = measure(running, ids[seen:rung])
                begun = [t if t.pruned else _more(t, values[t.point]) for t in begun]
            if rung < len(ids):
                stopped = self._stopped(rung, begun)
                begun = [replace(t, pruned=t.pruned or t.number in stopped) for t in begun]
            seen = rung
        return begun

    def _begun(self) -> list[Trial]:
        """The trials; one with the values of another has its point, and its rows."""
        points: dict[tuple[tuple[str, float], ...], int] = {}
        for trial in self.trials:
            points.setdefault(_key(trial.params), trial.point)
        begun = []
        for number, each in enumerate(self.proposed, len(self.trials)):
            params = self.search.space.point(each.proposal)
            begun.append(Trial(number, points.setdefault(_key(params), number), params, {}))
        return begun

    def _stopped(self, rung: int, begun: Sequence[Trial]) -> list[int]:
        """The numbers of the trials that end after a rung: decided once, and kept."""
        key = {"round": self.number, "rung": rung}

        def decided() -> list[list[int]]:
            return [line["pruned"] for line in self.log.read() if key.items() <= line.items()]

        if not decided():
            complete = {trial.point for trial in self.trials if not trial.pruned}
            finished = map(partial(_finished, self.search), self.proposed, begun)
            stopped = [
                trial.number
                for trial, running in zip(begun, finished, strict=True)
                if not (trial.pruned or trial.point in complete)  # whose rows cost nothing
                and self.search.prunes(self.history, running)
            ]
            self.log.add([{**key, "pruned": stopped}])
        return decided()[0]


def _rungs(search: Search, prompts: int) -> list[int]:
    """The numbers of prompts after which trials are looked at; all of them are the last."""
    shares = RUNGS if search.pruner else ()
    return sorted({*(max(1, round(share * prompts)) for share in shares), prompts})


def _finished(search: Search, proposed: Proposed, trial: Trial) -> Finished:
    signs = search.signs
    means = tuple(sign * rounded(trial.mean(i)) for i, sign in enumerate(signs))
    by_prompt = tuple(signs[0] * rounded(values[0]) for values in trial.measured.values())
    return Finished(proposed, means, by_prompt, trial.pruned)


def rounded(value: float) -> float:
    """A score in as many digits as do not depend on the other rows of its batch."""
    return float(f"{value:.{DIGITS}g}")


def _more(trial: Trial, values: Measured) -> Trial:
    return replace(trial, measured={**trial.measured, **values})


def _key(params: Point) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(params.items()))


def _of_round(log: Log, number: int) -> list[Proposed]:
    """What is proposed in a round; nothing where the log does not say."""
    lines = (line for line in log.read() if line["round"] == number and "proposed" in line)
    return [Proposed(**each) for line in lines for each in line["proposed"]]
