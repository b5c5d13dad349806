"""What a run's folder holds: the resolved run file, and completions and scores as JSON lines.

A line is appended when its work is done, and is on the disk within a second. Half a last line, of a
process that was killed, is cut off by the next process.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..disk import append, check_regular, cut_half_line, reading, saving, sync
from ..inputs.expand import KEY, Key, key_of
from ..inputs.runfile import RunFile, RunFileError, validated
from ..inputs.yaml import YamlError, load_yaml

COMPLETIONS, SCORES, RESOLVED, META = "completions", "scores", "run.yaml", "meta.json"
Record = dict[str, Any]
_SYNC = 1.0  # seconds between two syncs of a journal: each takes some ms, and lines come in bursts
Fields = Mapping[str, tuple[type, ...]]
_KEY: Fields = dict(zip(KEY, ((str,), (int,), (int, str), (int,)), strict=True))
_REQUIRED: dict[str, Fields] = {  # of every line
    COMPLETIONS: {**_KEY, "prompt": (str, list), "text": (str, type(None))},
    SCORES: {**_KEY, "scores": (dict,)},
}
_OPTIONAL: Fields = {
    "token_ids": (list,), "elapsed": (int, float), "params": (dict,), "seed": (int,),
}  # fmt: skip
# descant run of version 0.1 wrote no formula and no point
_DEFAULTS: dict[str, Record] = {COMPLETIONS: {"formula": "formula", "point": 0}}


class Journal:
    """An append-only file of JSON lines, ``stem``.jsonl; each of several processes has its own."""

    def __init__(
        self,
        folder: Path,
        stem: str,
        rank: int = 0,
        ranks: int = 1,
        fields: Fields | None = None,
    ) -> None:
        self._fields = _REQUIRED.get(stem, {}) if fields is None else fields
        self._folder, self._stem = folder, stem
        self._main = folder / f"{stem}.jsonl"
        self.file = self._main if ranks == 1 else folder / f"{stem}.{rank}.jsonl"
        self._synced = -_SYNC

    def records(self) -> list[Record]:
        """The complete lines of the main file; half a last line is left out."""
        return list(self._read(self._main))

    def first(self) -> Record | None:
        """The first line, or None."""
        return next(self._read(self._main), None)

    def add(self, records: Iterable[Record]) -> None:
        """Append lines; they survive a kill when this returns, and a loss of power a second later.

        Raises:
            DiskError: they cannot be written, as on a full disk; no earlier line is lost.
        """
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        if not lines:
            return
        due = time.monotonic() >= self._synced + _SYNC
        append(self.file, lines.encode("utf-8"), sync_now=due)
        if due:
            self._synced = time.monotonic()

    def gather(self, key: Callable[[Record], Hashable]) -> None:
        """Cut half a last line off, and move the other processes' lines into the main file.

        Killed meanwhile, it may be called again: a line whose key is in the main file is skipped.
        """
        others = sorted(self._folder.glob(f"{self._stem}.*.jsonl"))
        cut_half_line(self._main)
        if not others:
            return
        known = {key(record) for record in self.records()}
        main = Journal(self._folder, self._stem)
        for file in others:
            fresh = {key(record): record for record in self._read(file)}
            main.add(record for name, record in fresh.items() if name not in known)
            known |= set(fresh)
            sync(self._main)  # before the other copy goes
            with saving(file):
                file.unlink()

    def _read(self, file: Path) -> Iterator[Record]:
        check_regular(file)
        if not file.exists():
            return
        defaults = _DEFAULTS.get(self._stem, {})
        with reading(file), file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    raise _bad_line(file, number, "is not JSON") from None
                if not isinstance(record, dict):
                    raise _bad_line(file, number, "is no mapping")
                record = {**defaults, **record}
                if missing := [key for key in self._fields if key not in record]:
                    raise _bad_line(file, number, f"has no {missing[0]}")
                for key, kinds in {**_OPTIONAL, **self._fields}.items():
                    if key in record and not isinstance(record[key], kinds):
                        raise _bad_line(file, number, f"has another type of {key}")
                yield record


def scores_by_key(lines: Iterable[Record]) -> dict[Key, dict[str, float]]:
    """All scores of each completion; the lines of one completion add up."""
    scores: dict[Key, dict[str, float]] = {}
    for line in lines:
        scores.setdefault(key_of(line), {}).update(line["scores"])
    return scores


def resolved_run(folder: Path) -> RunFile:
    """The run file of a folder.

    Raises:
        RunFileError: there is none, or it cannot be read.
    """
    file = folder / RESOLVED
    if not file.is_file():
        raise RunFileError(f"{folder} holds no run: there is no {RESOLVED}")
    try:
        with reading(file):
            text = file.read_text(encoding="utf-8")
        return validated(load_yaml(text), str(file))
    except (YamlError, UnicodeDecodeError) as error:
        raise RunFileError(f"{file} {error}; give another output") from None


def _bad_line(file: Path, number: int, problem: str) -> RunFileError:
    return RunFileError(f"{file}, line {number} {problem}; remove the line")
