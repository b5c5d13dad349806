"""A search in a run's folder: rows, scores and files are a sweep's, and so is the report.

Rows of trials have the formula's name, with the number of the trial as their point; those of
held-out prompts and of a grid have names of their own. ``trials.jsonl`` holds what was proposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...disk import cut_half_line
from ...inputs.expand import Row, rows_of_rank, seed_of, settings_of
from ...inputs.grid import Point
from ...inputs.prompts import Item, read_items
from ...inputs.runfile import TEMPERATURE, RunFile, RunFileError
from ...inputs.sections import FORMULA
from ...results.folder import COMPLETIONS, SCORES, Journal, scores_by_key
from ...runs.models import Models, declared_models
from ...runs.processes import Process, this_process
from ...runs.provenance import now
from ...runs.resume import gather, resumed
from ...sweep.decode import completed
from ...sweep.lines import Work
from ...sweep.measure import check_scores, measure, score_lines
from ...sweep.source import models_of_scores
from ...sweep.work import Clock
from .options import Options
from .outcome import Outcome
from .search import searched
from .trials import Ids, Measured, Record

LOG = "trials"  # trials.jsonl


def fit_in_folder(run: RunFile, options: Options, folder: Path) -> tuple[Outcome, bool]:
    """Maximise the scores of a run file with one formula; killed at any step, it resumes.

    Returns:
        The outcome, and whether this is the first process, which writes.

    Raises:
        RunFileError: data, folder or scores; ArgumentError: bounds or options; FormulaError,
            ModelError: as ``compile``. What is finished is kept.
    """
    if run.data is None:
        raise RunFileError("the run file has no data; add data: {path: …}")
    objectives = objectives_of(run)
    [setting], items = settings_of(run), read_items(run.data)
    start = {**run.params, **_temperature(run)}
    rows = len(items) * run.generate.num_return_sequences
    process = this_process(run.device)
    batch = run.generate.batch_size * process.count
    search = options.search(setting.plan, start, objectives, rows, batch)
    free = set(run.models) - set(declared_models(run, setting))
    with resumed(run, folder, items, process, sweeps=True, free=free) as done:
        work = Work(run, folder, process, [setting], items)
        rows_measured = _Rows(work, objectives, done)
        try:
            outcome = searched(
                search, options, objectives, run.front.reference, [item.id for item in items],
                rows_measured, _Lines(folder, process), None if process.first else False,
            )  # fmt: skip
        finally:
            rows_measured.close()
        if process.first:
            tokens = sum(len(line["token_ids"]) for line in Journal(folder, COMPLETIONS).records())
            rows_measured.clock.write(finished=now(), tokens=tokens)
        process.wait()
    return outcome, process.first


def objectives_of(run: RunFile) -> list[str]:
    """What is maximised: ``front.objectives``, or the rewards among the scores.

    Raises:
        RunFileError: there is none, or too many, or one that no completion has.
    """
    scores = run.score or {}
    rewards = [name for name, score in scores.items() if score.reward]
    objectives = run.front.objectives or rewards
    if not objectives:
        raise RunFileError("score: names no reward to maximise; add score: {help: reward_help}")
    if len(objectives) > 3:
        problem = f"score: has {len(objectives)} rewards, and a front is of three at most"
        raise RunFileError(f"{problem}; name them, front: {{objectives: [a, b]}}")
    for name in objectives:
        if scores[name.removeprefix("-")].recovered:
            raise RunFileError(f"score.{name} is of points, and what is maximised is of answers")
    return objectives


def _temperature(run: RunFile) -> Point:
    temperature = run.generate.temperature
    return {} if temperature is None else {TEMPERATURE: float(temperature)}


class _Lines:
    """``trials.jsonl``, which the first process writes."""

    def __init__(self, folder: Path, process: Process) -> None:
        self._journal, self._process = Journal(folder, LOG, fields={"round": (int,)}), process
        if process.first:
            cut_half_line(self._journal.file)
        process.wait()

    def read(self) -> list[Record]:
        return self._journal.records()

    def add(self, records: Sequence[Record]) -> None:
        self._process.wait()  # every process has read what was there
        if self._process.first:
            self._journal.add(records)
        self._process.wait()


class _Rows:
    """Measures points in the folder: decodes and scores the rows that it does not hold."""

    def __init__(self, work: Work, objectives: Sequence[str], done: set[Any]) -> None:
        self._work, self._done = work, done
        self._names = [name.removeprefix("-") for name in objectives]
        self._items = {item.id: item for item in work.items}
        self._models = Models(work.run, work.process.device)
        check_scores(work.run, self._models, work.settings)
        self.clock = Clock(work, self._models)
        self.clock.write()
        self._scores = scores_by_key(Journal(work.folder, SCORES).records())
        self._opened: Any = None
        self._alone = self._shares_weights()
        work.process.wait()  # every process has read the lines before any is gathered

    def __call__(self, name: str, points: Mapping[int, Point], ids: Ids) -> Mapping[int, Measured]:
        rows = self._rows(name, points, [self._items[id] for id in ids])
        if any(not self._known(row) for row in rows):
            self._decode([row for row in rows if row.key not in self._done])
            self._score(name, [self._items[id] for id in ids])
        values: dict[int, dict[Any, list[list[float]]]] = {point: {} for point in points}
        for row in rows:
            if row.key in self._done:
                if not self._known(row):
                    missing = next(n for n in self._names if n not in self._scores[row.key])
                    raise RunFileError(f"score.{missing} has no value where a formula searches")
                own = [self._scores[row.key][score] for score in self._names]
                values[row.point].setdefault(row.item.id, []).append(own)
        if not all(values.values()):
            raise RunFileError("the models can read none of the prompts; see data: bad_rows")
        return {
            point: {id: _mean(samples) for id, samples in of_prompts.items()}
            for point, of_prompts in values.items()
        }

    def close(self) -> None:
        """Release the formula's adapters."""
        if self._opened is not None:
            self._opened[1]()
            self._opened = None

    def _known(self, row: Row) -> bool:
        return self._scores.get(row.key, {}).keys() >= {*self._names}

    def _rows(self, name: str, points: Mapping[int, Point], items: Sequence[Item]) -> list[Row]:
        """Rows of one prompt are adjacent; all points draw with the same noise."""
        generate = self._work.run.generate
        return [
            Row(
                name, point, params, item, sample,
                seed_of(generate.seed, FORMULA, {}, item.id, sample),
            )
            for item in items
            for point, params in points.items()
            for sample in range(generate.num_return_sequences)
        ]  # fmt: skip

    def _decode(self, rows: Sequence[Row]) -> None:
        work, process, [setting] = self._work, self._work.process, self._work.settings
        together = work.run.parallel is not None  # every process decodes every row
        mine = rows if together else rows_of_rank(rows, process.rank, process.count)
        journal = work.journal(COMPLETIONS)
        if mine:
            if self._opened is None:
                self._opened = self._models.decoder(setting)
            self.clock.start()
            for row, completion in completed(self._opened[0], work.run, setting.plan, mine):
                if process.first or not together:
                    journal.add([row.record(completion, work.run)])
                self.clock.add(len(completion.token_ids))
            if self._alone:
                self.close()
        self._gather()

    def _score(self, name: str, items: Sequence[Item]) -> None:
        work, [setting] = self._work, self._work.settings
        score = partial(score_lines, work.run, self._models, shown=work.process.first)
        measure(replace(work, settings=[replace(setting, name=name)], items=items), score)
        self._gather()
        self._scores = scores_by_key(Journal(work.folder, SCORES).records())
        self._done |= {*self._scores}
        work.process.wait()

    def _gather(self) -> None:
        process = self._work.process
        process.wait()
        if process.first:
            gather(self._work.folder)
        process.wait()

    def _shares_weights(self) -> bool:
        """Whether a score reads weights that the formula reads: one at a time adds to them."""
        run, models = self._work.run, self._models
        of_formula = declared_models(run, self._work.settings[0])
        weights = [
            {models.description(name).weights for name in names if models.specs[name].head is None}
            for names in (of_formula, models_of_scores(run))
        ]
        return bool(weights[0] & weights[1])


def _mean(samples: Sequence[Sequence[float]]) -> list[float]:
    return [sum(values) / len(samples) for values in zip(*samples, strict=True)]
