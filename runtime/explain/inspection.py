"""A completion explained token by token: generated as usual, then its steps are run again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...errors import ArgumentError
from ...formula import Plan, Term
from ...formula.algebra.liveness import needed_terms
from ...formula.printer import written
from ...grammar import did_you_mean
from ..loops.search.scheduler import SearchScheduler
from ..loops.teacher_forcing import teacher_forced
from ..notebook import frame, tabulated
from ..requests.answer import answer_to
from ..requests.per_row import at_least_one
from ..requests.request import Completion, Request
from ..session import Session
from .contributions import Explainer, coefficient
from .token_choice import Candidate, Choice, Part

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = 2
CONTEXT = 4  # tokens before one, which are decoded together with it


@dataclass(frozen=True)
class RewardModel:
    """A reward model of the formula.

    Attributes:
        name: as the formula has it.
        stage: that uses it.
        coefficient: there; None where it is in a function, and is not only multiplied.
    """

    name: str
    stage: str
    coefficient: float | None


@dataclass(frozen=True)
class Inspection:
    """Why each token of a completion was chosen.

    Attributes:
        formula: its canonical text.
        completion: the answer.
        temperature: 0 where the best token was taken.
        base: the term whose own choice each token is compared with.
        terms: of the formula, in the order of ``Candidate.logprobs``.
        parts: of the formula, in the order of ``Candidate.contributions``.
        rewards: the reward models, in the order of ``Candidate.rewards``.
        tokens: one choice per generated token.
        search: the stage that chose among whole texts, or None. The tokens are explained as the
            formula before it scored them in the text that it chose.
        search_score: the whole text's score by the search's reward expression, or None.
        search_terms: what each model in that says of the whole text, by its name: a reward, or the
            log-probability of the answer.
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
    search_terms: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON; NaN and infinities are None.

        Floats have nine digits, which tell every float32 from every other.
        """
        record = asdict(self)
        return {"schema": SCHEMA, **_rounded({**record, **record.pop("completion")})}

    def to_frame(self) -> DataFrame:
        """A row for each candidate of each token.

        Columns are ``step, token, chosen, chosen_by_base, id, text, rank, score, probability``,
        ``noise, removed_by``, one for each of ``parts`` (its contribution), ``logprob(term)`` for
        each of ``terms``, and ``reward(name)`` for each of ``rewards``.

        Raises:
            ArgumentError: pandas is not installed.
        """
        return frame([
            {
                "step": choice.step, "token": choice.text, "chosen": each.id == choice.id,
                "chosen_by_base": each.id == choice.base, "id": each.id, "text": each.text,
                "rank": each.rank, "score": each.score, "probability": each.probability,
                "noise": each.noise, "removed_by": each.removed_by,
            }
            | dict(zip([part.name for part in self.parts], each.contributions, strict=True))
            | _named("logprob", self.terms, each.logprobs)
            | _named("reward", [reward.name for reward in self.rewards], each.rewards)
            for choice in self.tokens
            for each in choice.candidates
        ])  # fmt: skip

    def _repr_html_(self) -> str:
        """The chosen tokens, for a notebook; marked are those that the base would not choose."""
        columns = ["", "token", "p", *(part.name for part in self.parts), "score"]
        columns.append(f"{self.base} alone")
        rows = []
        for choice in self.tokens:
            of = {each.id: each for each in choice.candidates}
            chosen, other = of[choice.id], of[choice.base]
            rows.append([
                choice.step + 1, _shown(chosen), chosen.probability, *chosen.contributions,
                chosen.score, _shown(other) if choice.changed else None,
            ])  # fmt: skip
        return tabulated(columns, rows, [choice.changed for choice in self.tokens])


def inspecting(
    session: Session,
    request: Request,
    base: str | None,
    n: int,
    tokens: Sequence[int] | None = None,
) -> Iterator[Inspection | None]:
    """Complete a request and explain each token of the answer, a step at a time.

    Args:
        session: of its formula.
        request: to complete.
        base: the term whose own choice each token is compared with; None for the first.
        n: candidates per token.
        tokens: the answer, where it is known already.

    Yields:
        None after each step; the inspection at the end.

    Raises:
        ValueError: no such base, or fewer than one candidate.
        FormulaError: NaN during a step.
    """
    at_least_one("n", n)
    engine, bound, plan = session.engine, session.bound, session.bound.plan
    term, search = base_of(plan, request.values, base), plan.search
    if tokens is None:
        for ended in session.decode([request], 1):
            [answer] = ended
            yield None
    else:
        answer = answer_to(request, bound, time.perf_counter())
        for token in tokens:
            answer.add(token)
        answer.finish_reason = answer.finish_reason or "length"
    completion = answer.completion(answer.started)
    own = [*request.values], term, n
    explainer = Explainer(plan, *own, samples=search is None, constraint=request.constraint)
    tokens = completion.token_ids
    choices: list[Choice] = []
    search_score, search_terms = None, dict[str, float]()
    read = [*tokens, *[0] * bool(search)]
    for batch, context, scores in teacher_forced(engine, request, read, record=True):
        if len(choices) < len(tokens):
            choices.append(explainer.choice(batch, context, scores, tokens[len(choices)]))
            yield None
        elif search:
            added = [choice.search_logprobs for choice in choices]
            search_score, said = SearchScheduler(engine, batch).value(added)
            search_terms = dict(zip(map(str, plan.search_terms), said, strict=True))
    stages = dict(plan.reranks)
    rewards = [
        RewardModel(
            str(term),
            written(stages[address]),
            coefficient(plan, stages[address].reward, term, request.values),
        )
        for address, _, term in explainer.rewards
    ]
    yield Inspection(
        plan.formula, completion, request.temperature, str(term), tuple(map(str, explainer.reads)),
        tuple(explainer.parts), tuple(rewards),
        tuple(_with_texts(choices, request.prompts[bound.text_term], bound.tokenizer)),
        written(search[1]) if search else None, search_score, search_terms,
    )  # fmt: skip


def base_of(plan: Plan, values: Sequence[float], name: str | None) -> Term:
    """The term to compare with: the named one, or the first that the row reads.

    Raises:
        ValueError: no term of that name, or one that this row does not read.
    """
    read = sorted(needed_terms(plan, values), key=lambda term: plan.spans[term])
    for term in read:
        if name is None or str(term) == name:
            return term
    names = [str(term) for term in read]
    cure = did_you_mean(str(name), names) or f"use one of {', '.join(names)}"
    idle = name in [str(term) for term in plan.terms]
    where = " with a coefficient that is not 0 here" if idle else ""
    raise ArgumentError(f"the formula has no term {name}{where}; {cure}")


def _with_texts(choices: Sequence[Choice], before: Sequence[int], tokenizer: Any) -> list[Choice]:
    """The choices with their tokens' text."""
    if tokenizer is None:
        return [*choices]
    read, explained = [*before], []
    for choice in choices:
        last = read[-CONTEXT:]
        texts = {item.id: _text(item.id, last, tokenizer) for item in choice.candidates}
        candidates = tuple(replace(item, text=texts[item.id]) for item in choice.candidates)
        explained.append(replace(choice, text=texts[choice.id], candidates=candidates))
        read.append(choice.id)
    return explained


def _text(token: int, before: Sequence[int], tokenizer: Any) -> str:
    """The text that a token adds; its name where that is no complete character."""
    start = tokenizer.decode([*before])
    end = tokenizer.decode([*before, token])
    text: str = end[len(start) :] if end.startswith(start) else tokenizer.decode([token])
    if text.strip("\N{REPLACEMENT CHARACTER}"):
        return text
    return str(tokenizer.convert_ids_to_tokens(token))


def _rounded(value: Any) -> Any:
    match value:
        case Mapping():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
        case float():
            return float(f"{value:.9g}")
    return value


def _named(kind: str, names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    return {f"{kind}({name})": value for name, value in zip(names, values, strict=True)}


def _shown(candidate: Candidate) -> str:
    return str(candidate.id) if candidate.text is None else repr(candidate.text)[1:-1]
