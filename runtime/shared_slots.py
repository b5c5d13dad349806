"""The slots of a service: whom ``Admission`` says to let in, and who makes room for whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..models.lanes.prefill import CHUNK
from .admission import Admission
from .loops.scheduler import Scheduler
from .requests.request import Request


class SharedSlots:
    """Schedulers of several formulas whose requests share slots.

    Attributes:
        slots: how many there are.
        admission: who has slots, and who waits for them: pairs of a served formula and a request.
    """

    slots: int
    admission: Admission[tuple[Any, Request]]
    _decoders: Sequence[Any]

    @property
    def running(self) -> int:
        """Slots in use, or promised to requests whose prompts are being read."""
        return sum(decoder.scheduler.held for decoder in self._decoders)

    @property
    def waiting(self) -> int:
        """Requests that have no slots yet."""
        return len(self.admission.waiting)

    def _queue_preempted(self) -> None:
        """Have those who lost their slots wait at their old places."""
        for decoder in self._decoders:
            waiting = decoder.scheduler.waiting
            while waiting:
                request = waiting.pop()
                if id(request) in self.admission.running:
                    self.admission.wait(id(request), decoder.slots_of(request))

    def _admit(self) -> None:
        """Give free slots to those that wait, and read no more than a chunk if others decode."""
        most: float = CHUNK
        if not self.running:
            most = math.inf
            for decoder in self._decoders:
                decoder.session.bound.forget_changing()
        self._make_room()
        while True:
            schedulers = (decoder.scheduler for decoder in self._decoders)
            arriving = (each for each in schedulers if each.batch.arriving is not None)
            scheduler = next(arriving, None) or self._next()
            if scheduler is None:
                return
            most -= scheduler.read(most)
            if scheduler.batch.arriving is not None:
                return
            most = min(most, CHUNK)

    def _make_room(self) -> None:
        """Have some wait again for those whose turn it is, unless prompts are being read."""
        if any(decoder.scheduler.batch.arriving is not None for decoder in self._decoders):
            return
        for _, entry in self.admission.making_room(self.slots - self.running):
            decoder, request = entry.item
            if decoder.scheduler.holds(request):
                decoder.scheduler.preempt(request)
        self._queue_preempted()

    def _next(self) -> Scheduler | None:
        """Let the first of those who wait in, with those of its formula who may come in now."""
        if not self.admission.waiting:
            return None
        free = self.slots - self.running
        if not (joining := self.admission.joining(free)):
            return None
        first, _ = joining[0][1].item
        scheduler: Scheduler = first.scheduler
        own = [entry.item[1] for _, entry in joining if entry.item[0] is first]
        if not (joined := scheduler.admissible(own, free)):
            return None
        for request in joined:
            self.admission.start(id(request), request.longest)
        scheduler.waiting.extend(joined)
        scheduler.admit(free)
        return scheduler
