"""A reward expression by itself: what ``score`` of a run file and ``descant compare`` have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..grammar import Span
from ..grammar.errors import Marked
from .scalar import AnswerLength, Expression, Scalar, TermNumber, evaluate, parameters
from .terms import Term


@dataclass(frozen=True)
class RewardExpression(Marked):
    """A checked reward expression.

    Attributes:
        reward: the expression, like parts collected.
        source: its text as given, which spans refer to.
        spans: where each term was first written; also of those that cancel out.
    """

    reward: Scalar
    source: str = field(compare=False)
    spans: Mapping[Term, Span] = field(compare=False, repr=False)

    def __str__(self) -> str:
        return str(self.reward)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms that it depends on, each once."""
        return self.reward.terms

    @property
    def params(self) -> frozenset[str]:
        """The parameters that it depends on."""
        added = (number for term in self.terms for number, _ in term.additions)
        numbers = (self.reward, *added)
        return frozenset().union(*(parameters(number.expression) for number in numbers))

    def value(
        self,
        terms: Mapping[Term, float],
        answer_length: float = 1,
        params: Mapping[str, float] | None = None,
    ) -> float:
        """The value of one text, in double precision; NaN where there is none.

        Args:
            terms: the number of each term: its reward of the text, or its log-probability.
            answer_length: tokens of the answer; of an empty one, it counts as 1.
            params: a value for each of ``params``.
        """
        texts: dict[Expression, float] = {TermNumber(each): said for each, said in terms.items()}
        texts[AnswerLength()] = max(answer_length, 1)
        return evaluate(self.reward.expression, params or {}, texts)
