"""What a process of the cluster does: it holds models, and decodes and scores what it is sent.

It writes no file. Several workers are the ranks of one decoder where the run says ``parallel:
terms``: all of them decode the same rows, and the first sends the lines.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..imports import import_words
from ..inputs.expand import Row, settings_of
from ..inputs.runfile import RunFile
from ..results.folder import Record
from ..runs.run import compiled, records
from ..runtime import Decoder
from ..sweep.measure import Known
from ..sweep.source import InProcess

LINES, LOG, PLAN = "lines", "log", "plan"
Event = tuple[Any, ...]  # one of these words, and what comes with it


class Worker:
    """One process; its models are read when the first rows come.

    Args:
        run: its paths are those of the worker's node.
        sweeps: whether this is a sweep; else the run has one formula.
        modules: what ``--import`` has named.
        folder: where the command was started; relative paths begin there if the node has it.
    """

    def __init__(self, run: RunFile, sweeps: bool, modules: Sequence[str], folder: Path) -> None:
        if folder.is_dir():
            os.chdir(folder)
        import_words(modules)
        self._run, self._sweeps = run, sweeps
        self._source: InProcess | None = None
        self._decoder: Decoder | None = None
        self._events: list[Event] = []
        self._plans: set[str] = set()
        logger = logging.getLogger("descant")
        logger.addHandler(_Collector(self._events))

    def address(self) -> tuple[str, int]:
        """An address at which the ranks of one decoder can meet: host and free port."""
        import ray

        host = str(ray.util.get_node_ip_address())
        with socket.socket() as free:
            free.bind(("", 0))
            return host, int(free.getsockname()[1])

    def join(self, rank: int, size: int, host: str, port: int) -> None:
        """Be one of the ranks of a decoder, as ``torchrun`` would start it; nothing is read yet."""
        os.environ |= {
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": "0",  # Ray shows each worker its own GPU alone
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
        }

    def decode(self, formula: int, rows: Sequence[Row]) -> Iterator[Event]:
        """Decode rows of one formula, by its number; yields each line when it is finished.

        Raises:
            DescantError: as one process would.
        """
        sends = os.environ.get("RANK", "0") == "0"
        for record in self._records(formula, rows):
            if sends:
                yield from self._told()
                yield LINES, [record]
        if sends:
            yield from self._told()

    def score(self, completions: Sequence[Known]) -> Iterator[Event]:
        """Score completions; yields lines of scores, some at a time."""
        for lines in self._sweep().score(completions):
            yield from self._told()
            yield LINES, lines
        yield from self._told()

    def _records(self, formula: int, rows: Sequence[Row]) -> Iterator[Record]:
        if self._sweeps:
            return self._sweep().decode(settings_of(self._run)[formula], rows)
        if self._decoder is None:
            self._decoder = compiled(self._run)
        return records(self._run, self._decoder, rows, progress=False)

    def _sweep(self) -> InProcess:
        if self._source is None:
            self._source = InProcess(self._run, settings_of(self._run), None)
        return self._source

    def _told(self) -> Iterator[Event]:
        """What has been logged, and new plans."""
        while self._events:
            yield self._events.pop(0)
        plans = self._source.models.plans if self._source else {}
        for name in set(plans) - self._plans:
            self._plans.add(name)
            yield PLAN, name, plans[name]


class _Collector(logging.Handler):
    """Keeps what is logged, for the process that prints."""

    def __init__(self, events: list[Event]) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        self._events.append((LOG, record.name, record.levelno, record.getMessage()))
