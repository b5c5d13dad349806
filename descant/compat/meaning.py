"""What an operator of language-model-arithmetic is worth, and the formula of that.

Every operator there has scores and a weight, and the outermost scores are divided by their weight.
A ``Meaning`` carries both through sums and products, as numbers; the division is written once, as
``mean`` or ``temp``. The rules are those of commit 6779b40.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from .. import lang
from ..lang import Expression
from .models import FormulaModels
from .refused import Untranslatable

Parts: TypeAlias = tuple[tuple[Fraction, Expression], ...]
GUIDED = "add it to the whole formula: (…) + C is … | rerank(classifier, norm=prefix)"


@dataclass(frozen=True)
class Meaning:
    """What an operator is worth.

    Attributes:
        parts: the scores: coefficients and terms.
        shift: a number that is added to them, and nothing else for an operator that is a number.
        weight: what the scores are divided by; None where that differs from token to token.
        guides: classifiers and their coefficients.
    """

    parts: Parts = ()
    shift: Fraction = Fraction(0)
    weight: Fraction | None = Fraction(0)
    guides: tuple[tuple[Fraction, Any], ...] = ()

    @property
    def is_number(self) -> bool:
        """Whether there are no scores in it."""
        return not self.parts and not self.guides

    def shifted(self, exact: bool = True) -> Expression:
        """The scores; with the shift where it counts."""
        scores = summed(self.parts)
        return scores + self.shift if exact and self.shift else scores

    def scaled(self, by: Meaning) -> Meaning:
        """Multiplied by a number."""
        weights = self.weight is not None and by.weight is not None
        return Meaning(
            tuple((by.shift * number, term) for number, term in self.parts),
            by.shift * self.shift,
            by.weight * self.weight if weights else None,  # type: ignore[operator]
            tuple((by.shift * number, guide) for number, guide in self.guides),
        )

    def unguided(self) -> Meaning:
        """Itself; ``Untranslatable`` where there are classifiers in it."""
        if self.guides:
            raise Untranslatable("a Classifier inside TopPTopK or Normalize", GUIDED)
        return self

    def divided(self, exact: bool) -> Expression:
        """The scores divided by their weight; unless ``exact``, a shift of all may remain."""
        if not self.parts:
            raise Untranslatable("this has no language model in it", "add one: M + …")
        if self.weight is None:
            problem = "Max or Min over parts of different weights divides each token by the weight "
            plain = self.shifted(False)
            cure = f"no formula does; the plain one is {plain}, or give both parts one weight"
            raise Untranslatable(f"{problem}of the part that wins", cure)
        if self.weight == 0:
            return self.shifted(exact)
        number, term = self.parts[0]
        is_model = str(term).partition("@")[0].isidentifier()  # which gives log-probabilities
        if len(self.parts) == 1 and number == self.weight and (is_model or not exact):
            return term
        if self.weight == 1 and not exact:
            return self.shifted(False)
        if sum(number for number, _ in self.parts) == self.weight > 0:
            return call("mean", self.shifted(False))
        if self.weight > 0:
            return call("temp", self.shifted(False), self.weight)
        division = "language-model-arithmetic divides by that, which turns every sign"
        sums = f"the weights add up to {float(self.weight):g}"
        warnings.warn(f"{sums}: {division}, and so does the formula", stacklevel=4)
        return call("temp", summed([(-number, term) for number, term in self.parts]), -self.weight)

    def formula(self, models: FormulaModels) -> Expression:
        """The whole formula: classifiers are one stage after the scores."""
        scores = self.divided(False)
        return scores | self._rerank(models) if self.guides else scores

    def _rerank(self, models: FormulaModels) -> Expression:
        counts = {guide.n_runs_per_sample for _, guide in self.guides}
        for _, guide in self.guides:
            candidates = guide.formula.meaning(models, False)
            if candidates.guides or candidates.direction != self.direction:
                raise Untranslatable(
                    f"a Classifier picks its candidates by {candidates.formula(models)}, and is "
                    f"added to {self.shifted(False)}",
                    "rerank(classifier, …) picks them by the scores that it stands after; give the "
                    "Classifier the formula that it is added to",
                )
        if len(counts) > 1:
            problem = f"Classifiers with n_runs_per_sample of {', '.join(map(str, sorted(counts)))}"
            cure = "rerank(c1 + c2, k=50) scores the same tokens with all; give them one number"
            raise Untranslatable(problem, cure)
        weight = self.weight or Fraction(1)
        rewards = [(number / weight, models.expression(guide)) for number, guide in self.guides]
        options = {"k": counts.pop(), "norm": "prefix", "keep": "all"}
        if len(rewards) == 1 and rewards[0][0] != 1:
            number, term = rewards[0]
            return call("rerank", term, k=options.pop("k"), w=number, **options)
        return call("rerank", summed(rewards), **options)

    @property
    def direction(self) -> dict[str, Fraction]:
        """What scores rank tokens by: equal for scores that are multiples of each other."""
        totals: dict[str, Fraction] = {}
        for number, term in self.parts:
            totals[str(term)] = totals.get(str(term), Fraction(0)) + number
        size = sum(map(abs, totals.values())) or Fraction(1)
        sign = -1 if self.weight is not None and self.weight < 0 else 1
        return {term: sign * number / size for term, number in totals.items() if number}


def summed(parts: Sequence[tuple[Fraction, Expression]]) -> Expression:
    """``1*x - 2*y`` as a formula has it: ``x - 2*y``."""
    (first, term), *others = parts
    total = term if first == 1 else -term if first == -1 else first * term
    for number, term in others:
        scaled = term if abs(number) == 1 else abs(number) * term
        total = total - scaled if number < 0 else total + scaled
    return total


def call(name: str, *values: Any, **named: Any) -> Expression:
    """A function or a stage of the language."""
    made: Expression = getattr(lang, name)(*values, **named)
    return made
