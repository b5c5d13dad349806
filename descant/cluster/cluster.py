"""Rows over a Ray cluster: tasks for whoever is idle, and again for another where a node dies.

Every line comes to this process as soon as it is made; this process alone writes. A row that has
come back is never asked for again, and a row that has not always is.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..api import declared, plan_of
from ..errors import StateError
from ..extras import require
from ..imports import imported
from ..inputs.expand import Key, Row, Setting, key_of, settings_of
from ..inputs.runfile import RunFile
from ..models.errors import first_line
from ..results.folder import Record
from ..runs.models import Models
from ..runs.processes import world_size
from ..runs.run import of_one_formula
from ..runtime.progress import progress_bar
from ..sweep.lines import CHUNK
from ..sweep.measure import Known
from .options import RayOptions, rows_of_task, share_of
from .worker import LINES, LOG, PLAN, Event

_log = logging.getLogger(__name__)
_STORE = 200 * 2**20  # bytes of the object store of a cluster of this machine
_FAILURES = 3  # of workers at one task, or at their start, one after the other
T = TypeVar("T")


@dataclass
class Task:
    """Some of the work, for one decoder: rows, or completions to score."""

    method: str
    items: list[Any]
    formula: int = 0
    failures: int = 0  # of workers that have ended without any of its lines


class Cluster:
    """A ``Source`` of lines: decoders on a Ray cluster, from the first rows to the last scores.

    A context manager: at its end the workers end, and the cluster if it was started here.

    Args:
        options: the cluster, and how much of it.
        run: a run with one formula, or a sweep.
        sweeps: which of them.

    Raises:
        FormulaError, ModelError: as ``compile``, of what can be known without weights.
        ArgumentError: the cluster has not what is asked for. MissingExtra: there is no Ray.
        StateError: there is no cluster at the address, or this is a process of ``torchrun``.
    """

    def __init__(self, options: RayOptions, run: RunFile, sweeps: bool) -> None:
        require("--ray", "ray")
        if world_size() > 1:
            problem = "--ray starts its processes itself, and this is one of several already"
            raise StateError(f"{problem}; start it without torchrun or accelerate launch")
        if not sweeps:
            run = of_one_formula(run, None)
            plan_of(run.formula, declared(run.models), run.params, *run.texts)
        self._run, self._sweeps, self._options = run, sweeps, options
        self._settings = settings_of(run) if sweeps else []
        self.models = Models(run.model_copy(update={"device": "cpu"}), None)  # loads no weights
        self._owned = _connect(options.address)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._share = share_of(self._options, nodes, self._run.parallel)
        self.device = str(self._share)
        if self._share.room < self._share.actors:
            few = "%s; there is room for %d, and the others wait for nodes"
            _log.warning(few, self._share, self._share.room)
        self._groups: list[Any] = []  # that run
        self._starting: list[Any] = []
        self._failures, self._why = 0, ""
        for _ in range(self._share.actors):
            self._add()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        import ray

        for group in [*getattr(self, "_groups", ()), *getattr(self, "_starting", ())]:
            group.close()
        self._groups, self._starting = [], []
        if self._owned:
            ray.shutdown()

    @property
    def decoders(self) -> int:
        """How many decoders run now; others may be starting, or wait for a node with room."""
        return len(self._groups)

    def complete(self, rows: Sequence[Row]) -> Iterator[Record]:
        """The lines of the rows of a run with one formula, all samples of a prompt adjacent."""
        samples = self._run.generate.num_return_sequences
        prompts = [list(rows[i : i + samples]) for i in range(0, len(rows), samples)]
        with progress_bar(len(rows), "row", "ray") as bar:
            for record in self._decoded(0, prompts):
                bar.update()
                yield record

    def decode(self, setting: Setting, rows: Sequence[Row]) -> Iterator[Record]:
        """The lines of a formula's rows, as they are finished."""
        numbers = {own.name: number for number, own in enumerate(self._settings)}
        return self._decoded(numbers[setting.name], [[row] for row in rows])

    def score(self, completions: Sequence[Known]) -> Iterator[list[Record]]:
        """The lines of scores that completions do not have, as they are measured."""
        scores = self._run.score or {}
        names = {"length", *(name for name, score in scores.items() if not score.recovered)}
        missing = [pair for pair in completions if not names <= pair[1]]
        missing.sort(key=lambda pair: -len(pair[0]["token_ids"]))  # neighbours are alike
        chunks = _parts(missing, rows_of_task(len(missing), self._share.actors, CHUNK))

        def left(task: Task, lines: list[Record]) -> None:
            for line in lines:
                key, values = key_of(line), frozenset(line["scores"])
                task.items = [
                    (record, known | values if key_of(record) == key else known)
                    for record, known in task.items
                ]

        with progress_bar(len(missing), "row", "scores") as bar:
            for lines in self._work([Task("score", chunk) for chunk in chunks], left):
                bar.update(sum("length" in line["scores"] for line in lines))
                yield lines

    def _decoded(self, formula: int, units: Sequence[list[Row]]) -> Iterator[Record]:
        """The lines of rows; those of a unit are decoded by one call."""
        rows = sum(map(len, units))
        size = self._options.rows or rows_of_task(
            rows, self._share.actors, self._run.generate.batch_size
        )
        parts = _parts(units, max(1, size * len(units) // max(rows, 1)))
        tasks = [Task("decode", [row for unit in part for row in unit], formula) for part in parts]
        received: set[Key] = set()
        unit = {row.key: {row.key for row in rows} for rows in units for row in rows}

        def left(task: Task, lines: list[Record]) -> None:
            received.update(map(key_of, lines))
            task.items = [row for row in task.items if not unit[row.key] <= received]

        came: set[Key] = set()
        for lines in self._work(tasks, left):
            for line in lines:
                if key_of(line) not in came:  # a unit that was begun twice
                    came.add(key_of(line))
                    yield line

    def _work(
        self, tasks: Sequence[Task], left: Callable[[Task, list[Record]], None]
    ) -> Iterator[list[Record]]:
        """Have every task done by some decoder; ``left`` takes out of a task what has come back."""
        import ray
        from ray.exceptions import RayError

        waiting = deque(tasks)
        while waiting or any(group.task for group in self._groups):
            for group in self._groups:
                if waiting and group.task is None:
                    task = waiting.popleft()
                    numbers = (task.formula,) if task.method == "decode" else ()
                    group.start(task, task.method, *numbers, task.items)
            busy = {group.stream: group for group in self._groups if group.task is not None}
            starting = {group.ready: group for group in self._starting}
            [first, *_], _ = ray.wait([*busy, *starting], num_returns=1)
            if first in starting:
                self._joined(starting[first])
                continue
            group = busy[first]
            task = group.task
            try:
                event = group.next()
            except RayError as error:
                if isinstance(error, ray.exceptions.RayTaskError):
                    raise
                self._replace(group, error)
                task.failures += 1
                if task.failures == _FAILURES:
                    raise _failed(task, error) from error
                if task.items:
                    waiting.appendleft(task)
                continue
            lines = self._heard(event)
            if lines is not None:
                task.failures = self._failures = 0
                left(task, lines)
                yield lines

    def _heard(self, event: Event | None) -> list[Record] | None:
        """The lines of an event; what was logged is logged here, once for all workers."""
        match event:
            case (kind, lines) if kind == LINES:
                return list(lines)
            case (kind, name, level, message) if kind == LOG:
                logging.getLogger(name).log(level, message)
            case (kind, name, plan) if kind == PLAN:
                self.models.plans.setdefault(name, plan)
        return None

    def _add(self) -> None:
        from .groups import WorkerGroup

        arguments = (self._run, self._sweeps, imported(), Path.cwd())
        self._starting.append(WorkerGroup(self._share, arguments))

    def _joined(self, group: Any) -> None:
        from ray.exceptions import RayError

        self._starting.remove(group)
        try:
            group.join()
        except RayError as error:
            self._failures += 1
            if self._failures == _FAILURES:
                problem = f"no worker of the cluster can start: {first_line(error)}"
                cure = "every node needs the same descant, Python and extras as this machine"
                raise StateError(f"{problem}; {cure}") from error
            group.close()
            self._add()
        else:
            self._groups.append(group)

    def _replace(self, group: Any, error: BaseException) -> None:
        """Start a decoder in place of one that has ended; it waits for a node with room."""
        _log.warning("a decoder has ended, and its rows go to others: %s", first_line(error))
        self._groups.remove(group)
        group.close()
        self._add()


def _connect(address: str) -> bool:
    """Connect to a cluster; whether it, or the connection, is ours to end.

    Raises:
        StateError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # no GPUs: none is shown
    import ray

    if ray.is_initialized():
        return False
    own = {"include_dashboard": False, "object_store_memory": _STORE} if address == "local" else {}
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and port.isdecimal():  # Ray would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(
            address=address, log_to_driver=False, logging_level=logging.ERROR,
            configure_logging=False, **own,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        problem = f"there is no Ray cluster at {address}: {first_line(error)}"
        cure = "start one with ray start --head, or write --ray local for this machine"
        raise StateError(f"{problem}; {cure}") from error
    return True


def _failed(task: Task, error: BaseException) -> StateError:
    first = task.items[0]
    record = first[0] if isinstance(first, tuple) else {"id": first.item.id}
    problem = f"{_FAILURES} workers have ended at the rows from prompt {record['id']} on"
    cure = "try them with --ray local --ray-actors 1, or with fewer rows (--ray-rows)"
    return StateError(f"{problem}: {first_line(error)}; {cure}")


def _parts(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
