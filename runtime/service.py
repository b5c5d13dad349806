"""A service: requests of many formulas in the same steps, coming and going as they please.

Formulas share what they have in common: weights, the forwards of every language model, and on a CPU
those of reward models that stages read alike; on a GPU, where steps are recorded, these are asked
formula by formula. Nothing here waits, and nothing here knows of threads: whoever owns a service
calls ``step`` again and again.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from traceback import clear_frames
from typing import Any

from ..errors import ArgumentError
from ..formula import Names, Plan, make_plan
from ..formula.request_fields import NO_FIELDS, Group
from ..models import Heads, ModelError, ModelSpec, cuda_graph
from ..models.cache_config import CacheConfig
from ..models.images.sources import FILES
from ..models.text.chat import RawTextLog
from .admission import Admission
from .batch.batch import Batch
from .batch.memory import candidates
from .batch.pages import check_it_fits
from .batch.row_map import widest
from .binding.bind import bind
from .binding.bound import Bound, with_fields
from .binding.declared_models import (
    has_model,
    plans_of,
    unload,
    with_model,
    without_model,
)
from .binding.draft import DraftBinder, drafting
from .binding.weight_pool import WeightPool
from .counts import Counts
from .decoder import Decoder
from .engine import engine as engines
from .loops.decode import scheduler_of
from .loops.recovery import Recovery
from .loops.scheduler import Progress, Scheduler, run
from .requests.answer import Answer
from .requests.per_row import at_least_one, served_draft
from .requests.request import Request
from .shared_slots import SharedSlots
from .warm_up import record_steps

WIDE = 64  # candidates, where their number is a parameter
DRAFTED = 16  # tokens of a draft, at most
SHARE = 0.5  # of free memory, for the pages of a formula's lanes, where others may come


class Served(Decoder):
    """A formula of a service. Its requests go through ``Service.submit``.

    Attributes:
        scheduler: its requests on their way.
        wide: candidates that a request may have, at most.
        draft: who proposes its tokens, if anybody.
    """

    def __init__(
        self, bound: Bound, params: Mapping[str, float], service: Service, draft: str | None
    ) -> None:
        pool = service.graph_pool(bound)
        super().__init__(bound, params, service.capture, service.raw_text, pool, service.cache)
        engine, self.draft = self.session.engine, draft
        self._service = service
        engine.served = True
        if draft is not None:
            engine.starts_drafting()
        counts = (candidates(bound.plan, stage, WIDE) for _, stage in bound.plan.reranks)
        self.wide = max(counts, default=0)
        engine = self.session.engine
        self.scheduler: Scheduler = scheduler_of(engine)(engine, self._empty_batch())

    def restart(self) -> None:
        """Go on with an empty batch, in place of one that a step has left in pieces."""
        self.scheduler.batch = self._empty_batch()

    def _empty_batch(self) -> Batch:
        service, engine = self._service, self.session.engine
        tokens = service.max_model_len + self.wide + 1
        if self.draft is not None:
            tokens += 1 + DRAFTED + DRAFTED * (self.wide + 1)
        return engine.empty(service.slots, tokens, share=service.share_of(self.session.bound))

    def alone(self) -> Decoder:
        """A decoder of the same formula and weights, with caches of its own."""
        service = self._service
        bound = service.bound(self.session.bound.own_plan, together=False)
        return Decoder(bound, self._params, service.capture, service.raw_text, cache=service.cache)

    def requests(self, prompt: Any, **arguments: Any) -> list[Request]:
        """The requests of one prompt, checked; arguments and errors are those of ``generate``."""
        draft, others = served_draft(arguments, self.draft, DRAFTED)
        requests: list[Request] = self.session.builder.requests(prompt, draft=draft, **others)
        for request in requests:
            self._check(request)
        return requests

    def room(self, prompt: Any, params: Mapping[str, float] | None = None, **chat: Any) -> int:
        """New tokens that there is room for after a prompt, here and in the models."""
        builder = self.session.builder
        [request] = builder.requests(prompt, params=params, max_new_tokens=1, **chat)
        most = self._service.max_model_len
        return min(most, self.session.bound.positions or most) - request.longest

    def _check(self, request: Request) -> None:
        most, slots, longest = self._service.max_model_len, self._service.slots, request.longest
        more = request.max_new_tokens + self.session.bound.plan.tokens_ahead(request.values)
        if longest + more > most:
            counts = f"{longest} tokens, and {more} more are asked for; here a text may have {most}"
            raise ModelError(f"the prompt has {counts}", "shorten it, or ask for fewer tokens")
        if (wide := widest(self.session.bound.plan, request) - 1) > self.wide:
            raise ArgumentError(f"{wide} candidates are asked for; here it is {self.wide}")
        if (rows := self.slots_of(request)) > slots:
            formula = self.plan.formula
            raise ArgumentError(f"a request of {formula} takes {rows} slots, and there are {slots}")
        check_it_fits(self.scheduler.batch, request, rows)

    def slots_of(self, request: Request) -> int:
        """Slots that a request takes now."""
        return self.scheduler.needs(request)


class Service(SharedSlots, Counts):
    """Decodes requests of many formulas over the same models.

    Args:
        specs: every model that a formula may name.
        prompts, schemas, grammars: by name, for ``model@name``, ``json(name)``, ``grammar(name)``.
        slots: rows that are decoded at once, over all formulas.
        max_model_len: tokens that a text may have, prompt and answer.
        dtype, device: of models that name none.
        capture: on a GPU, replay repeated steps as CUDA graphs, as ``descant.compile`` does.
        cache: how the caches of all formulas are used; left out, by the defaults.
        weights: models in memory, as in ``WeightPool``.

    Attributes:
        admission: who has slots, and who waits for them.
        sources: where images of prompts may come from.
        failures: what the last step has failed with, where it could go on.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        *,
        prompts: Mapping[str, str] | None = None, schemas: Mapping[str, Any] | None = None,
        grammars: Mapping[str, str] | None = None,
        slots: int = 8, max_model_len: int = 2048, dtype: str | None = None, device: str = "cpu",
        capture: bool = True, cache: CacheConfig | None = None,
        weights: dict[tuple[Any, ...], Any] | None = None,
    ) -> None:  # fmt: skip
        at_least_one("slots", slots)
        at_least_one("max_model_len", max_model_len)
        self.specs = specs
        self._texts = prompts or {}, schemas or {}, grammars or {}
        self.slots, self.max_model_len = slots, max_model_len
        self._dtype, self._device = dtype, device
        self.capture, self.cache = capture, cache or CacheConfig()
        self._graph_pool: Any = None
        self._named: set[str] = set()  # models that formulas have named
        self._pool = WeightPool(together=True, weights={} if weights is None else weights)
        self.raw_text = RawTextLog()  # of all formulas
        self._decoders: list[Served] = []
        # By the requests' ids; those with slots in the order in which they came in.
        self.admission: Admission[tuple[Served, Request]] = Admission(slots)
        self._witness: tuple[Served, Request] | None = None  # one that has drawn a token
        self.failures: list[Exception] = []
        self.sources = FILES

    def add_model(self, name: str, spec: Any) -> None:
        """Declare another model, for formulas to come; errors are those of ``with_model``."""
        self.specs = with_model(self.specs, name, spec)

    def has_model(self, name: str) -> bool:
        """Whether a compiled formula has a declared model."""
        bounds = (decoder.session.bound for decoder in self._decoders)
        return any(has_model(plan, name) for bound in bounds for plan in plans_of(bound))

    def remove_model(self, name: str) -> None:
        """Declare a model no more, and unload an adapter or a vector.

        Raises:
            ArgumentError: there is none, or a formula has it: ``forget`` that first.
        """
        bounds = (decoder.session.bound for decoder in self._decoders)
        self.specs = without_model(self.specs, name, bounds)
        for lane in self._pool.shared_lanes:
            unload(lane, name)

    def decoder(
        self, formula: str, params: Mapping[str, float] | None = None,
        fields: Group = NO_FIELDS, draft: str | None = None,
        plan: Plan | None = None,
    ) -> Served:  # fmt: skip
        """A formula that requests may be submitted to; its weights are read, its slots reserved.

        Its parameters have the values of ``params`` where a request gives none, and its requests
        may have the ``fields`` of a group (``fields_of``). A ``draft``, as in ``generate``,
        proposes the tokens of all its requests that do not say ``draft=None``. A ``plan`` is the
        formula's, where somebody has made it.

        Raises:
            FormulaError: anything wrong with the formula.
            ModelError: a checkpoint that cannot be read, or too little memory.
        """
        (prompts, *texts), heads = self._texts, Heads(self.specs)
        names = Names(frozenset(self.specs), frozenset(params or ()), prompts, heads, *texts)
        plan = plan or make_plan(formula, names)
        if params is not None and plan.params:
            plan.values(dict(params))
        bound = with_fields(self.bound(plan, together=True), fields)
        if draft is not None:
            binder = DraftBinder(self.specs, names, self._dtype, self._device, self._pool)
            bound = drafting(bound, draft, binder)
        decoder = Served(bound, params or {}, self, draft)
        self._decoders.append(decoder)
        return decoder

    @property
    def weights(self) -> dict[tuple[Any, ...], Any]:
        """The models in memory, by ``Description.weights``; formulas find what is put here."""
        return self._pool.weights

    def graph_pool(self, bound: Bound) -> Any:
        """Memory for recordings that all formulas share, for one is replayed at a time."""
        if self.capture and self._graph_pool is None and engines.on_gpu(bound):
            self._graph_pool = cuda_graph.CudaGraph.new_pool()
        return self._graph_pool

    def share_of(self, bound: Bound) -> float:
        """The share of the free memory that the pages of a formula's new lanes may take.

        Others may come that need some: of declared models that no formula has named, or of reward
        models, of which every formula has lanes of its own where rows have pages.
        """
        self._named |= {term.term.model for term in bound.all_terms}
        own = {name for name, spec in self.specs.items() if spec.on is None or spec.merge}
        rewards = any(not term.language for term in bound.all_terms)
        return SHARE if rewards or own - self._named else 1.0

    def bound(self, plan: Plan, together: bool) -> Bound:
        """A plan over the service's weights: with its lanes, or with lanes of its own."""
        pool = self._pool if together else WeightPool(weights=self._pool.weights)
        bound = bind(plan, self.specs, self._dtype, self._device, pool=pool)
        return replace(bound, sources=self.sources)

    def has_requests(self, decoder: Served) -> bool:
        """Whether a formula has requests that have not ended."""
        waiting = self.admission.waiting.values()
        return decoder.scheduler.busy or any(entry.item[0] is decoder for entry in waiting)

    def forget(self, decoder: Served) -> None:
        """Let go of what a formula holds besides weights.

        Raises:
            ValueError: it has requests that have not ended.
        """
        if self.has_requests(decoder):
            raise ValueError(f"{decoder.plan.formula} has requests that have not ended")
        decoder.scheduler.batch.close()
        self._decoders.remove(decoder)
        if self._witness is not None and self._witness[0] is decoder:
            self._witness = None

    def submit(
        self, decoder: Served, prompt: Any, *, client: Hashable = None, call: Hashable = None,
        **arguments: Any,
    ) -> list[Request]:  # fmt: skip
        """Queue one prompt of ``generate``, once for each of its ``num_return_sequences``.

        Clients share the slots fairly, and so do the calls of each (``Admission``).

        Raises:
            FormulaError, ModelError, ValueError: as ``generate``; or too much for this service.
        """
        requests = decoder.requests(prompt, **arguments)
        self.queue(decoder, requests, client, call)
        return requests

    def queue(
        self, decoder: Served, requests: Sequence[Request], client: Hashable = None,
        call: Hashable = None,
    ) -> None:  # fmt: skip
        """Queue requests that ``Served.requests`` has made."""
        for request in requests:
            slots = decoder.slots_of(request)
            self.admission.add(id(request), (decoder, request), slots, client, call)

    def warm_up(self) -> None:
        """On a GPU, record the steps of every formula, for every bucket of rows.

        Rows of one token are decoded, greedily and by noise. A formula whose parameters have no
        values, or that fails on such rows, is left to its first requests. Nobody else may have
        requests meanwhile.
        """
        for decoder in self._decoders:
            if decoder.session.engine.graphs.on:
                record_steps(self, decoder)

    def cancel(self, request: Request) -> None:
        """Let a request go: its slots are free before the next step. One that has ended is none."""
        entry = self.admission.waiting.get(id(request)) or self.admission.running.get(id(request))
        if entry is not None:
            decoder, _ = entry.item
            if self.admission.remove(id(request)):
                decoder.scheduler.withdraw(request)
            else:
                decoder.scheduler.drop(request)

    @property
    def busy(self) -> bool:
        """Whether any request has not ended."""
        waiting = bool(self.admission.waiting)
        return waiting or any(decoder.scheduler.busy for decoder in self._decoders)

    def step(self) -> list[Answer]:
        """Let requests in, and draw a token for every slot.

        Returns:
            The answers that got a token or ended; of a search, only those that ended. An answer
            that went wrong says so in ``error``, and the others go on; also where the step raises
            something, as long as it is clear whose fault that is.

        Raises:
            Exception: what a step raises for every request, as without a device.
        """
        updated: list[Answer] = []
        self.failures = []
        try:
            self._admit()
            self._draw(updated)
        except Exception as error:
            updated = self._recovered(error, updated)
        for answer in updated:
            key = id(answer.request)
            if answer.tokens and answer.error is None and key in self.admission.running:
                self._witness = self.admission.running[key].item
            if answer.finish_reason is not None and (entry := self.admission.waiting.get(key)):
                entry.item[0].scheduler.withdraw(answer.request)  # a token was on its way
            if answer.finish_reason is not None:
                self.admission.remove(key)
        return updated

    def _draw(self, updated: list[Answer], ahead: int | None = None) -> None:
        """Draw a token for every slot; ``updated`` gets the answers."""
        run([decoder.scheduler for decoder in self._decoders])
        self.admission.step()
        for decoder in self._decoders:
            updated += decoder.scheduler.postprocess(ahead)
        self._queue_preempted()

    def _recovered(self, error: Exception, updated: Sequence[Answer]) -> list[Answer]:
        """Go on after a step that has raised, without the requests that it raises for."""
        clear_frames(error.__traceback__)  # they hold what the step has allocated
        answers = {id(answer.request): answer for answer in updated}
        recovery = Recovery(self._interrupted, partial(self._draw, ahead=0), answers)
        witness = self._witness
        scheduled = [entry.item for entry in self.admission.running.values()]
        recovery.run(
            [(decoder.scheduler, request) for decoder, request in scheduled],
            None if witness is None else (witness[0].scheduler, witness[1]),
        )
        self._queue_preempted()
        self.failures = recovery.errors or [error]
        return [*recovery.answers.values()]

    def _interrupted(self) -> dict[int, Progress]:
        """Take all requests out of their slots; how far each came. What they held is dropped."""
        progress: dict[int, Progress] = {}
        for decoder in self._decoders:
            progress |= decoder.scheduler.interrupt()
        self._pool.clear()
        for decoder in self._decoders:
            decoder.restart()
        return progress
