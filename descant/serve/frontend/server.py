"""The server without HTTP: what is served, who may come in, what is asked of the decode process.

Only the event loop comes here, but for ``start`` and ``stop``.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from ...grammar import FormulaError
from ...inputs.runfile import RunFile, RunFileError
from ..protocol.errors import ApiError, broken, unavailable, wrong_formula
from ..protocol.limits import Limits
from ..protocol.messages import Start, Submit
from ..protocol.schema import Chat, Completion
from .formulas import Formulas, Named, Wanted
from .metrics import Meters
from .streams import Stream
from .worker_link import Link

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
        rewards: the names of the reward models that can score, once it is started.
        link: to the decode process.
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
        if run.merge:
            named = ", ".join(run.merge)
            raise RunFileError(
                f"merge ({named}) is read by descant sweep; serve one merged adapter"
            )
        self.run, self.limits, self.allow_formulas = run, limits or Limits(), allow_formulas
        self.keys = tuple(key.encode() for key in keys)
        self.meters = Meters(self.limits.slots)
        self.link = Link(self.meters)
        self.rewards: Sequence[str] = ()
        self.formulas: Mapping[str, Named] = {
            name: Named(text, run.params) for name, text in run.named.items()
        }
        self._compiled = Formulas(
            self.formulas, frozenset(run.models), self.link, allow_formulas,
            self.limits.max_formulas,
        )  # fmt: skip
        self.started, self.stopping = int(time.time()), False
        self._rows = 0  # accepted and not ended
        self._requests = 0
        self._seconds = 1.0  # of a row, on the average, lately

    def start(self) -> None:
        """Start the decode process, which compiles the formulas of the run file.

        Raises:
            FormulaError, ModelError: as ``compile``.
        """
        run, limits = self.run, self.limits
        start = Start(
            run.models, run.prompts, limits.slots, limits.max_model_len, run.dtype, run.device,
            self._compiled.first(),
        )  # fmt: skip
        self.rewards = self.link.start(start).rewards

    def stop(self) -> None:
        """End the decode process."""
        self.link.stop()

    @property
    def busy(self) -> bool:
        """Whether requests are in flight."""
        return self._requests > 0

    def abandon(self) -> None:
        """End the requests in flight."""
        self.link.abandon(unavailable("the server is shutting down"))

    @asynccontextmanager
    async def formula(self, model: str, params: Mapping[str, float]) -> AsyncIterator[int]:
        """The number of a named formula, or of any where they are allowed, compiled inside of this.

        Args:
            model: the name or the formula.
            params: of the formula, beside those of the run file.

        Raises:
            ApiError: there is none, or it cannot be compiled.
        """
        with self._compiled.use(Wanted(model, params)) as compiling:
            yield await compiling

    @asynccontextmanager
    async def decoding(self, body: Asked) -> AsyncIterator[Stream]:
        """The rows of a request, queued; let go of where they have not ended inside of this.

        Raises:
            ApiError: the request is refused, or cannot be.
        """
        wanted, arguments = self._arguments(body)
        with self.admitted(self._rows_of(body)):
            stream = Stream(self.limits.timeout)
            try:
                with self._compiled.use(wanted) as compiling:
                    formula = await stream.within(compiling)
                    arguments |= self._compiled.arguments(wanted)
                    asked = Submit(
                        formula, body.prompts, arguments, self.limits.max_tokens,
                        bool(body.stream), stream.since,
                    )  # fmt: skip
                    try:
                        await stream.within(self.link.submit(stream, asked))
                        yield stream
                    finally:
                        self.link.cancel(stream)
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
        if self.link.failure is not None:
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
