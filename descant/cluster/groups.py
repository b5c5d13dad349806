"""The workers of one decoder: started, given tasks one at a time, heard, and ended.

Where the decoder has several ranks, they are on one node, in a placement group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ..errors import DescantError
from .options import Share
from .worker import Worker

_PATIENCE = 5.0  # seconds in which a rank that has ended is noticed after another's failure


class WorkerGroup:
    """The workers of one decoder.

    Attributes:
        ready: what Ray resolves once the first worker runs.
        stream: the events of the task that it works on; None while it has none.
        task: that task.
    """

    def __init__(self, share: Share, arguments: Sequence[Any]) -> None:
        resources: dict[str, Any] = {"num_cpus": share.cpus, "num_gpus": share.gpus}
        self._placement = None
        if share.ranks > 1:
            bundle = {"CPU": share.cpus, "GPU": share.gpus}
            self._placement = placement_group([bundle] * share.ranks, strategy="STRICT_PACK")
        make = ray.remote(Worker)
        self._workers = []
        for rank in range(share.ranks):
            if self._placement is not None:
                resources["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                    self._placement, placement_group_bundle_index=rank
                )
            self._workers.append(make.options(**resources).remote(*arguments))
        self.ready = self._workers[0].address.remote()
        self.stream: Any = None
        self.task: Any = None
        self._others: list[Any] = []  # streams of the other ranks

    def join(self) -> None:
        """Make the workers the ranks of one decoder; ``ready`` is resolved.

        Raises:
            RayError: the first worker has ended, or could not start.
        """
        host, port = ray.get(self.ready)
        if len(self._workers) > 1:
            for rank, worker in enumerate(self._workers):
                worker.join.remote(rank, len(self._workers), host, port)

    def start(self, task: Any, method: str, *arguments: Any) -> None:
        """Start a task: ``decode`` by every rank, ``score`` by the first alone."""
        ranks = self._workers if method == "decode" else self._workers[:1]
        streams = [
            getattr(worker, method).options(num_returns="streaming").remote(*arguments)
            for worker in ranks
        ]
        self.task, self.stream, self._others = task, streams[0], streams[1:]

    def next(self) -> Any:
        """The next event of the task; None at its end. Ray has said that there is one.

        Raises:
            DescantError: what the worker has raised, as one process would.
            RayError: a worker has ended, or its node; the others of the group are of no use.
        """
        try:
            return ray.get(next(self.stream))
        except StopIteration:
            self.stream = self.task = None
            return None
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, (DescantError, MemoryError)):
                raise cause from None
            if (ended := self._ended()) is not None:
                raise ended from None
            raise

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            ray.kill(worker)
        if self._placement is not None:
            remove_placement_group(self._placement)

    def _ended(self) -> RayError | None:
        """Why another rank has ended, by which a collective of this one fails."""
        for stream in self._others:
            try:
                while ray.wait([stream], timeout=_PATIENCE)[0]:
                    ray.get(next(stream))
            except StopIteration:
                continue
            except RayTaskError:
                continue
            except RayError as error:
                return error
        return None
