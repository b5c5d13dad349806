"""The jobs of the decode process between two steps: compile, forget, score, print, explain.

Each job is a generator that advances once between two steps, so that no row waits for all of it.
Its return value is the reply.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

from ...errors import ArgumentError, DescantError
from ...runtime.constraints.spec import Constraint
from ..protocol.messages import (
    AddModel,
    Command,
    Compile,
    DetokenizeJob,
    Forget,
    FormulaEncoders,
    InspectJob,
    PlanJob,
    RemoveModel,
    ScoreJob,
    Start,
    Started,
    Submit,
    TokenizeJob,
)
from .encoders import EncoderPickles

if TYPE_CHECKING:
    from ...runtime import Served, Service
    from ...scoring.rewards import RewardScorer

Job = Generator[None, None, Any]
PIECE = 256  # tokens that are scored between two steps
SLICE = 0.002  # seconds that are waited for a thread between two steps


class Jobs:
    """The service of a server, and the jobs that use it.

    Attributes:
        service: decodes the formulas.
        formulas: compiled, by their numbers.

    Raises:
        FormulaError, ModelError: as ``Service.decoder``.
        ValueError: the run file's ``eos_token_id`` is no token of a formula.
    """

    def __init__(self, start: Start) -> None:
        from ...api import where
        from ...runtime import Service
        from ...runtime.requests.constrained import constraints_of
        from ...runtime.requests.per_row import eos_of

        run, limits = start.run, start.limits
        dtype, device = where(run.dtype, run.device)
        self._declared = run.models, dtype, device
        self.service: Service = Service(
            run.models, prompts=run.prompts, schemas=run.schemas, grammars=run.grammars,
            slots=limits.slots,
            max_model_len=limits.max_model_len, dtype=dtype, device=device, capture=run.capture,
            cache=run.cache,
        )  # fmt: skip
        self.formulas: dict[int, Served] = {}
        self._scorers: dict[str, RewardScorer] = {}  # loaded on first use
        self._pickles = EncoderPickles()
        for formula in start.formulas:
            decoder = self._compile(formula)
            bound = decoder.session.bound
            eos_of(run.generate.eos_token_id, bound.vocabulary)
            constraints_of(run.generate.structured_outputs, 1, bound)
        self.service.warm_up()

    def job(self, command: Command) -> Job:
        """The job of a command."""
        match command:
            case Compile():
                self._compile(command)
                return self._encoders(command.formula)
            case Forget():
                decoder = self.formulas.pop(command.formula, None)  # it may have been cancelled
                if decoder is not None:
                    while self.service.has_requests(decoder):  # its last rows have not ended
                        yield
                    self.service.forget(decoder)
            case AddModel():
                self.service.add_model(command.name, command.spec)
            case RemoveModel():
                while self.service.has_model(command.name):
                    yield
                self.service.remove_model(command.name)
            case PlanJob():
                return str(self.formulas[command.formula].plan)
            case TokenizeJob():
                return (yield from _result(partial(self._token_ids, command)))
            case DetokenizeJob():
                return (yield from _result(partial(self._text, command)))
            case ScoreJob():
                return (yield from self._score(command))
            case InspectJob():
                alone = self.formulas[command.formula].alone()  # with caches of its own
                for inspection in alone.inspecting(command.prompt, **command.arguments):
                    if inspection is not None:
                        return inspection.as_dict()
                    yield
            case _:
                raise TypeError(f"{type(command).__name__} is no job")

    def compiling(self, command: Submit) -> Job | None:
        """Compiles a request's constraint while others are decoded; None where none has to be."""
        from ...runtime.constraints.compiled import compiled, is_compiled

        constraint = command.arguments.get("structured_outputs")
        decoder = self.formulas.get(command.formula)
        if not isinstance(constraint, Constraint) or decoder is None or decoder.tokenizer is None:
            return None
        tokens = decoder.session.bound.constraints.tokens
        if is_compiled(constraint, tokens):
            return None
        thread = Thread(target=_quietly, args=(compiled, constraint, tokens), daemon=True)
        thread.start()
        return _ended(thread)

    def started(self) -> Started:
        """The reply to ``Start``."""
        lengths = {number: decoder.max_length for number, decoder in self.formulas.items()}
        encoders = {number: self._encoders(number) for number in self.formulas}
        return Started(self.reward_models(), lengths, encoders)

    def _encoders(self, formula: int) -> FormulaEncoders:
        """How a formula reads prompts."""
        return self._pickles.of(self.formulas[formula].session.bound.encoders)

    def reward_models(self) -> list[str]:
        """The names of the models that can score complete texts; loads no weights."""
        from ...scoring.declared import is_reward_model

        return [name for name in self._declared[0] if is_reward_model(name, *self._declared)]

    def _compile(self, command: Compile) -> Served:
        options = command.fields, command.draft, command.plan
        decoder = self.service.decoder(command.text, command.params, *options)
        self.formulas[command.formula] = decoder
        return decoder

    def _token_ids(self, command: TokenizeJob) -> tuple[list[int], list[str]]:
        """The ids of a text, or of what the formula reads of messages, and their names."""
        from ...models.text.prompts import text_ids

        bound = self.formulas[command.formula].session.bound
        tokenizer, term = self._tokenizer(command.formula), bound.terms[bound.text_term]
        if isinstance(command.prompt, str):
            ids = text_ids(tokenizer, command.prompt, command.special)
        else:
            reading: Any = term.reads(command.prompt)
            ids = term.formula_ids(reading)
        return ids, list(map(str, tokenizer.convert_ids_to_tokens(ids)))

    def _text(self, command: DetokenizeJob) -> str:
        """The text of a formula's tokens."""
        from ...runtime.requests.request import check_ids

        bound = self.formulas[command.formula].session.bound
        tokenizer = self._tokenizer(command.formula)
        check_ids(command.token_ids, bound.vocabulary, "text", tokenizer)
        return str(tokenizer.decode(list(command.token_ids)))

    def _tokenizer(self, formula: int) -> Any:
        tokenizer = self.formulas[formula].session.bound.tokenizer
        if tokenizer is None:
            raise ArgumentError("the formula's models have no tokenizer")
        return tokenizer

    def _score(self, command: ScoreJob) -> Job:
        """Scores texts of a few tokens at a time, which a thread has encoded."""
        import torch

        from ...scoring.rewards import RewardScorer

        if command.model not in self._scorers:
            weights, longest = self.service.weights, self.service.max_model_len
            scorer = RewardScorer(
                command.model, *self._declared, weights, longest=longest,
                raw_text=self.service.raw_text,
            )  # fmt: skip
            self._scorers[command.model] = scorer
        scorer = self._scorers[command.model]
        encode = partial(scorer.encoded, command.prompts, command.answers)
        encodings, counts = yield from _result(encode)
        outputs, first, tokens = [], 0, 0
        for end, encoding in enumerate(encodings, 1):
            tokens += len(encoding["input_ids"])
            if tokens >= PIECE or end == len(encodings):
                outputs.append(scorer.outputs(encodings[first:end]))
                first, tokens = end, 0
                yield
        return scorer.rewards(torch.cat(outputs), counts)


def _quietly(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function whose error another call will raise again."""
    with suppress(DescantError, ImportError):
        function(*arguments)


def _result(function: Callable[[], Any]) -> Job:
    """What a function returns, or raises, in a thread."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function)
        while not wait([future], SLICE).done:
            yield
    return future.result()


def _ended(thread: Thread) -> Job:
    while thread.is_alive():
        thread.join(SLICE)
        yield
