"""Files and datasets, row by row, each with its file and line. Nothing in them is executed.

A row that cannot be read is yielded as a ``Fault``, which a caller may skip; a file that cannot be
read is an error. Files are read as they come, a row at a time, and rows and what compressed files
expand to have limits.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any

from ..errors import DescantError
from ..extras import require
from ..models.errors import first_line, read_by_a_library

Row = tuple[int, str, Any]  # its number from 0, its file and line, and its content or a Fault
JSON, TABLES, PARQUET = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv"), (".parquet", ".pq")
LINE = 1 << 26  # bytes of one line
EXPANDED, RATIO = 1 << 22, 200  # bytes that a compressed file may hold, or as often its own size
ROW = 32  # bytes that a row counts for besides its own, since empty ones take time too
BATCH = 256  # rows of a table in memory at once
_COMPRESSED = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"PK\x03\x04": "zip",
    b"\xfd7zXZ": "xz",
}  # fmt: skip


_END = object()


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
        with _opened(file) as content:
            if content.starts_with_bracket():
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

    def unreadable(error: BaseException) -> DataError:
        return DataError(f"the dataset {name} cannot be read: {first_line(error)}")

    with read_by_a_library(unreadable):
        rows = iter(datasets.load_dataset(name, config, split=split, revision=revision))
    yield from _from_library(rows, f"{name} ({split}), row ", unreadable, 0)


def _from_library(
    rows: Iterator[Any], where: str, unreadable: Callable[[BaseException], DataError], first: int
) -> Iterator[Row]:
    """The rows that a library reads; only its own errors are the file's."""
    for number in count():
        with read_by_a_library(unreadable):
            row = next(rows, _END)
        if row is _END:
            return
        yield number, f"{where}{number + first}", row


@contextmanager
def _opened(file: Path) -> Iterator[_Content]:
    try:
        with file.open("rb") as raw:
            expanded = gzip.GzipFile(fileobj=raw) if file.suffix.lower() == ".gz" else raw
            yield _Content(file, raw, expanded)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {first_line(error)}") from None


@dataclass
class _Content:
    """An open file and what it holds; reading beyond the limits is an error."""

    file: Path
    raw: IO[bytes]
    expanded: IO[bytes] | gzip.GzipFile
    size: int = 0  # of what was read
    limit: int = EXPANDED  # until which nothing needs to be checked

    def read(self, most: int) -> bytes:
        """All of it, if it has no more bytes than that."""
        content = bytearray()
        while block := self._counted(self.expanded.read(1 << 20)):
            content += block
            if len(content) > most:
                raise DataError(f"{self.file} holds more than {most} bytes; write it as .jsonl")
        return bytes(content)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines with their numbers from 1; only a line feed ends a line."""
        for number in count(1):
            line = self._counted(self.expanded.readline(LINE + 1))
            if not line:
                return
            if len(line) > LINE:
                raise DataError(f"{self.file}, line {number} has more than {LINE} bytes")
            yield number, line

    def starts_with_bracket(self) -> bool:
        """Whether it is a JSON list; nothing of it may have been read."""
        start = self.expanded.read(4096).removeprefix(b"\xef\xbb\xbf")
        return start.lstrip().startswith(b"[")

    def _counted(self, block: bytes) -> bytes:
        self.size += len(block) + ROW
        if self.size > self.limit and self.expanded is not self.raw:
            self.limit = max(EXPANDED, RATIO * self.raw.tell())
            if self.size > self.limit:
                problem = f"{self.file} expands to more than {RATIO} times its size"
                raise DataError(f"{problem}; unpack it yourself, if it is what you want to read")
        return block


def _text_lines(file: Path) -> Iterator[tuple[int, str | Fault]]:
    """Lines with their numbers from 1; only a line feed ends a line."""
    with _opened(file) as content:
        for number, line in content.lines():
            if number == 1:
                _check_text(file, line)
            if b"\0" in line:
                yield number, Fault("holds a NUL, as no text does; save it as UTF-8")
                continue
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield number, Fault(f"is not UTF-8 text: {error.reason}; save it as UTF-8")


def _check_text(file: Path, start: bytes) -> None:
    """Refuse what begins as no UTF-8 text does."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{file} is not UTF-8 text but UTF-16; save it as UTF-8")
    for magic, kind in _COMPRESSED.items():
        if start.startswith(magic):
            cure = "name it so, .gz" if kind == "gzip" else "unpack it first"
            raise DataError(f"{file} is not text, but compressed by {kind}; {cure}")


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
    with _opened(file) as opened:
        content = opened.read(1 << 30)
        _check_text(file, content[:8])
        try:
            text = content.decode("utf-8-sig")
            return json.loads(text), text
        except (ValueError, RecursionError) as error:
            what = getattr(error, "msg", "too deep" if isinstance(error, RecursionError) else error)
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
    from pyarrow import parquet

    def unreadable(error: BaseException) -> DataError:
        return DataError(f"{file} is not Parquet: {first_line(error)}")

    def rows() -> Iterator[Any]:
        size = 0
        for batch in parquet.ParquetFile(file).iter_batches(BATCH):
            size += batch.nbytes + ROW * batch.num_rows
            if size > max(EXPANDED, RATIO * file.stat().st_size):
                raise DataError(f"{file} expands to more than {RATIO} times its size")
            yield from batch.to_pylist()

    yield from _from_library(rows(), f"{file}, row ", unreadable, 1)
