"""A service: requests of many formulas in the same steps, coming and going as they please.

Formulas share what they have in common: weights, and the forwards of every language model. Reward
models are asked formula by formula, for their candidates differ. Nothing here waits, and nothing
here knows of threads: whoever owns a service calls ``step`` again and again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from ..formula import Names, Plan, make_plan
from ..formula.scalar import parameters
from ..models import CHUNK, ModelError, ModelSpec
from .bind import bind
from .bound import Bound
from .decode import kind_of
from .decoder import Decoder
from .house import House
from .requests import Answer, Request, ids_of
from .run import Run, launch_all

WIDE = 64  # candidates, where their number is a parameter


class Served(Decoder):
    """A formula of a service. Its requests go through ``Service.submit``.

    Attributes:
        run: its requests on their way.
        wide: candidates that a request may have, at most.
    """

    def __init__(self, bound: Bound, params: Mapping[str, float], service: Service) -> None:
        super().__init__(bound, params)
        self._service = service
        self._engine.served = True
        counts = [stage.k for _, stage in bound.plan.reranks]
        known = [int(bound.plan.value(k, {})) for k in counts if not parameters(k.expression)]
        self.wide = max([*known, *([WIDE] if len(known) < len(counts) else [])], default=0)
        batch = self._engine.empty(service.slots, service.max_model_len + self.wide + 1)
        self.run: Run = kind_of(self._engine)(self._engine, batch)

    def alone(self) -> Decoder:
        """A decoder of the same formula and weights, with caches of its own."""
        return Decoder(self._service.bound(self._bound.plan, together=False), self._params)

    def requests(self, prompt: Any, **arguments: Any) -> list[Request]:
        """The requests of one prompt, checked; the arguments are those of ``generate``.

        Raises:
            FormulaError: a parameter or number out of bounds.
            ModelError: a prompt that some model cannot read, or that is too long.
            ValueError: arguments that do not fit together, or with this service.
        """
        requests: list[Request] = self._intake.requests(prompt, **arguments)
        for request in requests:
            self._check(request)
        return requests

    def room(self, prompt: Any, params: Mapping[str, float] | None = None) -> int:
        """New tokens that there is room for after a prompt, in this service and in the models.

        Raises:
            FormulaError, ModelError, ValueError: as ``requests``.
        """
        [request] = self._intake.requests(prompt, params=params, max_new_tokens=1)
        longest = max(map(len, ids_of(request.prompts, request.rewards)))
        most = self._service.max_model_len
        return min(most, self._bound.positions or most) - longest

    def _check(self, request: Request) -> None:
        service, engine = self._service, self._engine
        longest = max(map(len, ids_of(request.prompts, request.rewards)))
        if longest + request.max_new_tokens > service.max_model_len:
            raise ModelError(
                f"the prompt has {longest} tokens, and {request.max_new_tokens} more are asked "
                f"for; here a text may have {service.max_model_len}",
                "shorten it, or ask for fewer tokens",
            )
        if engine.widest(request) > self.wide + 1:
            raise ValueError(
                f"{engine.widest(request) - 1} candidates are asked for; here it is {self.wide}"
            )
        rows = self.run.slots_of(engine, request)
        if rows > service.slots:
            raise ValueError(
                f"a request of {self.plan.formula} takes {rows} slots, and there are "
                f"{service.slots}"
            )


class Service:
    """Decodes requests of many formulas over the same models.

    Args:
        specs: every model that a formula may name.
        prompts: system prompts by name, for ``model@name``.
        slots: rows that are decoded at once, over all formulas.
        max_model_len: tokens that a text may have, prompt and answer.
        dtype: of models that name none.
        device: of models that name none.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        *,
        prompts: Mapping[str, str] | None = None,
        slots: int = 8,
        max_model_len: int = 2048,
        dtype: str | None = None,
        device: str = "cpu",
    ) -> None:
        for name, value in (("slots", slots), ("max_model_len", max_model_len)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.specs, self.prompts = specs, dict(prompts or {})
        self.slots, self.max_model_len = slots, max_model_len
        self._dtype, self._device = dtype, device
        self._house = House(together=True)
        self._decoders: list[Served] = []
        self._queue: deque[tuple[Served, Request]] = deque()
        self._inside: dict[int, tuple[Served, Request]] = {}  # requests in runs, by their ids

    def decoder(self, formula: str, params: Mapping[str, float] | None = None) -> Served:
        """A formula that requests may be submitted to; its weights are read, its slots reserved.

        Args:
            formula: as text.
            params: the formula's parameters and their values where a request gives none.

        Raises:
            FormulaError: anything wrong with the formula.
            ModelError: a checkpoint that cannot be read, or too little memory.
        """
        names = Names(frozenset(self.specs), frozenset(params or ()), self.prompts)
        plan = make_plan(formula, names)
        if params is not None and plan.params:
            plan.values(dict(params))
        decoder = Served(self.bound(plan, together=True), params or {}, self)
        self._decoders.append(decoder)
        return decoder

    @property
    def weights(self) -> dict[tuple[Any, ...], Any]:
        """The models in memory, by ``Card.weights``; what is put here is found by formulas."""
        return self._house.weights

    def bound(self, plan: Plan, together: bool) -> Bound:
        """A plan over the service's weights: with its lanes, or with lanes of its own."""
        house = self._house if together else House(weights=self._house.weights)
        return bind(plan, self.specs, self._dtype, self._device, house=house)

    def forget(self, decoder: Served) -> None:
        """Let go of what a formula holds besides weights.

        Raises:
            ValueError: it has requests that have not ended.
        """
        if decoder.run.busy or any(one is decoder for one, _ in self._queue):
            raise ValueError(f"{decoder.plan.formula} has requests that have not ended")
        decoder.run.batch.close()
        self._decoders.remove(decoder)

    def submit(self, decoder: Served, prompt: Any, **arguments: Any) -> list[Request]:
        """Queue one prompt, once for each of ``num_return_sequences``.

        Args:
            decoder: from ``decoder``.
            prompt: text, chat messages or token ids.
            **arguments: those of ``Decoder.generate`` for one prompt.

        Raises:
            FormulaError: a parameter or number out of bounds.
            ModelError: a prompt that some model cannot read, or that is too long.
            ValueError: arguments that do not fit together, or with this service.
        """
        requests = decoder.requests(prompt, **arguments)
        self._queue.extend((decoder, request) for request in requests)
        return requests

    def cancel(self, request: Request) -> None:
        """Let a request go: its slots are free before the next step. One that has ended is none."""
        for place, (_, one) in enumerate(self._queue):
            if one is request:
                del self._queue[place]
                return
        if found := self._inside.pop(id(request), None):
            found[0].run.drop(request)

    @property
    def busy(self) -> bool:
        """Whether any request has not ended."""
        return bool(self._queue) or any(decoder.run.busy for decoder in self._decoders)

    @property
    def in_flight(self) -> int:
        """Slots in use, or promised to requests whose prompts are being read."""
        return sum(decoder.run.held for decoder in self._decoders)

    @property
    def waiting(self) -> int:
        """Requests that have no slots yet."""
        return len(self._queue)

    def step(self) -> list[Answer]:
        """Let requests in, and draw a token for every slot.

        Returns:
            The answers that got a token or ended; of a search, only those that ended. An answer
            that went wrong says so in ``error``, and the others go on.
        """
        self._admit()
        runs = [decoder.run for decoder in self._decoders]
        launch_all(runs)
        told = [answer for run in runs for answer in run.land()]
        for answer in told:
            if answer.finish_reason is not None:
                self._inside.pop(id(answer.request), None)
        return told

    def _admit(self) -> None:
        """Give free slots to those that wait, and read no more than a chunk if others decode."""
        most: float = CHUNK if self.in_flight else math.inf
        while True:
            arriving = [one.run for one in self._decoders if one.run.batch.arriving]
            if not arriving and not (arriving := self._next()):
                return
            most -= arriving[0].read(most)
            if arriving[0].batch.arriving:
                return
            most = min(most, CHUNK)

    def _next(self) -> list[Run]:
        """Let the first in the queue in, with those of its formula that are close behind."""
        free = self.slots - self.in_flight
        if not self._queue or free < self._slots(*self._queue[0]):
            return []
        first = self._queue[0][0]
        joining: list[tuple[Served, Request]] = []
        taken = 0
        for one, request in [*self._queue][:free]:
            if one is first and taken + self._slots(one, request) <= free:
                joining.append((one, request))
                taken += self._slots(one, request)
        chosen = {id(request) for _, request in joining}
        self._queue = deque(pair for pair in self._queue if id(pair[1]) not in chosen)
        self._inside |= {id(request): (one, request) for one, request in joining}
        first.run.waiting.extend(request for _, request in joining)
        first.run.admit(free)
        return [first.run]

    def _slots(self, decoder: Served, request: Request) -> int:
        return decoder.run.slots_of(decoder._engine, request)
