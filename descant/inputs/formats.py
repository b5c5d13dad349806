"""Files and datasets, row by row, with the place of each. What a row means is others' to say.

Nothing in them is executed. A row that cannot be read is there as a fault, so that whoever asks may
skip it; a file that cannot be read is an error.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from ..extras import require

Row = tuple[int, str, Any]  # its number from 0, where it is, and what it holds, or a Fault
JSON, TABLES, PARQUET = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv"), (".parquet", ".pq")


class DataError(ValueError):
    """Data that cannot be read at all."""


class Fault(ValueError):
    """Why one row cannot be read."""


def kind_of(file: Path) -> str:
    """A file's ending, in small letters and without ``.gz``."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def read_file(file: Path) -> Iterator[Row]:
    """The rows of a file: mappings of columns; of a file that is none of the above, its lines.

    Raises:
        DataError: no such file, or it cannot be read on from here; says where.
    """
    if not file.is_file():
        raise DataError(f"there is no data file {file}")
    kind = kind_of(file)
    if kind in PARQUET:
        return _parquet(file)
    if kind in TABLES:
        return _table(file, "," if kind == ".csv" else "\t")
    if kind == ".json" and _first(file) == b"[":
        return _list(file)
    return _lines(file, kind)


def read_dataset(
    name: str, config: str | None, split: str | None, revision: str | None
) -> Iterator[Row]:
    """The rows of what ``datasets.load_dataset`` takes.

    Args:
        name: a hub id or a folder.
        config: the dataset's configuration.
        split: of it.
        revision: of it.

    Raises:
        DataError: it cannot be read.
    """
    require(f"the dataset {name}", "datasets")
    import datasets

    place = f"{name} ({split})"
    try:
        found = datasets.load_dataset(name, config, split=split, revision=revision)
        for number, row in enumerate(found):
            yield number, f"{place}, row {number}", row
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"the dataset {name} cannot be read: {said}") from error


def _opened(file: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb")


def _decoded(file: Path) -> Iterator[tuple[int, str | Fault]]:
    """Lines with their numbers, from 1. Only a line feed ends one."""
    try:
        with _opened(file) as lines:
            for place, line in enumerate(lines, 1):
                if place == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise DataError(f"{file} is not UTF-8 text but UTF-16; save it as UTF-8")
                try:
                    yield place, line.decode("utf-8-sig" if place == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    yield place, Fault(f"is not UTF-8 text: {error.reason}; save it as UTF-8")
    except (EOFError, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def _lines(file: Path, kind: str) -> Iterator[Row]:
    number = 0
    for place, line in _decoded(file):
        row: Any = line
        if isinstance(line, str):
            if not line.strip():
                continue
            row = _json(line, kind) if kind in JSON else line.rstrip("\r\n")
        yield number, f"{file}, line {place}", row
        number += 1


def _json(text: str, kind: str) -> Any:
    try:
        return _whole(json.loads(text), text)
    except (ValueError, RecursionError) as error:
        what = getattr(error, "msg", "too deep" if isinstance(error, RecursionError) else error)
        cure = "; a .json file is one list of rows, or a row per line" if kind == ".json" else ""
        return Fault(f"is not JSON: {what}{cure}")


def _list(file: Path) -> Iterator[Row]:
    with _opened(file) as lines:
        try:
            text = lines.read().decode("utf-8-sig")
            rows = json.loads(text)
        except (ValueError, RecursionError, EOFError, OSError) as error:
            what = getattr(error, "msg", error)
            line = f", line {error.lineno}," if isinstance(error, json.JSONDecodeError) else ""
            raise DataError(f"{file}{line} is not JSON: {what}") from None
    for number, row in enumerate(rows):
        yield number, f"{file}, entry {number + 1}", _whole(row, text)


def _whole(row: Any, text: str) -> Any:
    """The row, or a fault where it holds half a character, ``\\ud800``, which no file can."""
    if "\\u" in text:
        try:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            return Fault(f"holds {error.object[error.start]!a}, half of a character")
    return row


def _table(file: Path, delimiter: str) -> Iterator[Row]:
    rows = csv.reader(_texts(file), delimiter=delimiter, strict=True)
    try:
        header = next(rows, None)
        if header is None:
            return
        if twice := {name for name in header if header.count(name) > 1}:
            raise DataError(f"{file} has two columns with the name {', '.join(sorted(twice))}")
        for number, row in enumerate(filter(None, rows)):
            where = f"{file}, line {rows.line_num}"
            if len(row) == len(header):
                yield number, where, dict(zip(header, row, strict=True))
            else:
                yield number, where, Fault(f"has {len(row)} cells, and the header {len(header)}")
    except csv.Error as error:
        cure = "; write it as .jsonl" if "limit" in str(error) else "; see to its quotes"
        raise DataError(f"{file}, line {rows.line_num}: {error}{cure}") from None


def _texts(file: Path) -> Iterable[str]:
    for place, line in _decoded(file):
        if isinstance(line, Fault):
            raise DataError(f"{file}, line {place} {line}")
        yield line


def _first(file: Path) -> bytes:
    try:
        with _opened(file) as text:
            return text.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    except (EOFError, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def _parquet(file: Path) -> Iterator[Row]:
    require(f"reading {file}", "pyarrow")
    from pyarrow import ArrowException, parquet

    try:
        batches = parquet.ParquetFile(file).iter_batches()
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows):
            yield number, f"{file}, row {number + 1}", row
    except (ArrowException, OSError) as error:
        raise DataError(f"{file} is not Parquet: {error}") from None
