"""A completion explained token by token: made as any other, then read again with its steps open."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...formula import Plan, Term
from ...formula.algebra.liveness import needed
from ...formula.printer import written
from ...grammar import did_you_mean
from ..engine.engine import Engine
from ..loops.decode import decode
from ..loops.search import SearchScheduler
from ..loops.teacher_forcing import teacher_forced
from ..requests.request import Answer, Completion, Request
from .contributions import Explainer
from .token_choice import Choice, Part

SCHEMA = 1
CONTEXT = 4  # tokens before one, with which its text is told


@dataclass(frozen=True)
class RewardModel:
    """A reward model of the formula: its name, the stage that asks it, its coefficient there."""

    name: str
    stage: str
    coefficient: float


@dataclass(frozen=True)
class Inspection:
    """Why each token of a completion was chosen.

    Attributes:
        formula: its canonical text.
        completion: what was generated.
        temperature: 0 where the best token was taken.
        base: the term that is asked what it would have chosen alone.
        terms: the formula's terms, which ``Candidate.logprobs`` belong to.
        parts: what ``Candidate.contributions`` belong to.
        rewards: the reward models, which ``Candidate.rewards`` belong to.
        tokens: one choice per generated token.
        search: the stage that chose among whole texts, or None. The tokens are explained as the
            formula before it scored them in the text that it chose.
        judged: what the search's models say of the whole text.
    """

    formula: str
    completion: Completion
    temperature: float
    base: str
    terms: tuple[str, ...]
    parts: tuple[Part, ...]
    rewards: tuple[RewardModel, ...]
    tokens: tuple[Choice, ...]
    search: str | None = None
    search_score: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON; what is not a number is None.

        Floats have nine digits, which tell every float32 from every other.
        """
        said = asdict(self)
        return {"schema": SCHEMA, **_plain({**said, **said.pop("completion")})}


def inspecting(
    engine: Engine, request: Request, base: str | None, n: int, tokens: Sequence[int] | None = None
) -> Iterator[Inspection | None]:
    """Complete a request and explain each token of the answer, a step at a time.

    Args:
        engine: of its formula.
        request: what is asked.
        base: the term that is asked what it would have chosen alone; the first where it is None.
        n: candidates per token.
        tokens: the answer, where it is known already.

    Yields:
        None after each step; the inspection at the end.

    Raises:
        ValueError: no such base, or fewer than one candidate.
        FormulaError: NaN during a step.
    """
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    bound, plan = engine.bound, engine.bound.plan
    term, search = base_of(plan, request.values, base), plan.search
    if tokens is None:
        for told in decode(engine, [request], 1):
            [answer] = told
            yield None
    else:
        answer = Answer(request, bound.tokenizer, time.perf_counter())
        for token in tokens:
            answer.add(token)
        answer.finish_reason = answer.finish_reason or "length"
    completion = answer.completion(answer.started)
    explainer = Explainer(plan, [*request.values], term, n, draws=search is None)
    tokens = completion.token_ids
    choices: list[Choice] = []
    search_score = None
    for batch, context, scores in teacher_forced(
        engine, request, [*tokens, *[0] * bool(search)], True
    ):
        if len(choices) < len(tokens):
            choices.append(explainer.choice(batch, context, scores, tokens[len(choices)]))
            yield None
        elif search:
            said = [choice.search_score for choice in choices]
            search_score = SearchScheduler(engine, batch).value(len(tokens), said)
    before = next((read for read in request.prompts if not isinstance(read, str)), ())
    yield Inspection(
        plan.formula, completion, request.temperature, str(term), tuple(map(str, plan.terms)),
        tuple(explainer.parts),
        tuple(
            RewardModel(str(one), written(dict(plan.reranks)[place]),
                        request.values[plan.columns[coefficient]])
            for place, _, coefficient, one in explainer.rewards
        ),
        tuple(_told(choices, before, bound.tokenizer)),
        written(search[1]) if search else None, search_score,
    )  # fmt: skip


def base_of(plan: Plan, values: Sequence[float], name: str | None) -> Term:
    """The term that is asked what it would have chosen alone: the first that the row reads.

    Raises:
        ValueError: no term of that name, or one that this row does not read.
    """
    read = sorted(needed(plan, plan.scores, values), key=lambda term: plan.spans[term])
    for term in read:
        if name is None or str(term) == name:
            return term
    names = [str(term) for term in read]
    cure = did_you_mean(str(name), names) or f"use one of {', '.join(names)}"
    idle = (
        " with a coefficient that is not 0 here"
        if name in [str(term) for term in plan.terms]
        else ""
    )
    raise ValueError(f"the formula has no term {name}{idle}; {cure}")


def _told(choices: Sequence[Choice], before: Sequence[int], tokenizer: Any) -> list[Choice]:
    """The choices with their tokens' text."""
    if tokenizer is None:
        return [*choices]
    read, told = [*before], []
    for choice in choices:
        last = read[-CONTEXT:]
        named = {one.id: _text(one.id, last, tokenizer) for one in choice.candidates}
        candidates = tuple(replace(one, text=named[one.id]) for one in choice.candidates)
        told.append(replace(choice, text=named[choice.id], candidates=candidates))
        read.append(choice.id)
    return told


def _text(token: int, before: Sequence[int], tokenizer: Any) -> str:
    """What a token adds to the text before it; its name where that is no whole character."""
    start = tokenizer.decode([*before])
    whole = tokenizer.decode([*before, token])
    text: str = whole[len(start) :] if whole.startswith(start) else tokenizer.decode([token])
    if text.strip("\N{REPLACEMENT CHARACTER}"):
        return text
    return str(tokenizer.convert_ids_to_tokens(token))


def _plain(value: Any) -> Any:
    match value:
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float():
            return float(f"{value:.9g}")
    return value
