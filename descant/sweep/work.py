"""A sweep without its tables: decode, then score. Killed at any step, it resumes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..inputs.expand import Key, Setting, rows_of, rows_of_rank, settings_of
from ..inputs.prompts import read_items
from ..inputs.runfile import RunFile, RunFileError
from ..results.folder import COMPLETIONS, META, Journal
from ..results.front import preferences
from ..results.recovered import gap_ends
from ..results.tables import check_tables
from ..runs.models import Models, declared_models
from ..runs.processes import this_process
from ..runs.provenance import now, provenance
from ..runs.resume import gather, replace, resumed
from .decode import decode
from .measure import check_scores, measure
from .state import Work

_INTERVAL = 5.0  # seconds between two writes of the cost so far


def sweep(run: RunFile, folder: Path) -> bool:
    """Decode and score every row of a run that ``folder`` does not hold yet.

    Args:
        run: with ``data``.
        folder: shared by all processes of the sweep.

    Returns:
        Whether this is the first process, which gathers the lines of all.

    Raises:
        RunFileError: data, folder or grid; FormulaError, ModelError: as ``compile``. What is
            finished is kept.
    """
    if run.data is None:
        raise RunFileError("the run file has no data; add data: {path: …}")
    settings, items = settings_of(run), read_items(run.data)
    gap_ends(run, settings)
    check_tables(run, settings)
    if run.objectives:
        preferences(run)  # its mistakes are reported before anything is decoded
    process = this_process(run.device)
    work = Work(run, folder, process, settings, items)
    read = set().union(*(declared_models(run, setting) for setting in settings))
    free = set(run.models) - read
    with resumed(run, folder, items, process, sweeps=True, free=free) as done:
        _decode_and_score(work, done)
        if process.first:
            gather(folder)
            _finish(work)
    return process.first


def _decode_and_score(work: Work, done: set[Key]) -> None:
    run, process = work.run, work.process
    together = run.parallel is not None  # every process decodes every row
    models = Models(run, process.device, work.folder)
    check_scores(run, models, work.settings)
    clock = _Clock(work, models)
    journal = work.journal(COMPLETIONS)
    clock.write(0)
    for number, setting in enumerate(work.settings):
        every = rows_of(run, setting, work.items)
        rows = [row for row in every if row.key not in done]
        mine = rows if together else rows_of_rank(rows, process.rank, process.count)
        if mine:
            clock.start()
            for record in decode(models, setting, mine, len(every) - len(rows), process.first):
                if process.first or not together:
                    journal.add([record])
                clock.write(len(record["token_ids"]))
        models.keep(_models_of(run, work.settings[number + 1 :]))
    clock.write(0, force=True)
    process.wait()
    if process.first:
        gather(work.folder)
    process.wait()
    measure(work, models)
    process.wait()


def _models_of(run: RunFile, settings: Sequence[Setting]) -> set[str]:
    """The models of some formulas and of the scores."""
    scores = {score.model for score in (run.score or {}).values() if score.model}
    return scores.union(*(declared_models(run, setting) for setting in settings))


class _Clock:
    """What a run has cost so far, in ``meta.json``; a run that resumes adds to it."""

    def __init__(self, work: Work, models: Models) -> None:
        self._file, self._first = work.folder / META, work.process.first
        self._last = self._written = time.perf_counter()
        self._plans = models.plans
        if not self._first:
            return
        self.meta: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            self.meta = json.loads(self._file.read_text(encoding="utf-8"))
        if not self.meta:
            run = work.run
            self.meta = provenance(models.device, run.dtype, run.generate.seed)
            self.meta["plan"] = {}
        self.meta.pop("finished", None)
        self.meta["processes"] = work.process.count
        self._seconds = self.meta.get("seconds", 0.0)
        self._tokens = self.meta.get("tokens", 0)

    def start(self) -> None:
        """Count the time from now on."""
        self._last = time.perf_counter()

    def write(self, tokens: int, force: bool = False) -> None:
        """Add tokens and their time; written every few seconds."""
        if not self._first:
            return
        moment = time.perf_counter()
        if tokens:
            self._tokens += tokens
            self._seconds += moment - self._last
        self._last = moment
        if tokens and not force and moment - self._written < _INTERVAL:
            return
        self._written = moment
        self.meta |= {"seconds": round(self._seconds, 3), "tokens": self._tokens}
        self.meta["plan"] |= self._plans
        _write(self._file, self.meta)


def _finish(work: Work) -> None:
    file = work.folder / META
    meta = json.loads(file.read_text(encoding="utf-8"))
    records = Journal(work.folder, COMPLETIONS).records()
    meta |= {"finished": now(), "tokens": sum(len(record["token_ids"]) for record in records)}
    _write(file, meta)


def _write(file: Path, meta: dict[str, Any]) -> None:
    replace(file, json.dumps(meta, indent=1, ensure_ascii=False))
