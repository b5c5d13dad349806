"""A sweep without its tables: decode, then score. Killed at any step, it resumes."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from ..disk import reading, replace
from ..inputs.expand import Key, rows_of, rows_of_rank, settings_of
from ..inputs.prompts import read_items
from ..inputs.runfile import RunFile, RunFileError
from ..results.effects import reference_of
from ..results.folder import COMPLETIONS, META, Journal
from ..results.front import preferences
from ..results.recovered import gap_ends
from ..results.tables import check_tables
from ..runs.models import Models, declared_models
from ..runs.origins import origins
from ..runs.processes import this_process
from ..runs.provenance import now, provenance
from ..runs.resume import gather, resumed
from .lines import Work
from .measure import check_scores, measure
from .source import InProcess, Source, decode

_log = logging.getLogger(__name__)
_INTERVAL = 5.0  # seconds between two writes of the cost so far


def sweep(run: RunFile, folder: Path, source: Source | None = None) -> bool:
    """Decode and score every row of a run that ``folder`` does not hold yet.

    ``source`` decodes and scores; left out, this process does.

    Returns whether this is the first process, which gathers the lines of all.

    Raises:
        RunFileError: data, folder or grid; FormulaError, ModelError: as ``compile``. What is
            finished is kept.
    """
    if run.data is None:
        raise RunFileError("the run file has no data; add data: {path: …}")
    settings, items = settings_of(run), read_items(run.data)
    gap_ends(run, settings)
    reference_of(run, {setting.name: len(setting.points) for setting in settings})
    check_tables(run, settings)
    if run.objectives:
        preferences(run)  # its mistakes are reported before anything is decoded
    process = this_process(run.device)
    work = Work(run, folder, process, settings, items)
    read = set().union(*(declared_models(run, setting) for setting in settings))
    free = set(run.models) - read
    with resumed(run, folder, items, process, sweeps=True, free=free) as done:
        if source is None:
            source = InProcess(run, settings, process.device, process.first)
        clock = _decode_and_score(work, done, source)
        if process.first:
            gather(folder)
            records = Journal(folder, COMPLETIONS).records()
            tokens = sum(len(line["token_ids"]) for line in records)
            clock.write(finished=now(), tokens=tokens, **origins(run, len(items)))
    return process.first


def _decode_and_score(work: Work, done: set[Key], source: Source) -> Clock:
    run, process = work.run, work.process
    together = run.parallel is not None  # every process decodes every row
    check_scores(run, source.models, work.settings)
    clock = Clock(work, source.models, source.device)
    journal = work.journal(COMPLETIONS)
    clock.write()
    for setting in work.settings:
        every = rows_of(run, setting, work.items)
        rows = [row for row in every if row.key not in done]
        mine = rows if together else rows_of_rank(rows, process.rank, process.count)
        if mine:
            clock.start()
            for record in decode(source, setting, mine, len(every) - len(rows), process.first):
                if process.first or not together:
                    journal.add([record])
                clock.add(len(record["token_ids"]))
    clock.write()
    process.wait()
    if process.first:
        gather(work.folder)
    process.wait()
    measure(work, source.score)
    process.wait()
    return clock


class Clock:
    """What a run has cost so far, in ``meta.json``; a run that resumes adds to it.

    ``device`` is what decodes; left out, the models' device.
    """

    def __init__(self, work: Work, models: Models, device: str | None = None) -> None:
        self._file, self._writes = work.folder / META, work.process.first
        self._plans, run = models.plans, work.run
        self._last = self._written = time.perf_counter()
        self._meta = _earlier_costs(self._file)
        if not self._meta:
            self._meta = provenance(device or models.device, run.dtype, run.generate.seed)
        for key, value in (("plan", {}), ("seconds", 0.0), ("tokens", 0)):
            self._meta.setdefault(key, value)
        self._meta.pop("finished", None)
        self._meta["processes"] = work.process.count

    def start(self) -> None:
        """Count the time from now on."""
        self._last = time.perf_counter()

    def add(self, tokens: int) -> None:
        """Count tokens and the time since the last ones; written every few seconds."""
        moment = time.perf_counter()
        self._meta["tokens"] += tokens
        self._meta["seconds"] = round(self._meta["seconds"] + moment - self._last, 6)
        self._last = moment
        if moment - self._written >= _INTERVAL:
            self.write()

    def write(self, **more: Any) -> None:
        """Write the file; the first process alone does."""
        if self._writes:
            self._written = time.perf_counter()
            self._meta["plan"] |= self._plans
            self._meta |= more
            replace(self._file, json.dumps(self._meta, indent=1, ensure_ascii=False))


def _earlier_costs(file: Path) -> dict[str, Any]:
    """What a run has cost so far; empty where no file says it."""
    if not file.is_file():
        return {}
    try:
        with reading(file):
            meta = dict(json.loads(file.read_text(encoding="utf-8")))
        meta["plan"] = dict(meta.get("plan", {}))
        for key in ("seconds", "tokens"):
            meta[key] = 0 + meta.get(key, 0)
    except (ValueError, TypeError, RecursionError):
        _log.warning("%s cannot be read: what the run has cost is counted anew", file)
        return {}
    return meta
