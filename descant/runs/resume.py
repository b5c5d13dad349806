"""A run begins or resumes in its folder: whose folder it is, and which rows it has already.

``descant run`` and ``descant sweep`` resume alike. Nothing is decoded or scored here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .. import disk
from ..inputs.expand import Key, key_of
from ..inputs.prompts import Item
from ..inputs.runfile import RunFile, RunFileError
from ..inputs.yaml import dump_yaml
from ..results.folder import COMPLETIONS, RESOLVED, SCORES, Journal, Record, resolved_run
from ..results.lock import LOCK, check_free, writing
from .processes import Process

_LATER = (
    "output",
    "score",
    "front",
    "effects",
    "tables",
    "parallel",
    "capture",
    "enable_prefix_caching",
    "gpu_memory_utilization",
)  # may change when a run resumes
_LATER_IN_FIT = ("trials", "grid", "weights")  # the same of a fit: a search may be longer
_SHOWN = 3  # differences that a message names


@contextmanager
def resumed(
    run: RunFile,
    folder: Path,
    items: Sequence[Item],
    process: Process,
    *,
    sweeps: bool,
    free: Collection[str] = (),
) -> Iterator[set[Key]]:
    """Hold a run's folder: the first process locks it, checks it and gathers its lines.

    Each of several processes enters, and the others lock the files of their own lines, which are
    held as long as one of them lives; ``sweeps`` and ``free`` are those of ``prepare``.

    Yields:
        The keys of the rows that are completed.

    Raises:
        RunFileError: another process writes to the folder, it holds another run, or a prompt of the
            data has changed.
    """
    with disk.resumable(), ExitStack() as held:
        if process.first:
            make_folder(folder)
            held.enter_context(writing(folder))
            for lock in sorted(folder.glob(f".{COMPLETIONS}.*.jsonl{LOCK}")):
                check_free(folder / lock.name.removesuffix(LOCK).removeprefix("."))
            prepare(run, folder, sweeps=sweeps, free=free)
            gather(folder)
        process.wait()
        if not process.first:
            own = Journal(folder, COMPLETIONS, process.rank, process.count).file
            held.enter_context(writing(own))
        records = Journal(folder, COMPLETIONS).records()
        process.wait()  # every process has read the lines before any is written
        _check_prompts(items, records, run.data.source if run.data else "the data")
        yield set(map(key_of, records))
        for stem in (COMPLETIONS, SCORES):
            disk.sync(Journal(folder, stem, process.rank, process.count).file)


def gather(folder: Path) -> None:
    """Collect the lines of all processes in one file of completions and one of scores."""
    Journal(folder, COMPLETIONS).gather(key_of)
    Journal(folder, SCORES).gather(lambda line: (*key_of(line), *sorted(line["scores"])))


def make_folder(folder: Path) -> None:
    """Make the output folder, or raise a ``RunFileError`` where it is a file."""
    if folder.exists() and not folder.is_dir():
        raise RunFileError(f"{folder} is a file, and the output is a folder; give another")
    disk.make_folder(folder)


def prepare(
    run: RunFile, folder: Path, *, sweeps: bool = False, free: Collection[str] = ()
) -> None:
    """Write the resolved run file, or check that the folder's own is the same.

    Scores, the front, tables, the length of a search and how steps are taken may change when a run
    resumes, and ``free``
    models, which no formula reads, unless a score has used them; before anything is completed,
    everything may.
    The other command's folder is refused: where a run ``sweeps``, each row has its own seed.

    Raises:
        RunFileError: the folder holds another run; names what differs.
    """
    make_folder(folder)
    resolved = run.model_dump(mode="json", exclude={"output"})
    file, first = folder / RESOLVED, Journal(folder, COMPLETIONS).first()
    if file.is_file() and any(folder.glob(f"{COMPLETIONS}*.jsonl")):
        earlier = resolved_run(folder)
        seed = earlier.generate.seed  # version 0.1 of descant run wrote no seed
        if first is not None and (swept := first.get("seed", seed) != seed) != sweeps:
            command = "sweep" if swept else "run"
            raise RunFileError(f"{folder} holds lines of descant {command}; give another output")
        before = earlier.model_dump(mode="json", exclude={"output"})
        if before == resolved:
            return
        _check_same(before, resolved, folder, free)
    elif first is not None:
        raise RunFileError(f"{folder} holds completions and no {RESOLVED}; give another output")
    disk.replace(file, dump_yaml(resolved))


def _check_prompts(items: Iterable[Item], records: Iterable[Record], data: str) -> None:
    """Check that the completed prompts are still those of the data."""
    prompts = {item.id: item.prompt for item in items}
    for record in records:
        name, prompt = record["id"], record["prompt"]
        if name in prompts and prompts[name] != prompt:
            problem = f"{data} has changed: prompt {name} is {prompts[name]!r:.60}, and the output"
            raise RunFileError(f"{problem} has completed {prompt!r:.60}; give another output")


def _check_same(before: Record, now: Record, folder: Path, free: Collection[str]) -> None:
    old, new = ({k: v for k, v in side.items() if k not in _LATER} for side in (before, now))
    for side in (old, new):
        if (fit := side.get("fit")) is not None:
            side["fit"] = {k: v for k, v in fit.items() if k not in _LATER_IN_FIT}
    for name in free:
        if before["models"].get(name) != now["models"].get(name):
            _check_unscored(name, before["score"] or {}, now["score"] or {}, folder)
            for side in (old, new):
                side["models"] = {k: v for k, v in side["models"].items() if k != name}
    scores = [side["score"] or {} for side in (before, now)]
    shared = set(scores[0]) & set(scores[1])
    for side, own in zip((old, new), scores, strict=True):
        side["score"] = {name: own[name] for name in sorted(shared)}
    if changed := differences(old, new):
        cure = "give another output, or remove the folder to begin again"
        raise RunFileError(f"{folder} holds another run: {changed}; {cure}")


def _check_unscored(model: str, before: Record, now: Record, folder: Path) -> None:
    """Check that a model that has changed has scored nothing."""
    names = {name for name in before if name in now and model in before[name].values()}
    for line in Journal(folder, SCORES).records():
        if scored := names & set(line["scores"]):
            score = scored.pop()
            cure = "give that score another name to score everything anew"
            raise RunFileError(f"{folder} holds values of score.{score} by another {model}; {cure}")


def differences(before: Record, now: Record) -> str:
    """What differs between two settings of one kind, by dotted keys; empty where nothing does."""
    changes = list(_changes(before, now, ""))
    more = f", and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return ", ".join(changes[:_SHOWN]) + more


def _changes(before: Any, now: Any, path: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            dotted = f"{path}.{key}" if path else str(key)
            yield from _changes(before.get(key), now.get(key), dotted)
    elif before != now:
        old, new = ("not set" if value is None else f"{value!r:.60}" for value in (before, now))
        yield f"{path} is {old} there and {new} here"
