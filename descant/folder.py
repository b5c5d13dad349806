"""A run's folder: what is in it, whose it is, and lines that outlive a process that is killed.

A line is written when its work is done, and is whole or is cut off by the next reader. It decodes
and scores nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from .runfile import RunFile, RunFileError, load_yaml, validated

COMPLETIONS, SCORES, RESOLVED, META = "completions", "scores", "run.yaml", "meta.json"
Record = dict[str, Any]
_LATER = ("output", "score", "front", "tables")  # what may change when a run goes on


class Journal:
    """An append-only file of JSON lines; several processes write one file each.

    Args:
        folder: where it is.
        stem: its name, without ``.jsonl``.
        rank: the number of this process, and of how many.
    """

    def __init__(self, folder: Path, stem: str, rank: int = 0, ranks: int = 1) -> None:
        self._folder, self._stem = folder, stem
        self._main = folder / f"{stem}.jsonl"
        self.file = self._main if ranks == 1 else folder / f"{stem}.{rank}.jsonl"

    def records(self) -> list[Record]:
        """What the one file holds; half a last line, of a process that was killed, is not there."""
        return list(_read(self._main))

    def add(self, records: Iterable[Record]) -> None:
        """Append lines, which are on their way to the disk when this returns.

        Raises:
            RunFileError: they cannot be written, as on a full disk; nothing written before is lost.
        """
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
        try:
            with self.file.open("ab", buffering=0) as out:
                _write(out.fileno(), lines.encode("utf-8"))
        except OSError as error:
            raise RunFileError(
                f"{self.file} cannot be written: {error.strerror}; what is finished is kept, and "
                "the same command goes on from there"
            ) from error

    def absorb(self, key: Callable[[Record], Hashable]) -> None:
        """Cut half a last line off, and take the lines of other processes into the one file.

        A process that is killed meanwhile leaves the others' files where they are, and lines that
        have been taken are known by their key.
        """
        others = sorted(self._folder.glob(f"{self._stem}.*.jsonl"))
        _cut(self._main)
        if not others:
            return
        known = {key(record) for record in _read(self._main)}
        main = Journal(self._folder, self._stem)
        for file in others:
            fresh = {key(record): record for record in _read(file)}
            main.add(record for name, record in fresh.items() if name not in known)
            known |= set(fresh)
            file.unlink()


def claim(run: RunFile, folder: Path) -> None:
    """Write the resolved run file, or see that the one that is there says the same.

    Scores, the front and tables may be added to and taken away when a run goes on.

    Raises:
        RunFileError: the folder holds another run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    resolved = run.model_dump(mode="json", exclude={"output"})
    file = folder / RESOLVED
    if file.is_file():
        said = load_yaml(file.read_text(encoding="utf-8"))
        before = validated(said, str(file)).model_dump(mode="json", exclude={"output"})
        if said == resolved:
            return
        _check_same(before, resolved, folder)
    elif (folder / f"{COMPLETIONS}.jsonl").exists():
        raise RunFileError(f"{folder} holds completions and no {RESOLVED}; give another output")
    replace(file, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))


def replace(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, file)


def _check_same(before: Record, now: Record, folder: Path) -> None:
    changed = [key for key in now if key not in _LATER and before[key] != now[key]]
    old, new = before["score"] or {}, now["score"] or {}
    changed += [f"score.{name}" for name in {*old} & {*new} if old[name] != new[name]]
    if changed:
        raise RunFileError(
            f"{folder} holds another run, with other {', '.join(sorted(changed))}; give another "
            "output, or remove the folder to begin again"
        )


def _read(file: Path) -> Iterator[Record]:
    if not file.is_file():
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError:
                raise RunFileError(f"{file}, line {number} is not JSON; remove the line") from None


def _cut(file: Path) -> None:
    if not file.is_file():
        return
    with file.open("rb+") as lines:
        size = lines.seek(0, os.SEEK_END)
        end = size
        while end:  # backwards, to the last end of a line
            start = max(0, end - 65536)
            lines.seek(start)
            found = lines.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            lines.truncate(end)


def _write(descriptor: int, data: bytes) -> None:
    """All of it: a disk that is filling up may take a part and say so later."""
    while data:
        data = data[os.write(descriptor, data) :]
