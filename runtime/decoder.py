"""The decoder: a formula bound to its models, and the verbs a user calls on it."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..formula.needs import needed
from ..grammar import Span
from ..models import ModelError, Prompt, is_ids
from .arguments import eos_of, per_row, refuse, rows_of, stop_strings_of, temperature_of
from .bind import check_count
from .bound import Bound
from .engine import Engine
from .given import check_given, paired
from .inspection import Inspection, inspected
from .noise import seed_key
from .rendered import Rendered, rendered
from .report import Report
from .requests import Answer, Completion, Request, ids_of
from .search import Searcher
from .teacher import Likelihood, likelihoods

_log = logging.getLogger("descant")
_HEARD = 0.8  # of an aligned model's probability; a warning where less goes to the formula's tokens


class Decoder:
    """A compiled formula. Made by ``descant.compile``.

    Attributes:
        plan: what each step does and costs; ``print(decoder.plan)``.
        tokenizer: of the formula's models, or None.
        max_length: tokens of the longest text that every model can read, or None.
    """

    def __init__(
        self, bound: Bound, params: Mapping[str, float] | None = None, capture: bool = False
    ) -> None:
        self._bound, self._params = bound, dict(params or {})
        self._engine = Engine(bound, capture)
        self._runner = Searcher(self._engine) if bound.plan.search else self._engine
        asked = self._engine.capture if capture else None
        self.plan = Report(bound, self._params, self._engine.spent, asked)
        self.tokenizer, self.max_length = bound.tokenizer, bound.positions
        self._known = {*bound.plan.params, *self._params}

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        temperature: float | Sequence[float] | None = None,
        do_sample: bool | None = None,
        seed: int | Sequence[int] | None = None,
        params: Mapping[str, float | Sequence[float]] | None = None,
        num_return_sequences: int = 1,
        stop_strings: str | Sequence[str] | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        logprobs: bool = False,
        batch_size: int = 32,
        progress: bool | None = None,
        **others: Any,
    ) -> list[Completion]:
        """Complete one prompt or many.

        Args:
            prompts: text, chat messages or token ids, or a list of them.
            max_new_tokens: tokens after which a row ends.
            temperature: 0 takes the best token; above 0 draws from softmax(scores / temperature);
                one for all or one per prompt.
                Left out, it is 0, or 1 where ``do_sample`` is true or the formula searches.
            do_sample: as in transformers: false takes the best token, true draws.
            seed: of the noise, one for all or one per prompt; a row's tokens depend on its own
                seed and on nothing else. Left out, it is different every time.
            params: values for the formula's parameters: a number, or a list with one per prompt.
                One prompt is repeated for every value of a list.
            num_return_sequences: draws per prompt, next to each other in the answer.
            stop_strings: text at which a row ends; not part of the answer.
            eos_token_id: ids that end a row, instead of the models' own.
            logprobs: say with each completion how likely each of its tokens was, in what it was
                drawn from; not for a formula that searches.
            batch_size: rows decoded at once.
            progress: a progress bar; left out, only on a terminal and for more than one row.

        Returns:
            One completion per row, in the order of the prompts.

        Raises:
            FormulaError: a parameter or number out of bounds; NaN during a step.
            ModelError: a prompt that some model cannot read, or that is too long.
            ValueError: arguments that do not fit together.
        """
        found = dict(
            self.as_completed(
                prompts, max_new_tokens=max_new_tokens, temperature=temperature,
                do_sample=do_sample, seed=seed, params=params, stop_strings=stop_strings,
                num_return_sequences=num_return_sequences, eos_token_id=eos_token_id,
                logprobs=logprobs, batch_size=batch_size, progress=progress, **others,
            )
        )  # fmt: skip
        return [found[index] for index in sorted(found)]

    def as_completed(
        self, prompts: Prompt | Sequence[Prompt], **arguments: Any
    ) -> Iterator[tuple[int, Completion]]:
        """Complete prompts, yielding each row's number and completion as soon as it has ended.

        Args:
            prompts: as for ``generate``.
            **arguments: those of ``generate``.
        """
        batch_size, progress = arguments.pop("batch_size", 32), arguments.pop("progress", None)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        return self._completed(self._requests(prompts, **arguments), batch_size, progress)

    def stream(self, prompt: Prompt, **arguments: Any) -> Iterator[Any]:
        """Complete one prompt, yielding text as it comes.

        Args:
            prompt: text, chat messages or token ids.
            **arguments: those of ``generate``, for one row.

        Yields:
            Pieces of text that add up to the completion's; token ids where there is no tokenizer.
        """
        arguments.pop("progress", None)
        self._refuse_search("stream", "its answer is known when the search has ended")
        requests = self._requests(prompt, **arguments)
        if len(requests) != 1:
            raise ValueError(f"stream takes one prompt, and this is {len(requests)} rows")
        return self._pieces(requests[0])

    def scores(
        self,
        prompt: Prompt,
        completion_ids: Sequence[int],
        *,
        params: Mapping[str, float] | None = None,
    ) -> Tensor:
        """The formula's scores along a given completion, without drawing anything.

        Args:
            prompt: text, chat messages or token ids.
            completion_ids: the tokens that follow it.
            params: values for the formula's parameters.

        Returns:
            ``(len(completion_ids) + 1, V)`` float32 in natural logarithms, masked tokens minus
            infinity: row i scores the token after the first i.
        """
        self._refuse_search("scores", "a search gives texts, and no scores of a token")
        [(_, values)] = rows_of(prompt, self._params, params, self._known)
        ids = [int(token) for token in completion_ids]
        request = self._request(0, prompt, values, max_new_tokens=len(ids) + 1, strict=True)
        check_given(self._bound, request, ids, read=len(ids))
        return self._engine.score(request, ids)

    def loglikelihood(
        self,
        prompts: Prompt | Sequence[Prompt],
        completions: Sequence[str] | Sequence[Sequence[int]],
        *,
        params: Mapping[str, float | Sequence[float]] | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> list[Likelihood]:
        """How likely given completions are, read in batches; not for a formula that searches.

        Args:
            prompts: as for ``generate``, and so is all that has a name of its arguments.
            completions: one per prompt, or many of one prompt: token ids, or text that follows the
                prompt's tokens, encoded by itself and without special tokens.
        """
        self._refuse_search("loglikelihood", "it chooses among whole texts; generate works")
        prompts, given = paired(prompts, completions, params, self.tokenizer)
        rows = rows_of(prompts, self._params, params, self._known)
        requests = [
            self._request(i, *row, max_new_tokens=max(1, len(ids)), strict=True)
            for i, (row, ids) in enumerate(zip(rows, given, strict=True))
        ]
        found = likelihoods(self._engine, requests, given, batch_size, progress)
        self._warn()
        return found

    def rendered(self, prompt: Prompt) -> list[Rendered]:
        """What each term and each reward model reads of a prompt, token by token.

        Args:
            prompt: text, chat messages or token ids.

        Raises:
            ModelError: a model has no way to read this prompt.
        """
        return rendered(self._bound, prompt)

    def inspect(
        self, prompt: Prompt, *, n: int = 10, base: str | None = None, **arguments: Any
    ) -> Inspection:
        """Complete one prompt, and say why each token was chosen.

        Args:
            prompt: text, chat messages or token ids.
            n: candidates per token.
            base: the term that is asked what it alone would have chosen, as the formula writes it;
                left out, the first.
            **arguments: those of ``generate``, for one row.

        Returns:
            Per token the candidates, and what each part of the formula added to each.

        Raises:
            ValueError: no such term, more than one row, or arguments that do not fit together.
        """
        for only in ("progress", "batch_size"):
            arguments.pop(only, None)
        requests = self._requests(prompt, **arguments)
        if len(requests) != 1:
            raise ValueError(f"inspect takes one prompt, and this is {len(requests)} rows")
        return inspected(self._engine, self._runner, requests[0], base, n)

    def _requests(
        self,
        prompts: Any,
        *,
        max_new_tokens: int = 128,
        temperature: float | Sequence[float] | None = None,
        do_sample: bool | None = None,
        seed: int | Sequence[int] | None = None,
        params: Mapping[str, Any] | None = None,
        num_return_sequences: int = 1,
        stop_strings: str | Sequence[str] | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        logprobs: bool = False,
        **others: Any,
    ) -> list[Request]:
        refuse(others)
        rows = rows_of(prompts, self._params, params, self._known)
        seeds = per_row(seed, len(rows), "seed")
        if self._bound.plan.search and temperature is None and do_sample is None:
            do_sample = True  # a search over one greedy text would search nothing
        settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "stops": stop_strings_of(stop_strings),
            "eos": eos_of(eos_token_id),
            "logprobs": logprobs,
        }
        if logprobs:
            self._refuse_search("logprobs", "its answer is chosen among several")
        heats = temperature if isinstance(temperature, Sequence) else [temperature] * len(rows)
        warm = [temperature_of(t, do_sample) for t in per_row(heats, len(rows), "temperature")]
        requests: list[Request] = []
        drawn = [secrets.randbits(63) for _ in seeds]
        if self._bound.ranks is not None:
            drawn = self._bound.ranks.agreed(drawn)
        for (prompt, values), given, free, heat in zip(rows, seeds, drawn, warm, strict=True):
            settings["temperature"] = heat
            own = free if given is None else int(given)
            for sample in range(num_return_sequences):
                key = seed_key(own, sample)
                requests.append(self._request(len(requests), prompt, values, key=key, **settings))
        short = sum(request.max_new_tokens < max_new_tokens for request in requests)
        if short:
            _log.warning(
                "%d of %d rows have room for fewer than max_new_tokens=%d tokens: the models read "
                "at most %d", short, len(requests), max_new_tokens, self._bound.positions,
            )  # fmt: skip
        return requests

    def _completed(
        self, requests: Sequence[Request], batch_size: int, progress: bool | None
    ) -> Iterator[tuple[int, Completion]]:
        from tqdm.auto import tqdm

        hidden = not progress if progress is not None else (True if len(requests) < 2 else None)
        with tqdm(total=len(requests), disable=hidden, unit="row", desc="decoding") as bar:
            for answers in self._runner.run(requests, batch_size) if requests else ():
                for answer in answers:
                    if answer.finish_reason:
                        yield answer.request.index, answer.completion(time.perf_counter())
                        bar.update()
        self._warn()

    def _warn(self) -> None:
        """Say which models of another vocabulary were hardly heard in the last run."""
        for name, share in self._engine.spent.mapped().items():
            if share < _HEARD:
                _log.warning(
                    "align(%s): only %.0f%% of its probability went to tokens of the formula; "
                    "the rest is lost", name, 100 * share,
                )  # fmt: skip

    def _refuse_search(self, verb: str, why: str) -> None:
        if self._bound.plan.search:
            name = self._bound.plan.search[1].name
            raise ValueError(f"{verb} is not for a formula that ends in {name}: {why}")

    def _pieces(self, request: Request) -> Iterator[Any]:
        told = 0
        for [answer] in self._engine.run([request], 1):
            if self.tokenizer is None:
                yield answer.tokens[-1]
                continue
            text = answer.text() or ""
            end = len(text) if answer.finish_reason else _certain(text, answer)
            if end > told:
                yield text[told:end]
                told = end
        self._warn()

    def _request(
        self,
        index: int,
        prompt: Any,
        params: Mapping[str, float],
        *,
        key: tuple[int, int] = (0, 0),
        temperature: float = 0.0,
        max_new_tokens: int = 128,
        stops: tuple[str, ...] = (),
        eos: frozenset[int] | None = None,
        logprobs: bool = False,
        strict: bool = False,
    ) -> Request:
        bound, plan = self._bound, self._bound.plan
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
        if stops and bound.tokenizer is None:
            raise ValueError("stop_strings need a tokenizer; give tokenizer: … with the model")
        values = plan.values(params)
        _check_values(bound, values)
        self._check_ids(prompt)
        prompts = [reader.reads(prompt) for reader in bound.readers]
        rewards = {i: [r.reads(prompt) for r in readers] for i, readers in bound.rewards.items()}
        longest = max(map(len, ids_of(prompts, rewards)))
        return Request(
            index, prompt, prompts, rewards, values, dict(params), temperature,
            key, _fitting(bound, longest, max_new_tokens, strict),
            bound.eos if eos is None else eos, stops, _rooms(bound, prompts), logprobs,
        )  # fmt: skip

    def _check_ids(self, prompt: Any) -> None:
        if is_ids(prompt):
            for token in prompt:
                if not 0 <= token < self._bound.vocabulary:
                    raise ValueError(
                        f"the prompt has the token id {token}, and the vocabulary has "
                        f"{self._bound.vocabulary} tokens"
                    )


def _check_values(bound: Bound, values: Sequence[float]) -> None:
    plan = bound.plan
    for scalar, value in zip(plan.scalars, values, strict=True):
        if scalar.limits.tokens:
            check_count(plan, scalar.what, scalar.span, value, bound.vocabulary)
    if not needed(plan, plan.scores, values):
        raise plan.error(
            "every coefficient is 0 for these parameters, so that nothing decides",
            Span(0, len(plan.source)),
        )


def _rooms(bound: Bound, prompts: Sequence[Any]) -> list[tuple[Sequence[Sequence[int]], int]]:
    """What each term of another vocabulary reads, where it may run out of room first."""
    return [
        (found.reads, bound.positions - len(ids))
        for reader, ids in zip(bound.readers, prompts, strict=True)
        if (found := reader.counterparts) is not None and found.longest > 1 and bound.positions
    ]


def _fitting(bound: Bound, longest: int, wanted: int, strict: bool) -> int:
    """The tokens that fit after a prompt of ``longest``."""
    if bound.positions is None:
        return wanted
    room = bound.positions - longest
    if room < (wanted - 1 if strict else 1):
        raise ModelError(
            f"the prompt has {longest} tokens, and the models read at most {bound.positions}",
            "shorten it; nothing is cut silently",
        )
    return min(wanted, room)


def _certain(text: str, answer: Answer) -> int:
    """How much of a growing text cannot change: no half character, no beginning of a stop."""
    end = len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
    longest = max(map(len, answer.request.stops), default=1) - 1
    for size in range(min(longest, end), 0, -1):
        if any(stop.startswith(text[end - size : end]) for stop in answer.request.stops):
            return end - size
    return end
