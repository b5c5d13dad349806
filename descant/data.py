"""Prompt sets: rows of a file or of a dataset, as prompts with ids. Nothing in them is executed."""

from __future__ import annotations

import csv
import json
import logging
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .runfile import Data, RunFileError

_log = logging.getLogger("descant")
Row = tuple[int, str, Any]  # its number from 0, where it is, and what it holds; an error is one too


@dataclass(frozen=True)
class Item:
    """One prompt.

    Attributes:
        id: the number of its row, from 0, or what the row's ``id`` field says.
        prompt: text, chat messages or token ids.
    """

    id: int | str
    prompt: Any


def read_items(data: Data) -> list[Item]:
    """The prompts of a data file or a dataset.

    Raises:
        RunFileError: nothing there, or a row without a usable prompt; names the row.
    """
    rows = _rows(data)
    if data.shuffle is not None:
        rows = iter(_shuffled(list(rows), data.shuffle))
    items: dict[int | str, Item] = {}
    skipped = 0
    for number, where, row in rows:
        if data.limit is not None and len(items) >= data.limit:
            break
        try:
            item = _item(number, where, row, data)
        except RunFileError as error:
            if data.malformed == "error":
                raise
            skipped += 1
            _log.warning("skipped: %s", error)
            continue
        if item.id in items:
            raise RunFileError(f"{where}: the id {item.id!r} is there twice; ids tell rows apart")
        items[item.id] = item
    if not items:
        raise RunFileError(f"{data.source} holds no prompts")
    if skipped:
        _log.warning("%s: %d rows skipped, %d read", data.source, skipped, len(items))
    return list(items.values())


def read_prompts(data: Data) -> list[Any]:
    """The prompts alone, as ``read_items``."""
    return [item.prompt for item in read_items(data)]


def _shuffled(rows: list[Row], seed: int) -> list[Row]:
    random.Random(seed).shuffle(rows)
    return rows


def _rows(data: Data) -> Iterator[Row]:
    if data.name is not None:
        return _dataset(data)
    file = Path(data.source)
    if not file.is_file():
        raise RunFileError(f"there is no data file {file}")
    kind = file.suffix.lower()
    if kind in (".parquet", ".pq"):
        return _parquet(file)
    return _text(file, kind)


def _text(file: Path, kind: str) -> Iterator[Row]:
    with file.open(encoding="utf-8", newline="") as lines:
        try:
            if kind in (".csv", ".tsv"):
                yield from _table(
                    file, csv.reader(lines, delimiter="," if kind == ".csv" else "\t")
                )
            elif kind == ".json" and _first(file) == "[":
                for number, row in enumerate(_json(lines.read(), str(file))):
                    yield number, f"{file}, entry {number + 1}", row
            else:
                as_json = kind in (".jsonl", ".json", ".ndjson")
                yield from _lines(file, lines, as_json)
        except UnicodeDecodeError as error:
            raise RunFileError(f"{file} is not UTF-8 text: {error.reason}") from None


def _lines(file: Path, lines: Any, as_json: bool) -> Iterator[Row]:
    filled = (pair for pair in enumerate(lines, 1) if pair[1].strip())
    for number, (place, line) in enumerate(filled):
        where = f"{file}, line {place}"
        try:
            yield number, where, _json(line, where) if as_json else line.rstrip("\r\n")
        except RunFileError as error:
            yield number, where, error


def _table(file: Path, rows: Any) -> Iterator[Row]:
    header = next(rows, None)
    if header is None:
        return
    for number, row in enumerate(row for row in rows if row):
        where = f"{file}, line {rows.line_num}"
        if len(row) != len(header):
            wrong = RunFileError(f"{where} has {len(row)} cells, and the header {len(header)}")
            yield number, where, wrong
        else:
            yield number, where, dict(zip(header, row, strict=True))


def _first(file: Path) -> str:
    with file.open(encoding="utf-8") as lines:
        return lines.read(4096).lstrip()[:1]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        what = getattr(error, "msg", "too deep")
        raise RunFileError(f"{where} is not JSON: {what}") from None


def _parquet(file: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError:
        raise RunFileError(f'reading {file} needs pyarrow: pip install "descant[report]"') from None
    try:
        batches = parquet.ParquetFile(file).iter_batches()
    except ArrowInvalid as error:
        raise RunFileError(f"{file} is not Parquet: {error}") from None
    rows = (row for batch in batches for row in batch.to_pylist())
    for number, row in enumerate(rows):
        yield number, f"{file}, row {number + 1}", row


def _dataset(data: Data) -> Iterator[Row]:
    try:
        import datasets
    except ImportError:
        problem = f'the dataset {data.name} needs datasets: pip install "descant[report]"'
        raise RunFileError(problem) from None
    assert data.name is not None
    try:
        found = datasets.load_dataset(
            data.name, data.config, split=data.split, revision=data.revision
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        said = str(error).splitlines()[0]
        raise RunFileError(f"the dataset {data.name} cannot be read: {said}") from error
    for number, row in enumerate(found):
        yield number, f"{data.name} ({data.split}), row {number}", row


def _item(number: int, where: str, row: Any, data: Data) -> Item:
    if isinstance(row, RunFileError):
        raise row
    if isinstance(row, str):
        return Item(number, row)
    if not isinstance(row, Mapping) or data.field not in row:
        keys = ", ".join(row) if isinstance(row, Mapping) else "no keys"
        raise RunFileError(f"{where} has no field {data.field}; it has {keys}")
    name: Any = number
    if data.id is not None:
        name = row.get(data.id)
        if isinstance(name, bool) or not isinstance(name, (int, str)) or name == "":
            raise RunFileError(f"{where}: the id in {data.id} is {name!r}, not a number or a text")
    return Item(name, _prompt(row[data.field], where))


def _prompt(value: Any, where: str) -> Any:
    if not value or (isinstance(value, str) and not value.strip()):
        raise RunFileError(f"{where}: the prompt is empty")
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        for part in value:
            if not isinstance(part.get("role"), str) or not isinstance(part.get("content"), str):
                problem = f"{where}: a message has a role and content, both text; here: {part}"
                raise RunFileError(problem)
        return [dict(part) for part in value]
    if isinstance(value, list) and all(type(part) is int for part in value):
        return value
    raise RunFileError(f"{where}: a prompt is text, messages or token ids, not {value!r:.60}")
