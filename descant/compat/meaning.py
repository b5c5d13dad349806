"""Which formula an operator of language-model-arithmetic is.

Every operator there has scores and a weight, and what stands outermost is divided by its weight. A
``Meaning`` carries both through sums and products, as numbers; the division is written once, as
``mean`` or ``temp``. The rules are those of commit 6779b40.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import singledispatch
from typing import Any, TypeAlias

from .. import lang
from ..lang import Expression
from .declared import Declared
from .operators import (
    Classifier,
    Constant,
    Max,
    Min,
    Normalize,
    Operator,
    Product,
    PromptedLLM,
    SelfDebias,
    Sum,
    Superseded,
    TopPTopK,
    lifted,
)
from .refused import Untranslatable

Parts: TypeAlias = tuple[tuple[Fraction, Expression], ...]


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
    guides: tuple[tuple[Fraction, Classifier], ...] = ()

    @property
    def is_number(self) -> bool:
        """Whether there are no scores in it."""
        return not self.parts and not self.guides


def written(asked: Operator, declared: Declared | None = None) -> str:
    """The formula of an operator.

    Args:
        asked: what stands outermost.
        declared: where its models get their names.

    Raises:
        Untranslatable: no formula is that.
    """
    declared = declared or Declared()
    whole = meaning(asked, declared, False)
    scores = divided(whole, False)
    return str(scores | _rerank(whole, declared) if whole.guides else scores)


Operator.writer = written


def divided(whole: Meaning, exact: bool) -> Expression:
    """The scores divided by their weight and normalised.

    Args:
        whole: what to divide.
        exact: whether they must be log-probabilities; else a shift of all scores may remain.
    """
    weight = whole.weight
    if not whole.parts:
        raise Untranslatable("this has no language model in it", "add one: M + …")
    if weight is None:
        plain = summed(whole.parts)
        raise Untranslatable(
            "Max or Min over parts of different weights divides each token by the weight of the "
            "part that wins",
            f"no formula does; the plain one is {plain}, or give both parts one weight",
        )
    if weight == 0:
        return _shifted(whole, exact)
    if len(whole.parts) == 1 and whole.parts[0][0] == weight and (not exact or _is_term(whole)):
        return whole.parts[0][1]
    if weight == 1 and not exact:
        return summed(whole.parts)
    if sum(number for number, _ in whole.parts) == weight > 0:
        return _call("mean", summed(whole.parts))
    if weight > 0:
        return _call("temp", summed(whole.parts), weight)
    warnings.warn(
        f"the weights add up to {float(weight):g}: language-model-arithmetic divides by that, "
        "which turns every sign, and so does the formula",
        stacklevel=4,
    )
    return _call("temp", summed([(-number, term) for number, term in whole.parts]), -weight)


def summed(parts: Sequence[tuple[Fraction, Expression]]) -> Expression:
    """``1*x - 2*y`` as a formula has it: ``x - 2*y``."""
    (first, term), *others = parts
    total = term if first == 1 else -term if first == -1 else first * term
    for number, term in others:
        one = term if abs(number) == 1 else abs(number) * term
        total = total - one if number < 0 else total + one
    return total


@singledispatch
def meaning(asked: Operator, declared: Declared, exact: bool) -> Meaning:
    """What an operator is worth.

    Args:
        asked: the operator.
        declared: where its models get their names.
        exact: whether a shift of its scores would count where it stands.
    """
    raise Untranslatable(f"{type(asked).__name__} has no formula", "descant.stage makes a stage")


@meaning.register
def _(asked: PromptedLLM, declared: Declared, exact: bool) -> Meaning:
    return Meaning(((Fraction(1), declared.expression(asked)),), weight=Fraction(1))


@meaning.register
def _(asked: Constant, declared: Declared, exact: bool) -> Meaning:
    return Meaning(shift=asked.number, weight=asked.number)


@meaning.register
def _(asked: Classifier, declared: Declared, exact: bool) -> Meaning:
    """Without Bayes' rule it differs by a shift, and by its weight."""
    if exact:
        raise Untranslatable(
            "a Classifier inside Max, Min, SelfDebias or TopPTopK",
            "add it to the whole formula, where it becomes … | rerank(classifier, norm=prefix)",
        )
    return Meaning(guides=((Fraction(1), asked),), weight=Fraction(not asked.use_bayes))


@meaning.register
def _(asked: Sum, declared: Declared, exact: bool) -> Meaning:
    found = [meaning(term, declared, exact) for term in asked.terms]
    weights = [one.weight for one in found if one.weight is not None]
    return Meaning(
        tuple(part for one in found for part in one.parts),
        sum((one.shift for one in found), Fraction(0)),
        sum(weights, Fraction(0)) if len(weights) == len(found) else None,
        tuple(guide for one in found for guide in one.guides),
    )


@meaning.register
def _(asked: Product, declared: Declared, exact: bool) -> Meaning:
    whole = Meaning(shift=Fraction(1), weight=Fraction(1))
    for factor in asked.factors:
        one = meaning(factor, declared, exact)
        if not (one.is_number or whole.is_number):
            raise Untranslatable(
                "two models are multiplied", "a formula may scale a model; write + to combine two"
            )
        number, other = (one, whole) if one.is_number else (whole, one)
        by = number.shift
        both = number.weight is not None and other.weight is not None
        whole = Meaning(
            tuple((by * n, term) for n, term in other.parts),
            by * other.shift,
            number.weight * other.weight if both else None,  # type: ignore[operator]
            tuple((by * n, guide) for n, guide in other.guides),
        )
    return whole


@meaning.register
def _(asked: Max, declared: Declared, exact: bool) -> Meaning:
    name = "min" if isinstance(asked, Min) else "max"
    one, two = (meaning(lifted(x), declared, True) for x in (asked.formula1, asked.formula2))
    if one.is_number and two.is_number:
        pick = min if name == "min" else max
        return replace(one, shift=pick(one.shift, two.shift), weight=pick(one.shift, two.shift))
    if one.is_number or two.is_number:
        raise Untranslatable(f"{name} of a number and scores", f"{name}(x, y) takes scores alone")
    chosen = _call(name, _shifted(one, True), _shifted(two, True))
    weight = one.weight if one.weight == two.weight else None
    return Meaning(((Fraction(1), chosen),), weight=weight if asked.include_norm else Fraction(1))


@meaning.register
def _(asked: TopPTopK, declared: Declared, exact: bool) -> Meaning:
    inner = _unguided(meaning(asked.formula, declared, False))
    scores = divided(inner, False)
    if asked.temperature != 1:
        scores = _call("temp", scores, asked.temperature)
    if asked.top_k > 0:
        scores = _call("top_k", scores, asked.top_k)
    if asked.top_p < 1:
        scores = _call("top_p", scores, asked.top_p)
    if not inner.weight:
        raise Untranslatable("TopPTopK of weights that add up to 0", f"write 1*({scores})")
    scores = _call("temp", scores, 1) if exact else scores
    return Meaning(((inner.weight, scores),), weight=inner.weight)


@meaning.register
def _(asked: SelfDebias, declared: Declared, exact: bool) -> Meaning:
    pair = (meaning(one, declared, True) for one in (asked.from_formula, asked.bias_formula))
    scores = _call("debias", *(_shifted(one, True) for one in pair), asked.lambda_)
    return Meaning(((Fraction(1), scores),), weight=Fraction(1))


@meaning.register
def _(asked: Superseded, declared: Declared, exact: bool) -> Meaning:
    by, drafts = (meaning(x, declared, exact) for x in (asked.by_formula, asked.from_formula))
    if by.weight != drafts.weight:
        raise Untranslatable(
            "Superseded over formulas of different weights",
            f"its result is the second's: write {summed(by.parts)}",
        )
    return by


@meaning.register
def _(asked: Normalize, declared: Declared, exact: bool) -> Meaning:
    inner = _unguided(meaning(asked.formula, declared, exact))
    return Meaning(((Fraction(1), divided(inner, exact)),), weight=Fraction(1))


def _call(name: str, *values: Any, **named: Any) -> Expression:
    made: Expression = getattr(lang, name)(*values, **named)
    return made


def _shifted(whole: Meaning, exact: bool) -> Expression:
    scores = summed(whole.parts)
    return scores + whole.shift if exact and whole.shift else scores


def _is_term(whole: Meaning) -> bool:
    """Whether it is one model, which gives log-probabilities."""
    return str(whole.parts[0][1]).partition("@")[0].isidentifier()


def _unguided(whole: Meaning) -> Meaning:
    if whole.guides:
        raise Untranslatable(
            "a Classifier inside TopPTopK or Normalize",
            "add it to the whole formula: (…) + C is … | rerank(classifier, norm=prefix)",
        )
    return whole


def _rerank(whole: Meaning, declared: Declared) -> Expression:
    """The classifiers of a sum as one stage after it: they are asked about its best tokens."""
    counts = {guide.n_runs_per_sample for _, guide in whole.guides}
    for _, guide in whole.guides:
        asked = meaning(guide.formula, declared, False)
        if asked.guides or _direction(asked) != _direction(whole):
            raise Untranslatable(
                f"a Classifier picks its candidates by {written(guide.formula, declared)}, and is "
                f"added to {summed(whole.parts)}",
                "rerank(classifier, …) picks them by the scores that it stands after; give the "
                "Classifier the formula that it is added to",
            )
    if len(counts) > 1:
        raise Untranslatable(
            f"Classifiers with n_runs_per_sample of {', '.join(map(str, sorted(counts)))}",
            "rerank(c1 + c2, k=50) asks all about the same tokens; give them one number",
        )
    by = whole.weight or Fraction(1)
    rewards = [(number / by, declared.expression(guide)) for number, guide in whole.guides]
    options = {"k": counts.pop(), "norm": "prefix", "keep": "all"}
    if len(rewards) == 1 and rewards[0][0] != 1:
        number, term = rewards[0]
        return _call("rerank", term, k=options.pop("k"), w=number, **options)
    return _call("rerank", summed(rewards), **options)


def _direction(whole: Meaning) -> dict[str, Fraction]:
    """What scores rank tokens by: equal for scores that are multiples of each other."""
    found: dict[str, Fraction] = {}
    for number, term in whole.parts:
        found[str(term)] = found.get(str(term), Fraction(0)) + number
    size = sum(map(abs, found.values())) or Fraction(1)
    sign = -1 if whole.weight is not None and whole.weight < 0 else 1
    return {term: sign * number / size for term, number in found.items() if number}
