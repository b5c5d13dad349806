"""The request builder: a call's arguments become requests, checked before decoding."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import ArgumentError
from ...formula import Plan
from ...formula.algebra.liveness import needed_terms
from ...formula.request_fields import AFTER
from ...grammar import Span
from ...models import ModelError, is_ids
from ...models.text.chat import RawTextLog
from ...models.text.chat_options import chat_options, options_of, with_options
from ...models.text.encoding.prompt_encoder import ReadPrompt, plain
from ..binding.bound import Bound
from ..binding.chats import check_chat
from ..binding.checks import check_count
from ..binding.images import with_eyes
from ..constraints.spec import Constraint
from ..constraints.states import THOUGHT
from ..scores.noise import seed_key
from .by_component import check_sample_components
from .by_particles import check_particles
from .constrained import check_constrained, constraints_of, thought_before
from .hints import refuse
from .per_row import (
    FIELDS,
    Row,
    RowFields,
    at_least_one,
    eos_of,
    integer,
    logprobs_of,
    per_row,
    row_fields,
    rows_of,
    stop_strings_of,
    temperature_of,
)
from .request import RAW, DraftOptions, Request, check_ids

_log = logging.getLogger("descant")


class RequestBuilder:
    """Makes the requests of one bound plan.

    Args:
        bound: the plan.
        params: its values where a call gives none.
        raw_text: warns of text that models read raw; its own where it is left out.
    """

    def __init__(
        self, bound: Bound, params: Mapping[str, float], raw_text: RawTextLog | None = None
    ) -> None:
        self._bound, self._params = bound, params
        self._raw_text = raw_text or RawTextLog()
        self._known = {*bound.own_plan.params, *params}

    def rows(self, prompts: Any, params: Mapping[str, Any] | None) -> list[Row]:
        """Per row its prompt and a value for every parameter, as ``rows_of``."""
        return rows_of(prompts, self._params, params, self._known)

    def requests(
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
        top_logprobs: int = 0,
        logprobs_mode: str = RAW,
        draft: DraftOptions | None = None,
        sample_components: bool = False,
        return_particles: bool = False,
        structured_outputs: Any = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | None = None,
        **others: Any,
    ) -> list[Request]:
        """A request per row; the arguments are those of ``Decoder.generate``.

        Raises:
            FormulaError: a parameter or number out of bounds.
            ModelError: a prompt that some model cannot read, or that is too long.
            ValueError: arguments that do not fit together.
        """
        fields = {name: others.pop(name) for name in FIELDS if name in others}
        refuse(others, self._known)
        max_new_tokens = at_least_one("max_new_tokens", max_new_tokens)
        num_return_sequences = at_least_one("num_return_sequences", num_return_sequences)
        ending = add_generation_prompt, continue_final_message
        options = chat_options(chat_template_kwargs, tools, *ending)
        rows = [(with_options(prompt, options), v) for prompt, v in self.rows(prompts, params)]
        for prompt, _ in rows:
            check_chat(self._bound, plain(prompt))
        seeds = self._seeds(seed, len(rows))
        if self._bound.plan.searches_at_random and temperature is None and do_sample is None:
            do_sample = True  # a search needs texts that differ
        settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens, "stops": stop_strings_of(stop_strings),
            **logprobs_of(logprobs, top_logprobs, logprobs_mode, self._bound.vocabulary),
            "draft": draft,
        }  # fmt: skip
        if logprobs:
            refuse_search(self._bound, "logprobs", "its answer is chosen among several")
        heats = per_row(temperature, len(rows), "temperature")
        if sample_components and temperature is None and do_sample is None:
            do_sample = True
        temperatures = [temperature_of(heat, do_sample) for heat in heats]
        others_asked = logprobs, draft is not None
        if check_sample_components(self._bound, sample_components, temperatures, *others_asked):
            settings["sample_components"] = True
        check_particles(self._bound, return_particles, temperatures)
        settings["return_particles"] = return_particles
        constraints = constraints_of(structured_outputs, len(rows), self._bound)
        check_constrained(constraints, settings)
        requests: list[Request] = []
        vocabulary = self._bound.vocabulary
        eos = eos_of(eos_token_id, vocabulary)
        fields_of_rows = row_fields(fields, temperatures, vocabulary, self._bound.fields)
        each_row = zip(rows, seeds, temperatures, constraints, fields_of_rows, strict=True)
        for (prompt, values), row_seed, heat, constraint, own in each_row:
            settings |= {"temperature": heat, "constraint": constraint, "fields": own, "eos": eos}
            for sample in range(num_return_sequences):
                key = seed_key(row_seed, sample)
                requests.append(self.request(len(requests), prompt, values, key=key, **settings))
        if short := sum(request.max_new_tokens < max_new_tokens for request in requests):
            _log.warning(
                "%d of %d rows have room for fewer than max_new_tokens=%d tokens: the models read "
                "at most %d", short, len(requests), max_new_tokens, self._bound.positions,
            )  # fmt: skip
        self._raw_text.warn(self._bound.raw_text_models, (plain(each) for each, _ in rows))
        return requests

    def _seeds(self, seed: int | Sequence[int] | None, rows: int) -> list[int]:
        """A seed per row; a random one, the same on all ranks, for a row without."""
        random = [secrets.randbits(63) for _ in range(rows)]
        if self._bound.term_parallel is not None:
            random = self._bound.term_parallel.broadcast(random)
        pairs = zip(per_row(seed, rows, "seed"), random, strict=True)
        return [default if value is None else integer("seed", value) for value, default in pairs]

    def request(
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
        top_logprobs: int = 0,
        logprobs_mode: str = RAW,
        draft: DraftOptions | None = None,
        sample_components: bool = False,
        return_particles: bool = False,
        constraint: Constraint | None = None,
        fields: RowFields | None = None,
        strict: bool = False,
    ) -> Request:
        """The request of one row, from checked values: those of ``Request``.

        Args:
            max_new_tokens: at most; fewer where there is less room.
            eos: None for the models' own.
            fields: those of the row; None for none.
            strict: whether too little room is an error; the last token then needs none.
        """
        bound, plan = self._bound, self._bound.plan
        if stops and bound.tokenizer is None:
            raise ArgumentError("stop_strings need a tokenizer; give tokenizer: … with the model")
        if fields is None:
            [fields] = row_fields({}, [temperature], bound.vocabulary, bound.fields)
        values, of_fields = [], fields.params
        if self._bound.fields[1]:  # the scores come divided by the temperature
            of_fields = {**of_fields, AFTER[0].parameter: temperature or 1.0}
            temperature = 1.0 if temperature > 0 else 0.0
        for each in (plan, *(draft_plan.plan for draft_plan in bound.draft_plans)):
            values += checked_values(each, {**params, **of_fields}, bound.vocabulary)
        if not needed_terms(plan, values):
            problem = "every coefficient is 0 for these parameters, so that nothing decides"
            raise plan.error(problem, Span(0, len(plan.source)))
        read, prompt = prompt, plain(prompt)
        if is_ids(prompt):
            check_ids(prompt, bound.vocabulary, "prompt")
        prompt = with_options(with_eyes(bound, prompt), options_of(prompt))
        readings = readings_of(bound, prompt, read)
        prompts: list[Any] = [next(readings) for _ in bound.terms]
        rewards = {i: [next(readings) for _ in terms] for i, terms in bound.rewards.items()}
        request = Request(
            index, prompt, prompts, rewards, values, dict(params), temperature, key, max_new_tokens,
            fields.eos(bound.eos if eos is None else eos), stops, _rooms(bound, prompts), logprobs,
            top_logprobs, logprobs_mode, draft,
            [next(readings) for _ in bound.draft_terms],
            sample_components, return_particles, constraint, fields.logit_bias, fields.text,
            fields.dry_sequence_breakers,
        )  # fmt: skip
        if constraint is not None and (thought := thought_before(bound, request)) is not None:
            request.states[THOUGHT] = thought
        return replace(request, max_new_tokens=_fitting(bound, request, strict))


def readings_of(bound: Bound, prompt: Any, read: Any) -> Iterator[Any]:
    """What each term reads of a prompt: what ``read`` says, if it was read, and else now."""
    terms = bound.all_terms
    known = read.readings if isinstance(read, ReadPrompt) else [None] * len(terms)
    for term, reading in zip(terms, known, strict=True):
        yield term.reads(prompt) if reading is None else reading


def checked_values(plan: Plan, params: Mapping[str, float], vocabulary: int) -> list[float]:
    """A plan's numbers for one request; errors are those of ``Plan.values``."""
    values = plan.values(params)
    for scalar, value in zip(plan.scalars, values, strict=True):
        if scalar.limits.tokens:
            check_count(plan, scalar.what, scalar.span, value, vocabulary)
    return values


def refuse_search(bound: Bound, verb: str, why: str) -> None:
    """Refuse a formula that searches, by a ValueError: what it cannot do, and why."""
    if bound.plan.search:
        name = bound.plan.search[1].name
        raise ArgumentError(f"{verb} is not for a formula that ends in {name}: {why}")


def _rooms(bound: Bound, prompts: Sequence[Any]) -> list[tuple[Sequence[Sequence[int]], int]]:
    """For each term of another vocabulary that reads some token as several: its ids, its room."""
    return [
        (token_map.reads, bound.positions - len(ids))
        for term, ids in zip(bound.terms, prompts, strict=True)
        if (token_map := term.token_map) is not None and token_map.longest > 1 and bound.positions
    ]


def _fitting(bound: Bound, request: Request, strict: bool) -> int:
    """The tokens that fit after a request's prompts, at most those that it wants."""
    wanted, limit = request.max_new_tokens, bound.positions
    if limit is None:
        return wanted
    room = limit - request.longest - bound.plan.tokens_ahead(request.values)
    if room < (wanted - 1 if strict else 1):
        problem = f"the prompt has {request.longest} tokens, and the models read at most {limit}"
        raise ModelError(problem, "shorten it; nothing is cut silently")
    return min(wanted, room)
