"""The server without HTTP: what is served, who may come in, and what is asked of the decode thread.

Only the event loop comes here, but for ``start`` and ``stop``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ..grammar import FormulaError
from ..runfile import RunFile, RunFileError
from .errors import ApiError, broken, unavailable, wrong_formula
from .formulas import Formulas, Named, Wanted
from .limits import Limits
from .loop import Loop, Work
from .metrics import Meters
from .schema import Chat, Completion
from .streams import Stream

if TYPE_CHECKING:
    from ..runtime import Served, Service

_log = logging.getLogger("descant.serve")
T = TypeVar("T")
Asked = Completion | Chat
COMPLETION_TOKENS = 16  # of /v1/completions where nobody says how many, as OpenAI has it


class Server:
    """What a run file declares, served.

    Args:
        run: the run file.
        limits: what clients may ask for.
        allow_formulas: whether a model's name may be a formula over the declared models.
        keys: of clients; none where everybody may come in.

    Attributes:
        formulas: those of the run file, by name.
        meters: what is counted.
        stopping: whether new requests are refused.
    """

    def __init__(
        self,
        run: RunFile,
        limits: Limits | None = None,
        *,
        allow_formulas: bool = False,
        keys: Sequence[str] = (),
    ) -> None:
        from ..api import declared, where

        if run.merge:
            named = ", ".join(run.merge)
            raise RunFileError(
                f"merge ({named}) is read by descant sweep; serve one merged adapter"
            )
        self.run, self.limits, self.allow_formulas = run, limits or Limits(), allow_formulas
        self.keys = tuple(key.encode() for key in keys)
        self.specs = declared(run.models)
        self.dtype, self.device = where(run.dtype, run.device)
        self.meters = Meters(self.limits.slots)
        self.loop = Loop(self._service, self.meters)
        self.formulas: Mapping[str, Named] = {
            name: Named(text, run.params) for name, text in run.named.items()
        }
        self._compiled = Formulas(
            self.formulas, frozenset(run.models), self.loop, allow_formulas,
            self.limits.max_formulas,
        )  # fmt: skip
        self.started, self.stopping = int(time.time()), False
        self._rows = 0  # accepted and not ended
        self._requests = 0
        self._seconds = 1.0  # of a row, on the average, lately

    def _service(self) -> Service:
        from ..runtime import Service

        return Service(
            self.specs, prompts=self.run.prompts, slots=self.limits.slots,
            max_model_len=self.limits.max_model_len, dtype=self.dtype, device=self.device,
        )  # fmt: skip

    def start(self) -> None:
        """Read the weights and compile the formulas of the run file.

        Raises:
            FormulaError, ModelError: as ``compile``.
        """
        self.loop.start()
        self._compiled.start()

    def stop(self) -> None:
        """End the decode thread."""
        self.loop.stop()

    @property
    def busy(self) -> bool:
        """Whether requests are in flight."""
        return self._requests > 0

    def abandon(self) -> None:
        """End the requests in flight."""
        self.loop.abandon(unavailable("the server is shutting down"))

    async def job(self, call: Work[T]) -> T:
        """Run ``call(service)`` in the decode thread, between two steps."""
        return await asyncio.wrap_future(self.loop.call(call))

    async def decoder(self, model: str, params: Mapping[str, float] | None = None) -> Served:
        """The decoder of a name, or of a formula where they are allowed.

        Args:
            model: the name or the formula.
            params: of the formula, beside those of the run file.

        Raises:
            ApiError: there is none, or it cannot be compiled.
        """
        with self._compiled.use(Wanted(model, dict(params or {}))) as decoder:
            return await decoder

    @asynccontextmanager
    async def decoding(self, body: Asked) -> AsyncIterator[Stream]:
        """The rows of a request, queued; let go of where they have not ended inside of this.

        Raises:
            ApiError: the request is refused, or cannot be.
        """
        wanted, arguments = self._arguments(body)
        with self.admitted(self._rows_of(body)):
            stream = Stream(bool(body.stream), self.limits.timeout)
            try:
                with self._compiled.use(wanted) as compiling:
                    decoder = await stream.within(compiling)
                    if decoder.tokenizer is None:
                        raise ApiError(400, "the formula's models have no tokenizer", "model")
                    arguments |= self._compiled.arguments(wanted)
                    queued = self.loop.submit(
                        stream, decoder, body.prompts, arguments, self.limits.max_tokens
                    )
                    try:
                        await stream.within(asyncio.wrap_future(queued))
                        yield stream
                    finally:
                        self.loop.cancel(stream)
            except FormulaError as error:
                raise wrong_formula(error, "params") from None
            except ValueError as error:
                raise ApiError(400, str(error), None, "invalid_value") from None
            finally:
                stream.close()

    @contextmanager
    def admitted(self, rows: int) -> Iterator[None]:
        """A request of so many rows, while it is in the house.

        Raises:
            ApiError: there is no room for it, or the server is going.
        """
        if self.loop.failure is not None:
            raise broken()
        if self.stopping:
            raise unavailable("the server is shutting down")
        ahead = self._rows + rows - self.limits.slots
        if ahead > self.limits.max_queue:
            wait = min(60, max(1, math.ceil(self._seconds * ahead / self.limits.slots)))
            raise ApiError(
                429, f"{self._rows} rows are here already; try again in {wait} s",
                None, "queue_full", {"retry-after": str(wait)},
            )  # fmt: skip
        since = time.perf_counter()
        self._rows += rows
        self._requests += 1
        try:
            yield
        finally:
            self._rows -= rows
            self._requests -= 1
            self._seconds += 0.1 * (time.perf_counter() - since - self._seconds)

    def _rows_of(self, body: Asked) -> int:
        rows = len(body.prompts) * (body.n or self._default("num_return_sequences") or 1)
        most = self.limits.slots + self.limits.max_queue
        if rows > most:
            message = f"this asks for {rows} rows at once; the server takes {most}"
            raise ApiError(400, message, "n", "too_many_rows")
        return rows

    def _default(self, name: str) -> Any:
        """What the run file's ``generate`` says; None where it does not say it."""
        said = self.run.generate
        return getattr(said, name) if name in said.model_fields_set else None

    def _arguments(self, body: Asked) -> tuple[Wanted, dict[str, Any]]:
        """What to decode from, and the arguments of ``generate``."""
        temperature = body.temperature
        if temperature is None:
            temperature = self._default("temperature")
        if temperature is None:
            temperature = 0.0 if self._default("do_sample") is False else 1.0
        heat = None
        if body.top_p is not None and body.top_p < 1 and temperature > 0:
            heat = (temperature, body.top_p)
        found = {
            **self._tokens(body),
            "temperature": temperature,
            "seed": body.seed if body.seed is not None else self._default("seed"),
            "stop_strings": body.stop or self._default("stop_strings"),
            "num_return_sequences": body.n or self._default("num_return_sequences") or 1,
            "eos_token_id": self._default("eos_token_id"),
            "logprobs": body.with_logprobs,
        }
        return Wanted(body.model, body.params or {}, heat), found

    def _tokens(self, body: Asked) -> dict[str, int]:
        """How many new tokens are asked for; nothing where as many as fit are."""
        most = self.limits.max_tokens
        if body.limit is not None:
            if body.limit > most:
                message = f"max_tokens is {body.limit}; the server gives at most {most}"
                raise ApiError(400, message, "max_tokens", "invalid_value")
            return {"max_new_tokens": body.limit}
        said = self._default("max_new_tokens")
        if said is None and isinstance(body, Completion):
            said = COMPLETION_TOKENS
        return {} if said is None else {"max_new_tokens": min(said, most)}
