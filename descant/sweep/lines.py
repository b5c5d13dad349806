"""One process's part of a sweep, and lines of ``scores.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..inputs.expand import KEY, Setting, key_of
from ..inputs.prompts import Item
from ..inputs.runfile import RunFile, RunFileError
from ..results.folder import Journal, Record
from ..runs.processes import Process
from ..runtime.progress import progress_bar

CHUNK = 64  # completions that are scored between two writes


@dataclass(frozen=True)
class Work:
    """One process's part of a sweep: every formula with its points, and the prompts."""

    run: RunFile
    folder: Path
    process: Process
    settings: Sequence[Setting]
    items: Sequence[Item]

    def journal(self, stem: str) -> Journal:
        """The file that this process writes."""
        return Journal(self.folder, stem, self.process.rank, self.process.count)


def chunks(name: str, records: Sequence[Record], shown: bool) -> Iterable[list[Record]]:
    """The records some at a time, long texts first, so that neighbours are alike."""
    ordered = sorted(records, key=lambda record: -len(record["token_ids"]))
    with progress_bar(len(ordered), "row", name, None if shown else False) as bar:
        for start in range(0, len(ordered), CHUNK):
            chunk = ordered[start : start + CHUNK]
            yield chunk
            bar.update(len(chunk))


def line(record: Record, scores: Mapping[str, float]) -> Record:
    for name, value in scores.items():
        if not math.isfinite(value):
            row = "{}, point {}, prompt {}, sample {}".format(*key_of(record))
            cure = "what is scored is kept. Look at that text, or at the model's dtype"
            raise RunFileError(f"score.{name} is {value} for {row}; {cure}")
    rounded = {name: round(value, 6) for name, value in scores.items()}
    return {**{part: record[part] for part in KEY}, "scores": rounded}
