"""The work of a sweep, but for its tables; every step can be killed and begun again."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..inputs.prompts import read_items
from ..inputs.runfile import RunFile, RunFileError
from ..results.front import preferences
from ..results.recovered import ends_of
from ..results.tables import check
from ..runs.expand import Setting, key_of, rows_of, settings_of, share_of
from ..runs.folder import COMPLETIONS, META, SCORES, Journal, check_prompts, claim, replace
from ..runs.models import Models, homes_of
from ..runs.processes import share
from ..runs.provenance import now, provenance
from .decode import decode
from .measure import check_scores, measure, score_key
from .state import Say, Work

_MOMENT = 5.0  # seconds between two writings of what a run has cost so far


def sweep(run: RunFile, folder: Path, say: Say = print) -> bool:
    """Decode and score every row of a run into ``folder``, but for what is there already.

    Args:
        run: with ``data``.
        folder: shared by all processes of the sweep.
        say: prints a line.

    Returns:
        Whether this is the process that gathers what all of them have written.

    Raises:
        RunFileError: data, folder or grid; FormulaError, ModelError: as ``compile``. What is
            finished is kept.
    """
    if run.data is None:
        raise RunFileError("the run file has no data; add data: {path: …}")
    settings, items = settings_of(run), read_items(run.data)
    ends_of(run, settings)
    check(run, settings)
    if run.objectives:
        preferences(run)  # what is wrong with them is said before anything is decoded
    part = share(run.device)
    work = Work(run, folder, part, settings, items, say if part.first else _silent)
    if not part.first:
        part.wait()
        _do(work)
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        read = set().union(*(homes_of(run, setting) for setting in settings))
        claim(run, folder, sweeps=True, free=set(run.models) - read)
        _gather(folder)
        part.wait()
        _do(work)
        _gather(folder)
        _finish(work)
    return True


def _do(work: Work) -> None:
    together = work.run.parallel is not None  # every process decodes every row
    models = Models(work.run, work.share.device, work.folder)
    check_scores(work.run, models, work.settings)
    clock = _Clock(work, models)
    journal = work.journal(COMPLETIONS)
    records = journal.records()
    asked, data = ((item.id, item.prompt) for item in work.items), work.run.data
    check_prompts(asked, records, data.source if data else "the data")
    done = set(map(key_of, records))
    clock.write(0)
    for number, setting in enumerate(work.settings):
        rows = [row for row in rows_of(work.run, setting, work.items) if row.key not in done]
        mine = rows if together else share_of(rows, work.share.rank, work.share.count)
        if mine:
            clock.start()
            begun = len(setting.points) * len(work.items) * work.run.generate.num_return_sequences
            for records in decode(models, setting, mine, begun - len(rows), work.share.first):
                if work.share.first or not together:
                    journal.add(records)
                clock.write(sum(len(record["token_ids"]) for record in records))
        later = work.settings[number + 1 :]
        models.keep(_needed(work.run, later))
    clock.write(0, force=True)
    work.share.wait()
    if work.share.first:
        _gather(work.folder)
    work.share.wait()
    measure(work, models)
    work.share.wait()


def _needed(run: RunFile, settings: Sequence[Setting]) -> set[str]:
    """The models that are still to be used."""
    scores = (run.score or {}).values()
    judges = {score.model for score in scores if score.model}
    return judges.union(*(homes_of(run, setting) for setting in settings))


def _gather(folder: Path) -> None:
    """One file of completions and one of scores, each line once."""
    Journal(folder, COMPLETIONS).absorb(key_of)
    Journal(folder, SCORES).absorb(score_key)


class _Clock:
    """What a run has cost so far, in ``meta.json``; a run that resumes adds to it."""

    def __init__(self, work: Work, models: Models) -> None:
        self._file, self._first = work.folder / META, work.share.first
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
        self.meta["processes"] = work.share.count
        self._seconds = self.meta.get("seconds", 0.0)
        self._tokens = self.meta.get("tokens", 0)

    def start(self) -> None:
        """From now on, time is that of decoding."""
        self._last = time.perf_counter()

    def write(self, tokens: int, force: bool = False) -> None:
        """Count tokens, and write what is known every few seconds."""
        if not self._first:
            return
        moment = time.perf_counter()
        if tokens:
            self._tokens += tokens
            self._seconds += moment - self._last
        self._last = moment
        if tokens and not force and moment - self._written < _MOMENT:
            return
        self._written = moment
        self.meta |= {"seconds": round(self._seconds, 3), "tokens": self._tokens}
        self.meta["plan"] |= self._plans
        replace(self._file, json.dumps(self.meta, indent=1, ensure_ascii=False))


def _finish(work: Work) -> None:
    file = work.folder / META
    meta = json.loads(file.read_text(encoding="utf-8"))
    records = Journal(work.folder, COMPLETIONS).records()
    meta |= {"finished": now(), "tokens": sum(len(record["token_ids"]) for record in records)}
    replace(file, json.dumps(meta, indent=1, ensure_ascii=False))


def _alone(folder: Path) -> Any:
    """A lock on the folder, which goes when the process does, however it ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", timeout=0)
    try:
        return lock.acquire()
    except Timeout:
        raise RunFileError(f"another sweep writes to {folder} at this moment") from None


def _silent(line: str) -> None:
    """Nothing: another process speaks."""
