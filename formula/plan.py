"""The plan: a checked and collected formula, ready to be bound to lanes.

planner.py makes it. The index of a number in `Plan.scalars` is its column in the runtime's tensor
of values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real

from ..errors import quoted
from ..grammar import FormulaError, Span
from ..grammar.errors import Marked
from .nodes import Linear, Node, Read, StageAddress, Staged, numbers, of_states, walk
from .scalar import Scalar, evaluate, parameters
from .terms import Term
from .words.operators import Operator
from .words.signature import MOST, Signature
from .words.stages import Lookahead, Rerank, Search, Stage


@dataclass(frozen=True)
class Plan(Marked):
    """What a formula computes.

    Two formulas with one meaning have equal plans: spans and the text itself do not compare. Where
    numbers are kept as written, so must the formulas be.

    Attributes:
        scores: the sum that the formula is.
        stages: what follows it, from left to right.
        formula: its canonical text.
        source: its text as given, which spans refer to.
        spans: where each term was first written.
        head_spans: where each head of a term was first written.
        reward_spans: where each term was first written in a reward expression, by that one's span.
        dropped: a line for each term that cancelled out.
        kept: how many numbers are as they are written, for to multiply them out is too much work.
        work: that it took to multiply out the others, in the unit of ``collect.WORK``.
    """

    scores: Linear
    stages: tuple[Stage, ...]
    formula: str = field(default="", compare=False)
    source: str = field(default="", compare=False)
    spans: Mapping[Term, Span] = field(default_factory=dict, compare=False, repr=False)
    head_spans: Mapping[Read, Span] = field(default_factory=dict, compare=False, repr=False)
    reward_spans: Mapping[tuple[Span, Term], Span] = field(
        default_factory=dict, compare=False, repr=False
    )
    dropped: tuple[str, ...] = field(default=(), compare=False)
    kept: int = field(default=0, compare=False)
    work: int = field(default=0, compare=False)

    @cached_property
    def roots(self) -> tuple[Node, ...]:
        """The scores, and each that a number of the state in a stage is of."""
        below = (scores for stage in self.stages for _, scores in of_states(stage))
        return self.scores, *dict.fromkeys(below)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The scores and everything below, what the stages' numbers are of too."""
        return tuple(node for scores in self.roots for node in walk(scores))

    @cached_property
    def stateful(self) -> tuple[Operator, ...]:
        """The operators that keep a state: every step evaluates them."""
        below = (node for node in self.nodes if isinstance(node, Operator) and node.keeps_state)
        return tuple(dict.fromkeys(below))

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The terms of the scores; a term has the same index here and in every list of rows."""
        return _sorted(read.term for read in self.reads)

    @cached_property
    def reads(self) -> tuple[Read, ...]:
        """What is read of the terms' rows, by the models' own heads and by declared ones."""
        reads = {node for node in self.nodes if isinstance(node, Read)}
        return tuple(sorted(reads, key=lambda read: (read.term.key, read.head)))

    @cached_property
    def all_reads(self) -> tuple[Read, ...]:
        """The same, and the models' own heads of terms that declared ones alone read."""
        return tuple(dict.fromkeys((*self.reads, *map(Read, self.terms))))

    @property
    def heads(self) -> tuple[Read, ...]:
        """Those by declared heads."""
        return tuple(read for read in self.reads if read.head)

    @cached_property
    def all_stages(self) -> tuple[tuple[StageAddress, Stage], ...]:
        """Every stage, and its address: those in parentheses first."""
        nested = dict.fromkeys(node for node in self.nodes if isinstance(node, Staged))
        chains: list[tuple[Staged | None, tuple[Stage, ...]]] = [(n, n.stages) for n in nested]
        return tuple(
            ((owner, i), stage)
            for owner, stages in [*chains, (None, self.stages)]
            for i, stage in enumerate(stages)
        )

    @cached_property
    def reranks(self) -> tuple[tuple[StageAddress, Rerank], ...]:
        """Every stage that reranks, and its address: those in parentheses first."""
        return tuple((at, stage) for at, stage in self.all_stages if isinstance(stage, Rerank))

    @property
    def search(self) -> tuple[StageAddress, Search] | None:
        """The stage that searches, which is the last, and its address; or None."""
        last = len(self.stages) - 1
        stage = self.stages[last] if self.stages else None
        return ((None, last), stage) if isinstance(stage, Search) else None

    @property
    def searches_at_random(self) -> bool:
        """Whether it draws where a request gives no temperature: the texts are to differ."""
        return self.search is not None and self.search[1].is_random

    def tokens_ahead(self, values: Sequence[float]) -> int:
        """Tokens that rows write behind those of an answer, to judge it; numbers as ``values``."""
        stage = self.search[1] if self.search else None
        return int(values[self.columns[stage.ahead]]) if isinstance(stage, Lookahead) else 0

    @cached_property
    def search_terms(self) -> tuple[Term, ...]:
        """The terms of the search's reward: of reward models and of language models."""
        return self.search[1].r.terms if self.search else ()

    @cached_property
    def rewards(self) -> tuple[Term, ...]:
        """The terms of the reward expressions."""
        return _sorted(term for _, stage in self.reranks for term in stage.reward.terms)

    @cached_property
    def scalars(self) -> tuple[Scalar, ...]:
        """Every distinct number; its index is its column in the tensor of values."""
        inner = (scalar for node in self.nodes for scalar in numbers(node))
        outer = (scalar for stage in self.stages for scalar in numbers(stage))
        judges = (*self.rewards, *self.search_terms)
        added = (number for term in judges for number, _ in term.additions)
        return tuple(dict.fromkeys([*inner, *outer, *added]))

    @cached_property
    def columns(self) -> Mapping[Scalar, int]:
        """The column of each number."""
        return {scalar: column for column, scalar in enumerate(self.scalars)}

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models whose weights are loaded, in order of writing."""
        terms = sorted(
            (*self.terms, *self.rewards, *self.search_terms), key=lambda term: self.spans[term]
        )
        return tuple(dict.fromkeys(term.model for term in terms))

    @cached_property
    def added(self) -> tuple[str, ...]:
        """The names of what is added to weights, adapters and steering vectors."""
        terms = (*self.terms, *self.rewards, *self.search_terms)
        return tuple(sorted({name for term in terms for _, name in term.additions}))

    @property
    def declared(self) -> tuple[str, ...]:
        """Every declared model that takes part: by its weights, added to others, or as a head."""
        others = dict.fromkeys((*self.added, *(read.head for read in self.heads)))
        return *self.models, *(name for name in others if name not in self.models)

    @cached_property
    def params(self) -> frozenset[str]:
        """The parameters that any number depends on."""
        return frozenset().union(*(parameters(scalar.expression) for scalar in self.scalars))

    def values(self, params: Mapping[str, float]) -> list[float]:
        """Every scalar's value for one request, in the order of ``scalars``.

        Raises:
            FormulaError: a parameter without a value or not finite; a number out of its limits.
        """
        for name in sorted(self.params):
            if name not in params:
                cure = f"declare it with one, params={{{name!r}: 0.5}}, or give it with the request"
                raise self.error(f"the parameter {name} has no value", self.use(name), cure)
            value = params[name]
            if isinstance(value, bool) or not (isinstance(value, Real) and _finite(value)):
                problem = f"{name} is {quoted(value)}; a parameter is a finite number"
                raise self.error(problem, self.use(name))
        values = [self.value(scalar, params) for scalar in self.scalars]
        self.check(values)
        return values

    def check(self, values: Sequence[float]) -> None:
        """Refuse numbers that contradict each other; NaN stands for one that is not known yet.

        Raises:
            FormulaError: bounds the wrong way round, or weights that are all 0.
        """
        for node in (*self.running(values), *self.stages):
            for signature in node.stages if isinstance(node, Staged) else (node,):
                if isinstance(signature, Signature):
                    self._agree(signature, values)

    def running(self, values: Sequence[float]) -> Iterator[Node]:
        """The nodes, without what is multiplied by 0."""

        def value(number: Scalar) -> float:
            return values[self.columns[number]]

        yield from walk(self.scores, value)
        for stage in self.stages:
            for number, scores in of_states(stage):
                if value(number) != 0:
                    yield from walk(scores, value)

    def _agree(self, signature: Signature, values: Sequence[float]) -> None:
        for key, item in signature.arguments().items():
            value, kind = getattr(signature, key), item.metadata["kind"]
            if kind == "pair" and value is not None:
                low, high = (values[self.columns[bound]] for bound in value)
                if low > high:
                    problem = f"{key} of {signature.name} goes from {low:g} up to {high:g}"
                    raise self.error(problem, _across(value), "write (lo, hi)")
            if kind == "weighted" and not any(values[self.columns[n]] for n, _ in value):
                span = _across([weight for weight, _ in value])
                raise self.error(
                    f"every weight of {signature.name} is 0", span, "one must be above 0"
                )

    def value(self, scalar: Scalar, params: Mapping[str, float]) -> float:
        """One number for one request; NaN where it is another in each step.

        Raises:
            FormulaError: it is not finite, or out of its limits.
        """
        value = evaluate(scalar.expression, params)
        if scalar.states and math.isnan(value):
            return value
        if not abs(value) <= MOST:
            used = sorted(parameters(scalar.expression))
            at = " at " * bool(used) + ", ".join(f"{name}={params[name]!r}" for name in used)
            raise self.error(f"{scalar.what} is not a finite number{at}", scalar.span)
        if problem := scalar.limits.problem(value):
            raise self.error(f"{scalar.what} {problem}, not {value:g}", scalar.span)
        return value

    def number_error(self, scalar: Scalar, where: str) -> FormulaError:
        """The error of a number of the state that a step could not use; ``where``: which step."""
        limits = scalar.limits.words or "a finite number"
        problem = f"{scalar.what}, {scalar}, is not {limits} {where}"
        return self.error(problem, scalar.span, "keep it in bounds with min(…) and max(…)")

    def reward_error(self, reward: Scalar, where: str) -> FormulaError:
        """The error of a reward expression whose value is NaN or infinite; ``where``: of which."""
        problem = f"{reward.what}, {reward}, is not a finite number {where}"
        cure = "keep it in bounds: log(max(r, 0.001)), 1/max(r, 0.1)"
        return self.error(problem, reward.span, cure)

    def use(self, name: str) -> Span:
        """Where the parameter is written: inside the first number that needs it."""
        match = re.search(rf"(?<![\w@\"']){name}(?!\w)", self.source)
        return Span(*match.span()) if match else Span(0, len(self.source))


def _finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float is
        return False


def _across(scalars: Sequence[Scalar]) -> Span:
    return Span(scalars[0].span.start, scalars[-1].span.end)


def _sorted(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Distinct terms, in the order that does not depend on the writing."""
    return tuple(sorted(set(terms), key=lambda term: term.key))
