"""A service driven from asyncio: coroutines wait, and one thread takes the steps for all of them.

The thread runs while any request has not ended. Nothing of a service is touched but there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

from .errors import ArgumentError, StateError
from .formula.request_fields import Group, fields_of
from .models import Prompt
from .runtime import Completion, DraftBinder, Request, Served, Service
from .runtime.binding.declared_models import has_model
from .runtime.requests.answer import Answer
from .runtime.requests.build import refuse_search
from .runtime.requests.per_row import draft_of
from .runtime.session import Session

T = TypeVar("T")
LONGEST = 8192  # tokens of a text, where nothing is said and the models could read more


class _Listener:
    """A coroutine that waits for one request; its methods are called in the service's thread.

    Args:
        request: the request.
        pieces: whether it wants text as it comes, or only the completion.
    """

    def __init__(self, request: Request, pieces: bool) -> None:
        self.request, self._pieces, self._sent = request, pieces, 0
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    async def next(self) -> Any:
        """The next piece, or the completion at the end.

        Raises:
            Exception: what the request has ended with.
        """
        item = await self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def tell(self, answer: Answer) -> None:
        """Hand on what an answer has gained."""
        if self._pieces:
            self._send_new(answer)
        if answer.error is not None:
            self.send(answer.error)
        elif answer.finish_reason is not None:
            self.send(answer.completion(time.perf_counter()))

    def send(self, item: Any) -> None:
        """Hand something to the coroutine; where its loop has ended, nobody waits any more."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    def _send_new(self, answer: Answer) -> None:
        if answer.content is None:
            for token in answer.tokens[self._sent :]:
                self.send(token)
            self._sent = len(answer.tokens)
        elif piece := answer.take():
            self.send(piece)


class AsyncService:
    """Takes the steps of a service for the coroutines of any event loop.

    The requests of all coroutines share the steps. One that is cancelled lets its rows go before
    the next step.

    Args:
        service: nobody else may step it from now on.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._listeners: dict[int, _Listener] = {}  # by the ids of requests; of the thread alone
        self._state, self._tokenizers = Lock(), Lock()
        self._thread: Thread | None = None
        self._closed = False

    async def astream(
        self, decoder: Served, prompt: Prompt, **arguments: Any
    ) -> AsyncGenerator[Any, None]:
        """Complete one prompt, yielding text as it comes.

        Arguments and errors are those of ``Decoder.generate``.

        Yields:
            Pieces of text that add up to the completion's; token ids where there is no tokenizer.
        """
        refuse_search(decoder.session.bound, "astream", "its answer is known when it has ended")
        requests = await self._built(decoder, prompt, arguments)
        if len(requests) != 1:
            raise ArgumentError(f"astream takes one prompt, and this is {len(requests)} rows")
        try:
            [listener] = await self._queued(decoder, requests, pieces=True)
            while not isinstance(piece := await listener.next(), Completion):
                yield piece
        finally:
            self._release(requests)

    async def agenerate(
        self, decoder: Served, prompts: Prompt | Sequence[Prompt], **arguments: Any
    ) -> list[Completion]:
        """Complete prompts; arguments, errors and value are those of ``Decoder.generate``."""
        requests = await self._built(decoder, prompts, arguments)
        try:
            listeners = await self._queued(decoder, requests, pieces=False)
            return [await listener.next() for listener in listeners]
        finally:
            self._release(requests)

    async def call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call something between two steps, as ``service.decoder``; its value, or its error."""
        return await self._between_steps(lambda: function(*arguments, **options))

    async def aclose(self) -> None:
        """Let all requests go; nobody can submit any more."""
        with self._state:
            self._closed, thread = True, self._thread
        if thread is not None:
            self._calls.put(lambda: self._end(StateError("the service has been closed")))
            await asyncio.to_thread(thread.join)

    async def __aenter__(self) -> AsyncService:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def _built(self, decoder: Served, prompts: Any, arguments: Any) -> list[Request]:
        """The requests of prompts; they are tokenised where no step waits for it."""

        def build() -> list[Request]:
            with self._tokenizers:
                return decoder.requests(prompts, **arguments)

        return await asyncio.to_thread(build)

    async def _queued(
        self, decoder: Served, requests: Sequence[Request], pieces: bool
    ) -> list[_Listener]:
        listeners = [_Listener(request, pieces) for request in requests]

        def queue() -> None:
            self._listeners |= {id(each.request): each for each in listeners}
            self.service.queue(decoder, requests)

        await self._between_steps(queue)
        return listeners

    def _release(self, requests: Sequence[Request]) -> None:
        """Let requests go that have not ended, and forget them all."""

        def release() -> None:
            for request in requests:
                if self._listeners.pop(id(request), None) is not None:
                    self.service.cancel(request)

        with self._state:
            if not self._closed:
                self._put(release)

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Have the thread call something before its next step.

        Raises:
            StateError: the service has been closed.
        """
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        with self._state:
            if self._closed:
                raise StateError("the service has been closed; make another")
            self._put(call)
        return future

    async def _between_steps(self, function: Callable[[], T]) -> T:
        # whoever is cancelled here does not undo the call
        return await asyncio.shield(asyncio.wrap_future(self.submit(function)))

    def _put(self, call: Callable[[], None]) -> None:
        """Have the thread call something before its next step; it is started where none runs."""
        self._calls.put(call)
        if self._thread is None:
            self._thread = Thread(target=self._run, name="descant-steps", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        """Take steps until there is nothing to do."""
        while True:
            with self._state:
                if not self.service.busy and self._calls.empty():
                    self._thread = None
                    return
            self._call_all()
            if self.service.busy:
                self._step()

    def _call_all(self) -> None:
        while True:
            try:
                call = self._calls.get_nowait()
            except Empty:
                return
            call()

    def _step(self) -> None:
        try:
            answers = self.service.step()
        except Exception as error:  # the step fails for everybody
            self._end(error)
            return
        for answer in answers:
            if (listener := self._listeners.get(id(answer.request))) is None:
                continue
            try:
                listener.tell(answer)
            except Exception as error:  # its text cannot be told
                listener.send(error)
                self.service.cancel(answer.request)
                answer.fail(error)
            if answer.finish_reason is not None:
                del self._listeners[id(answer.request)]

    def _end(self, error: Exception) -> None:
        """End every request with an error."""
        for listener in self._listeners.values():
            listener.send(error)
            self.service.cancel(listener.request)
        self._listeners.clear()


class AsyncDecoder:
    """A decoder's coroutines: a service over its weights, and its formula there.

    It is there once per draft and group of fields.

    Args:
        session: of the decoder.
        models: declared with its formula.
        params: their values where a call gives none.
        slots: rows that are decoded at once.
        max_model_len: tokens of a text; left out, what the models can read, up to ``LONGEST``.
    """

    def __init__(
        self, session: Session, models: DraftBinder, params: Mapping[str, float],
        slots: int = 32, max_model_len: int | None = None,
    ) -> None:  # fmt: skip
        engine, names = session.engine, models.names
        longest = max_model_len or min(LONGEST, session.bound.positions or LONGEST)
        service = Service(
            models.specs, prompts=names.prompts, schemas=names.schemas, grammars=names.grammars,
            slots=slots, max_model_len=longest, dtype=models.dtype, device=models.device,
            capture=engine.capture, cache=engine.cache, weights=models.pool.weights,
        )  # fmt: skip
        service.sources = session.bound.sources
        self._service, self._models, self._params = AsyncService(service), models, params
        self._formula = session.bound.plan.source
        self._searches_at_random = session.bound.plan.searches_at_random
        self._served: dict[tuple[str | None, Group], Served] = {}

    async def astream(self, prompt: Prompt, **arguments: Any) -> AsyncIterator[Any]:
        """As ``Decoder.astream``."""
        pieces = self._service.astream(await self._decoder(arguments), prompt, **arguments)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def agenerate(self, prompts: Any, **arguments: Any) -> list[Completion]:
        """As ``Decoder.agenerate``."""
        decoder = await self._decoder(arguments)
        return await self._service.agenerate(decoder, prompts, **arguments)

    def remove_model(self, name: str) -> None:
        """Let go of a model that is declared no more, and of what drafts with it."""
        self._service.submit(partial(self._remove, name)).result()

    def _remove(self, name: str) -> None:
        service = self._service.service
        for key, decoder in [*self._served.items()]:
            if any(has_model(each.plan, name) for each in decoder.session.bound.draft_plans):
                service.forget(self._served.pop(key))
        if name in service.specs:
            service.remove_model(name)

    async def _decoder(self, arguments: Mapping[str, Any]) -> Served:
        """The formula in the service, with the draft and the fields that a call asks for."""
        options = draft_of(arguments.get("draft"), arguments.get("draft_length"))
        draft = None if options is None else options.source
        fields = fields_of(arguments, self._searches_at_random)
        return await self._service.call(self._compiled, draft, fields)

    def _compiled(self, draft: str | None, fields: Group) -> Served:
        service, key = self._service.service, (draft, fields)
        if key not in self._served:
            service.specs = self._models.specs  # others may have come
            self._served[key] = service.decoder(self._formula, self._params, fields, draft)
        return self._served[key]
