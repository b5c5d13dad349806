"""The server without HTTP: admits requests, and passes them to the decode process.

All of it runs in the event loop, except ``start`` and ``stop``.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from ...errors import DescantError
from ...formula.request_fields import fields_of
from ...formula.words.signature import LEAST
from ...grammar import FormulaError
from ...imports import imported
from ...inputs.runfile import RunFile, RunFileError
from ...models import ModelError
from ...models.text.chat_options import with_options
from ..protocol import errors
from ..protocol.chats import ChatQuery
from ..protocol.limits import Limits
from ..protocol.messages import ScoreJob, Start, Submit
from ..protocol.schema import SERVED_LENGTH, ChatRequest, CompletionRequest
from ..protocol.schema.sampling import SAMPLING
from ..worker.checks import EncodePrompts, is_text
from .adapters import AddedAdapters
from .check_queue import Checks
from .constraint_checks import ConstraintChecks
from .formulas import FormulaCache, FormulaRef
from .images import ImageFetches
from .metrics import Metrics
from .prompt_reads import PromptQueries
from .streams import Stream
from .traces import Traces
from .worker_link import WorkerLink

DecodeRequest = CompletionRequest | ChatRequest
COMPLETION_TOKENS = 16  # OpenAI's default of max_tokens in /v1/completions
OF_TEMPLATES = ("reasoning_effort", "tools")  # fields that a chat template may not know
TOLD = ("logprobs", "top_logprobs", "prompt_logprobs")  # fields that count the best tokens
SCORES_PER_JOB = 8  # texts that are scored between two steps


class Server:
    """Serves the formulas of a run file.

    Args:
        run: the run file.
        limits: on what clients may request.
        allow_formulas: whether a model's name may be a formula over the declared models.
        keys: of clients; without any, the server takes every request.
        tool_call_parser: the format of tool calls; left out, what each chat template asks for.
        otlp_traces_endpoint: where traces go, as ``Traces`` takes it.

    Attributes:
        rewards: the names of the reward models that can score, once it is started.
        stopping: whether new requests are refused.
    """

    def __init__(
        self,
        run: RunFile,
        limits: Limits | None = None,
        *,
        allow_formulas: bool = False,
        keys: Sequence[str] = (),
        tool_call_parser: str | None = None,
        otlp_traces_endpoint: str | None = None,
    ) -> None:
        if run.merge:
            names = ", ".join(run.merge)
            problem = f"merge ({names}) is read by descant sweep; serve one merged adapter"
            raise RunFileError(problem)
        length = run.generate.draft_length
        if isinstance(length, int) and length > SERVED_LENGTH:
            problem = f"generate.draft_length is {length}; a server drafts at most {SERVED_LENGTH}"
            raise RunFileError(f"{problem} tokens")
        self.limits, self.allow_formulas = limits or Limits(), allow_formulas
        self.tool_call_parser = tool_call_parser
        self.keys = tuple(key.encode() for key in keys)
        self.metrics = Metrics(self.limits.slots)
        self.traces = Traces(otlp_traces_endpoint)
        self.link = WorkerLink(self.metrics)
        self.rewards: Sequence[str] = ()
        self._max_lengths: Mapping[int, int | None] = {}
        self.checks = Checks()
        self.constraints = ConstraintChecks(self.checks)
        self.formulas = FormulaCache(
            run, self.link, self.checks, self.constraints, allow_formulas, self.limits.max_formulas
        )
        self._prompts = PromptQueries(self.formulas, self.link, self.limits.max_model_len)
        self.adapters = AddedAdapters(self.formulas, self.link, self.limits.runtime_lora_dirs)
        self._images = ImageFetches(self.limits.allowed_media_domains)
        self.started, self.stopping = int(time.time()), False
        self._rows = 0  # admitted and not ended
        self._client_rows: Counter[Hashable] = Counter()
        self._row_seconds = 1.0  # a moving average

    def start(self) -> None:
        """Start the decode process, which compiles the formulas of the run file.

        Raises:
            FormulaError, ModelError: as ``compile``.
        """
        start = Start(self.run, self.limits, self.formulas.compile_named(), imported())
        started = self.link.start(start)
        self.checks.start()
        self.rewards, self._max_lengths = started.rewards, started.max_lengths
        self.formulas.encoders |= started.encoders

    def max_model_len(self, name: str) -> int:
        """Tokens of a row of a named formula, prompt and answer: the server's limit, or less."""
        own = self._max_lengths.get(self.formulas.number(name))
        return min(self.limits.max_model_len, own or self.limits.max_model_len)

    @property
    def run(self) -> RunFile:
        """The run file, with the adapters that have been loaded."""
        return self.formulas.run

    def stop(self) -> None:
        """Stop the processes."""
        self.checks.stop()
        self.link.stop()
        self.traces.stop()

    @property
    def rows(self) -> int:
        """Rows of the requests that are here."""
        return self._rows

    @property
    def busy(self) -> bool:
        """Whether any admitted request has not ended."""
        return self._rows > 0

    @asynccontextmanager
    async def decoding(self, body: DecodeRequest, client: Hashable = None) -> AsyncIterator[Stream]:
        """The queued rows of a client's request; leaving this aborts those that have not ended.

        Raises:
            ApiError: the request is refused or invalid.
            FormulaError, ModelError: its formula cannot be compiled.
        """
        ref, arguments = self.arguments(body)
        rows = len(body.prompts) * arguments["num_return_sequences"]
        most = self.limits.slots + self.limits.max_queue
        if rows > most:
            message = f"this asks for {rows} rows at once; the server takes {most}"
            raise errors.ApiError(400, message, "n", "too_many_rows")
        with self.admitted(rows, client):
            stream = Stream(self.limits.timeout)
            async with AsyncExitStack() as stack:
                stack.callback(stream.timer.cancel)
                stack.enter_context(self.traces.request(body, stream))
                await stream.deadline.wait_for(self._try_constraint(body, client))
                prompts = await stream.deadline.wait_for(self._images.fetched(body.prompts))
                if isinstance(body, ChatRequest):
                    prompts = [with_options(prompt, body.options) for prompt in prompts]
                use = stack.enter_async_context(self.formulas.use(ref, client))
                formula = await stream.deadline.wait_for(use)
                cut = body.truncate_prompt_tokens is not None
                encode = partial(self.encoded, client=client, cut=cut)
                plain = self.formula_ref(body.model, body.params or {})
                each = arguments["num_return_sequences"]
                read = self._prompts.read(body, plain, formula, prompts, each, encode)
                stream.prompts, prompts = await stream.deadline.wait_for(read)
                if body.has_no_answer:
                    stream.end_without_tokens(rows)
                    yield stream
                    return
                stack.callback(self.link.close, stream)
                submit = Submit(
                    formula, prompts, arguments, self.limits.max_tokens, bool(body.stream),
                    stream.arrival_time, self._chat_query(body), client,
                )  # fmt: skip
                try:
                    await stream.deadline.wait_for(self.link.submit(stream, submit))
                except FormulaError as error:
                    asked = "sample_components" in error.problem
                    field = "sample_components" if asked else "params"
                    raise errors.wrong_formula(error, field) from None
                except DescantError as error:
                    named = (name for name in OF_TEMPLATES if name in str(error))
                    raise errors.invalid_value(error, next(named, None)) from None
                yield stream

    async def encoded(
        self, formula: int, prompts: Sequence[Any], client: Hashable, cut: bool = False
    ) -> Sequence[Any]:
        """Prompts as the terms of a formula read them, where those are texts; of any length to cut.

        Raises:
            ApiError: one that cannot be read, or is too long.
        """
        encoders = self.formulas.encoders.get(formula)
        pickled = None if encoders is None else encoders.pickled
        if encoders is None or pickled is None or not all(map(is_text, prompts)):
            return prompts
        longest = None if cut else self.limits.max_model_len
        check = EncodePrompts(pickled, encoders.parts, prompts, longest)
        try:
            read: Sequence[Any] = await self.checks.run(check, client)
        except FormulaError:
            raise
        except DescantError as error:
            named = (name for name in OF_TEMPLATES if name in str(error))
            raise errors.invalid_value(error, next(named, None)) from None
        return read

    def _chat_query(self, body: DecodeRequest) -> ChatQuery | None:
        """What a chat asks of the text of its answers."""
        if not isinstance(body, ChatRequest):
            return None
        return ChatQuery(body.choice == "auto" and bool(body.tools), self.tool_call_parser)

    async def _try_constraint(self, body: DecodeRequest, client: Hashable) -> None:
        """Compile a client's constraint where that may take any time.

        Raises:
            ApiError: it cannot be compiled, or too many others wait.
        """
        if body.constraint is None:
            return
        try:
            await self.constraints.check(body.constraint, client)
        except DescantError as error:
            forced = isinstance(body, ChatRequest) and body.choice not in ("none", "auto")
            field = "response_format" if body.response_format else "structured_outputs"
            field = "tools" if forced else field
            raise errors.invalid_value(error, field) from None

    async def score(
        self, model: str, prompts: Sequence[Any], answers: Sequence[str], client: Hashable = None
    ) -> list[float]:
        """One reward per answer, a few between two steps.

        Raises:
            ApiError: no such reward model, or a text that it cannot read.
        """
        if model not in self.rewards:
            raise errors.unknown_model(model, self.rewards, "reward model")
        rewards: list[float] = []
        for first in range(0, len(answers), SCORES_PER_JOB):
            batch = slice(first, first + SCORES_PER_JOB)
            try:
                job = ScoreJob(model, prompts[batch], answers[batch], client)
                rewards += await self.link.call(job)
            except ModelError as error:
                raise errors.invalid_value(error) from None
        return rewards

    @contextmanager
    def admitted(self, rows: int, client: Hashable = None) -> Iterator[None]:
        """Count the rows of a request inside of this; one for a request that takes no slot.

        Where the queue is full, clients with less than their share of it may still come.

        Raises:
            ApiError: the queue is full, or the server is shutting down.
        """
        if self.link.failure is not None:
            raise errors.server_error(self.link.failure_id)
        if self.stopping:
            raise errors.unavailable()
        waiting = self._rows + rows - self.limits.slots
        own = self._client_rows[client] + rows
        share = self.limits.max_queue / len(self._client_rows.keys() | {client})
        if waiting > self.limits.max_queue and (own > share or waiting > 2 * self.limits.max_queue):
            seconds = min(60, max(1, math.ceil(self._row_seconds * waiting / self.limits.slots)))
            raise errors.ApiError(
                429, f"{self._rows} rows are here already; try again in {seconds} s",
                None, "queue_full", {"retry-after": str(seconds)},
            )  # fmt: skip
        start = time.perf_counter()
        self._rows += rows
        self._client_rows[client] += rows
        try:
            yield
        finally:
            self._rows -= rows
            self._client_rows[client] -= rows
            if not self._client_rows[client]:
                del self._client_rows[client]
            self._row_seconds += 0.1 * (time.perf_counter() - start - self._row_seconds)

    def arguments(self, body: DecodeRequest) -> tuple[FormulaRef, dict[str, Any]]:
        """The formula of a request, and the arguments of ``generate``.

        Raises:
            ApiError: more tokens than the server's limit.
        """
        most = self.limits.max_tokens
        if body.max_tokens is not None and body.max_tokens > most:
            problem = f"max_tokens is {body.max_tokens}; the server gives at most {most}"
            raise errors.invalid_value(problem, "max_tokens")
        for name in TOLD:
            top, limit = getattr(body, name, None), self.limits.max_logprobs
            if isinstance(top, int) and top > limit:
                raise errors.invalid_value(
                    f"{name} is {top}; the server gives at most {limit}", name
                )
        tokens = self.setting("max_new_tokens", body.max_tokens)
        if tokens is None and isinstance(body, CompletionRequest):
            tokens = COMPLETION_TOKENS
        temperature = self.setting("temperature", body.temperature)
        if temperature is None:
            temperature = 0.0 if self.setting("do_sample") is False else 1.0
        elif temperature < LEAST:
            temperature = 0.0
        params = dict(body.params or {})
        arguments = {
            **{name: self.setting(name, getattr(body, name)) for name in SAMPLING},
            "params": params,
            "temperature": temperature,
            "seed": self.setting("seed", body.seed),
            "stop_strings": self.setting("stop_strings", body.stop or None),
            "num_return_sequences": self.setting("num_return_sequences", body.n) or 1,
            "eos_token_id": self.setting("eos_token_id"),
            "logprobs": body.with_logprobs,
            "top_logprobs": body.best,
            "logprobs_mode": self.setting("logprobs_mode", body.logprobs_mode) or "raw_logprobs",
            "sample_components": bool(self.setting("sample_components", body.sample_components)),
        }
        said = {"structured_outputs", "response_format"} & body.model_fields_set
        if said or body.constraint is not None:
            arguments["structured_outputs"] = body.constraint
        else:
            arguments["structured_outputs"] = self.setting("structured_outputs")
        if tokens is not None:
            arguments["max_new_tokens"] = min(tokens, most)
        draft = None if body.sample_components else self.run.generate.draft
        if "draft" in body.model_fields_set:
            draft = self.formulas.checked_draft(body.draft)
        if draft is not None:
            length = self.setting("draft_length", body.draft_length) or "adaptive"
            arguments["draft_length"] = length  # the formula that is compiled has the draft
        elif body.draft_length not in (None, "adaptive"):
            problem = "draft_length says how many tokens draft proposes; give draft, too"
            raise errors.invalid_value(problem, "draft_length")
        return FormulaRef(body.model, params, fields_of(arguments, False), draft), arguments

    def formula_ref(self, model: str, params: Mapping[str, float]) -> FormulaRef:
        """A formula with the run file's draft, for those who do not decode it."""
        return FormulaRef(model, params, draft=self.run.generate.draft)

    def setting(self, name: str, value: Any = None) -> Any:
        """A request's value, else the run file's of ``generate``; None where neither has one."""
        generate = self.run.generate
        if value is None and name in generate.model_fields_set:
            return getattr(generate, name)
        return value
