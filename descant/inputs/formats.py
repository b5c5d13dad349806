"""Files and datasets, row by row, each with its file and line. Nothing in them is executed.

A row that cannot be read is yielded as a ``Fault``, which a caller may skip; a file that cannot be
read is an error.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from ..errors import DescantError
from ..extras import require
from ..models.errors import first_line

Row = tuple[int, str, Any]  # its number from 0, its file and line, and its content or a Fault
JSON, TABLES, PARQUET = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv"), (".parquet", ".pq")


class DataError(DescantError, ValueError):
    """Data that cannot be read at all."""


class Fault(ValueError):
    """Why one row cannot be read."""


def kind_of(file: Path) -> str:
    """A file's suffix in lower case, without ``.gz``."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def read_file(file: Path) -> Iterator[Row]:
    """The rows of a file: mappings of columns, or the lines of a file of another kind.

    Raises:
        DataError: no such file, or it cannot be read; names the line.
    """
    if not file.is_file():
        raise DataError(f"there is no data file {file}")
    kind = kind_of(file)
    if kind in PARQUET:
        return _parquet(file)
    if kind in TABLES:
        return _table(file, "," if kind == ".csv" else "\t")
    if kind == ".json":
        with _opened(file) as text:
            if text.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
                return _list(file)
    return _lines(file, kind)


def read_dataset(
    name: str, config: str | None, split: str | None, revision: str | None
) -> Iterator[Row]:
    """The rows of what ``datasets.load_dataset`` takes; ``name`` is a hub id or a folder.

    Raises:
        DataError: it cannot be read.
    """
    require(f"the dataset {name}", "datasets")
    import datasets

    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision)
        for number, row in enumerate(rows):
            yield number, f"{name} ({split}), row {number}", row
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"the dataset {name} cannot be read: {first_line(error)}") from error


@contextmanager
def _opened(file: Path) -> Iterator[BufferedIOBase]:
    try:
        with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as opened:
            yield opened
    except (EOFError, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def _text_lines(file: Path) -> Iterator[tuple[int, str | Fault]]:
    """Lines with their numbers from 1; only a line feed ends a line."""
    with _opened(file) as lines:
        for number, line in enumerate(lines, 1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(f"{file} is not UTF-8 text but UTF-16; save it as UTF-8")
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield number, Fault(f"is not UTF-8 text: {error.reason}; save it as UTF-8")


def _lines(file: Path, kind: str) -> Iterator[Row]:
    rows = ((n, r) for n, r in _text_lines(file) if isinstance(r, Fault) or r.strip())
    for number, (line_number, line) in enumerate(rows):
        row: Any = line
        if isinstance(line, str):
            row = _json(line, kind) if kind in JSON else line.rstrip("\r\n")
        yield number, f"{file}, line {line_number}", row


def _json(text: str, kind: str) -> Any:
    try:
        return _checked(json.loads(text), text)
    except (ValueError, RecursionError) as error:
        what = getattr(error, "msg", "too deep" if isinstance(error, RecursionError) else error)
        cure = "; a .json file is one list of rows, or a row per line" if kind == ".json" else ""
        return Fault(f"is not JSON: {what}{cure}")


def read_json(file: Path) -> Any:
    """The content of one JSON file.

    Raises:
        DataError: it cannot be read, or is not JSON.
    """
    content = _checked(*_loaded(file))
    if isinstance(content, Fault):
        raise DataError(f"{file} {content}")
    return content


def _loaded(file: Path) -> tuple[Any, str]:
    """The content of a JSON file, and its text."""
    with _opened(file) as lines:
        try:
            text = lines.read().decode("utf-8-sig")
            return json.loads(text), text
        except (ValueError, RecursionError) as error:
            what = getattr(error, "msg", error)
            line = f", line {error.lineno}," if isinstance(error, json.JSONDecodeError) else ""
            raise DataError(f"{file}{line} is not JSON: {what}") from None


def _list(file: Path) -> Iterator[Row]:
    rows, text = _loaded(file)
    for number, row in enumerate(rows):
        yield number, f"{file}, entry {number + 1}", _checked(row, text)


def _checked(row: Any, text: str) -> Any:
    """The row, or a fault where it holds half a character, as ``\\ud800``."""
    if "\\u" in text:
        try:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            return Fault(f"holds {error.object[error.start]!a}, half of a character")
    return row


def _table(file: Path, delimiter: str) -> Iterator[Row]:
    def lines() -> Iterable[str]:
        for number, line in _text_lines(file):
            if isinstance(line, Fault):
                raise DataError(f"{file}, line {number} {line}")
            yield line

    rows = csv.reader(lines(), delimiter=delimiter, strict=True)
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
