"""A run's folder: what is in it, whose it is, and lines that outlive a process that is killed.

A line is written when its work is done, and is whole or is cut off by the next reader. It decodes
and scores nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..inputs.runfile import RunFile, RunFileError, load_yaml, validated

COMPLETIONS, SCORES, RESOLVED, META = "completions", "scores", "run.yaml", "meta.json"
Record = dict[str, Any]
NEEDS = {  # of every line
    COMPLETIONS: ("id", "sample", "prompt", "text"),
    SCORES: ("formula", "point", "id", "sample", "scores"),
}
_LATER = ("output", "score", "front", "tables", "parallel")  # what may change when a run resumes
_SHOWN = 3  # differences that are named


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
        return list(_read(self._main, NEEDS.get(self._stem, ())))

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
            raise _unwritten(self.file, error) from error

    def absorb(self, key: Callable[[Record], Hashable]) -> None:
        """Cut half a last line off, and take the lines of other processes into the one file.

        A process that is killed meanwhile leaves the others' files where they are, and lines that
        have been taken are known by their key.
        """
        others = sorted(self._folder.glob(f"{self._stem}.*.jsonl"))
        _cut(self._main)
        if not others:
            return
        known = {key(record) for record in self.records()}
        main, needs = Journal(self._folder, self._stem), NEEDS.get(self._stem, ())
        for file in others:
            fresh = {key(record): record for record in _read(file, needs)}
            main.add(record for name, record in fresh.items() if name not in known)
            known |= set(fresh)
            file.unlink()


def claim(run: RunFile, folder: Path, *, sweeps: bool = False, free: Collection[str] = ()) -> None:
    """Write the resolved run file, or see that the one that is there says the same.

    Scores, the front and tables may be added to and taken away when a run resumes; before anything
    has been completed, everything may change.

    Args:
        run: the run file.
        folder: made if need be.
        sweeps: whether it is a sweep; its lines are others than those of ``descant run``.
        free: models that no formula reads: another may take their place where it scored nothing.

    Raises:
        RunFileError: the folder holds another run; says what differs.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFileError(f"{folder} is a file, and the output is a folder; give another")
    folder.mkdir(parents=True, exist_ok=True)
    resolved = run.model_dump(mode="json", exclude={"output"})
    file, lines = folder / RESOLVED, folder / f"{COMPLETIONS}.jsonl"
    first = next(_read(lines, NEEDS[COMPLETIONS]), None)
    if first is not None and ("formula" in first) != sweeps:
        whose = "sweep" if "formula" in first else "run"
        raise RunFileError(f"{folder} holds lines of descant {whose}; give another output")
    if file.is_file() and any(folder.glob(f"{COMPLETIONS}*.jsonl")):
        before = resolved_run(folder).model_dump(mode="json", exclude={"output"})
        if before == resolved:
            return
        _check_same(before, resolved, folder, free)
    elif lines.exists():
        raise RunFileError(f"{folder} holds completions and no {RESOLVED}; give another output")
    replace(file, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))


def resolved_run(folder: Path) -> RunFile:
    """The run file that a folder is of.

    Raises:
        RunFileError: there is none, or it cannot be read.
    """
    file = folder / RESOLVED
    if not file.is_file():
        raise RunFileError(f"{folder} holds no run: there is no {RESOLVED}")
    try:
        return validated(load_yaml(file.read_text(encoding="utf-8")), str(file))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise RunFileError(f"{file} is not a run's: {said}; give another output") from None


def check_prompts(items: Iterable[tuple[Any, Any]], records: Iterable[Record], data: str) -> None:
    """See that what has been completed are still the prompts of the data.

    Args:
        items: ids and prompts.
        records: lines of completions.
        data: its name.

    Raises:
        RunFileError: a prompt of the same id is another now.
    """
    asked = dict(items)
    for record in records:
        name, prompt = record["id"], record["prompt"]
        if name in asked and asked[name] != prompt:
            raise RunFileError(
                f"{data} has changed: prompt {name} is {asked[name]!r:.60}, and the output has "
                f"completed {prompt!r:.60}; give another output"
            )


def replace(file: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        RunFileError: it cannot be written.
    """
    beside = file.with_name(f".{file.name}.new")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise _unwritten(file, error) from error


def _unwritten(file: Path, error: OSError) -> RunFileError:
    return RunFileError(
        f"{file} cannot be written: {error.strerror}; what is finished is kept, and the same "
        "command resumes there"
    )


def _check_same(before: Record, now: Record, folder: Path, free: Collection[str]) -> None:
    old, new = ({k: v for k, v in one.items() if k not in _LATER} for one in (before, now))
    for name in free:
        if before["models"].get(name) != now["models"].get(name):
            _check_unscored(name, before["score"] or {}, now["score"] or {}, folder)
            for side in (old, new):
                side["models"] = {k: v for k, v in side["models"].items() if k != name}
    scores = [one["score"] or {} for one in (before, now)]
    shared = set(scores[0]) & set(scores[1])
    for side, said in zip((old, new), scores, strict=True):
        side["score"] = {name: said[name] for name in sorted(shared)}
    if changed := differences(old, new):
        raise RunFileError(
            f"{folder} holds another run: {changed}; give another output, or remove the folder to "
            "begin again"
        )


def _check_unscored(model: str, before: Record, now: Record, folder: Path) -> None:
    """See that a model that is another one now has said nothing yet."""
    named = {name for name in before if name in now and model in before[name].values()}
    for line in _read(folder / f"{SCORES}.jsonl", NEEDS[SCORES]):
        if taken := named & set(line["scores"]):
            score = taken.pop()
            raise RunFileError(
                f"{folder} holds values of score.{score} by another {model}; give that score "
                "another name to have all of its values anew"
            )


def differences(before: Record, now: Record) -> str:
    """What differs between two settings of the same kind, by dotted keys; nothing, nothing."""
    found = list(_differing(before, now, ""))
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def _differing(before: Any, now: Any, place: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            dotted = f"{place}.{key}" if place else str(key)
            yield from _differing(before.get(key), now.get(key), dotted)
    elif before != now:
        was, says = ("not said" if one is None else f"{one!r:.60}" for one in (before, now))
        yield f"{place} is {was} there and {says} here"


def _read(file: Path, needs: Sequence[str] = ()) -> Iterator[Record]:
    if not file.is_file():
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                raise RunFileError(f"{file}, line {number} is not JSON; remove the line") from None
            if not isinstance(record, dict) or (lacks := [n for n in needs if n not in record]):
                what = f"has no {lacks[0]}" if isinstance(record, dict) else "is no mapping"
                raise RunFileError(f"{file}, line {number} {what}; remove the line")
            yield record


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
