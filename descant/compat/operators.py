"""What a user of language-model-arithmetic writes: its operators, and what each is worth.

Arguments are those of language-model-arithmetic; those that change how it computes and not what
(speculation, its caches) are taken and have no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from numbers import Rational, Real
from typing import Any, TypeAlias

from ..errors import ArgumentTypeError
from ..grammar.unrolled import Steps, unrolled
from ..lang import Expression
from .meaning import GUIDED, Meaning, call
from .models import FormulaModels, Template
from .refused import Untranslatable

ONE = Fraction(1)
Method: TypeAlias = Callable[[Any, Any], "Operator"]


def _operator(combined: Callable[[Operator, Operator], Operator]) -> tuple[Method, Method]:
    """The methods for one of Python's operators: with the other value on the right, on the left."""

    def right(self: Operator, other: Any) -> Operator:
        return combined(self, lifted(other))

    def left(self: Operator, other: Any) -> Operator:
        return combined(lifted(other), self)

    return right, left


class Operator:
    """Scores, or a number, or what Python's operators make of them. ``str()`` is its formula."""

    __array_ufunc__ = None  # numpy's numbers leave the arithmetic to us

    __add__, __radd__ = _operator(lambda a, b: Sum([a, b]))
    __sub__, __rsub__ = _operator(lambda a, b: Sum([a, -b]))
    __mul__, __rmul__ = _operator(lambda a, b: Product([a, b]))
    __truediv__ = _operator(lambda a, b: Product([a, Constant(1 / b.number)]))[0]

    def __neg__(self) -> Operator:
        return Product([self, Constant(-1)])

    @property
    def number(self) -> Fraction:
        """The value of a constant."""
        raise ArgumentTypeError(f"{self} is not a number, and only a number can be divided by")

    def meaning(self, models: FormulaModels, exact: bool) -> Meaning:
        """What the operator is worth.

        Args:
            models: names its models.
            exact: whether a shift of its scores would count where it stands.

        Raises:
            Untranslatable: no formula is that.
        """
        return unrolled(self.steps(models, exact))

    def steps(self, models: FormulaModels, exact: bool) -> Steps[Meaning]:
        """The same, for the operators around it: a loop can nest more than Python can recurse."""
        yield from ()
        cure = "descant.stage makes a stage"
        raise Untranslatable(f"{type(self).__name__} has no formula", cure)

    def __str__(self) -> str:
        models = FormulaModels()
        try:
            return str(self.meaning(models, False).formula(models))
        except Untranslatable as error:
            return f"<{type(self).__name__}: {error.problem}>"

    __repr__ = __str__


def lifted(value: Any) -> Operator:
    """An operator as it is, and a number as a constant."""
    if isinstance(value, Operator):
        return value
    if isinstance(value, Real) and not isinstance(value, bool):
        return Constant(value)
    raise ArgumentTypeError(f"{value!r} cannot stand in a formula")


@dataclass(eq=False, repr=False)
class Constant(Operator):
    """A number."""

    constant: Real | float = 1

    @property
    def number(self) -> Fraction:
        """The number, exactly as it is written."""
        if isinstance(self.constant, Rational):
            return Fraction(self.constant)
        return Fraction(repr(float(self.constant)))

    def steps(self, models: FormulaModels, exact: bool) -> Steps[Meaning]:
        yield from ()
        return Meaning(shift=self.number, weight=self.number)


@dataclass(eq=False, repr=False)
class Sum(Operator):
    """The terms added, and divided by the sum of their weights."""

    terms: Sequence[Operator]

    def steps(self, models: FormulaModels, exact: bool) -> Steps[Meaning]:
        terms: list[Meaning] = []
        for term in self.terms:
            terms.append((yield term.steps(models, exact)))
        weights = [term.weight for term in terms if term.weight is not None]
        return Meaning(
            tuple(part for term in terms for part in term.parts),
            sum((term.shift for term in terms), Fraction(0)),
            sum(weights, Fraction(0)) if len(weights) == len(terms) else None,
            tuple(guide for term in terms for guide in term.guides),
        )


@dataclass(eq=False, repr=False)
class Product(Operator):
    """The factors multiplied: at most one is more than a number."""

    factors: Sequence[Operator]

    @property
    def number(self) -> Fraction:
        """The product of numbers."""
        number, todo = ONE, list(self.factors)
        while todo:
            factor = todo.pop()
            if isinstance(factor, Product):
                todo += factor.factors
            else:
                number *= factor.number
        return number

    def steps(self, models: FormulaModels, exact: bool) -> Steps[Meaning]:
        product = Meaning(shift=ONE, weight=ONE)
        for operator in self.factors:
            factor = yield operator.steps(models, exact)
            if not (factor.is_number or product.is_number):
                cure = "a formula may scale a model; write + to combine two"
                raise Untranslatable("two models are multiplied", cure)
            product = product.scaled(factor) if factor.is_number else factor.scaled(product)
        return product


@dataclass(eq=False, repr=False)
class Max(Operator):
    """Of each token the better of two scores; ``wait_until_finished`` is of speculation."""

    formula1: Any
    formula2: Any
    wait_until_finished: bool = True
    include_norm: bool = True

    def steps(self, models: FormulaModels, exact: bool) -> Steps[Meaning]:
        name, pick = ("min", min) if isinstance(self, Min) else ("max", max)
        a: Meaning = yield lifted(self.formula1).steps(models, True)
        b: Meaning = yield lifted(self.formula2).steps(models, True)
        if a.is_number and b.is_number:
            return replace(a, shift=pick(a.shift, b.shift), weight=pick(a.shift, b.shift))
        if a.is_number or b.is_number:
            cure = f"{name}(x, y) takes scores alone"
            raise Untranslatable(f"{name} of a number and scores", cure)
        weight = a.weight if a.weight == b.weight else None
        return _of(call(name, a.shifted(), b.shifted()), weight if self.include_norm else ONE)


class Union(Max):
    """``Max`` by another name."""


@dataclass(eq=False, repr=False)
class Min(Max):
    """Of each token the worse of two scores."""


class Intersection(Min):
    """``Min`` by another name."""


@dataclass(eq=False, repr=False)
class TopPTopK(Operator):
    """The most probable tokens alone."""

    formula: Operator
    top_p: float = 1.0
    top_k: int = 0
    temperature: float = 1.0

    def steps(self, models: FormulaModels, exact: bool) -> Steps[Meaning]:
        inner = (yield self.formula.steps(models, False)).unguided()
        scores = inner.divided(False)
        if self.temperature != 1:
            scores = call("temp", scores, self.temperature)
        if self.top_k > 0:
            scores = call("top_k", scores, self.top_k)
        if self.top_p < 1:
            scores = call("top_p", scores, self.top_p)
        if not inner.weight:
            raise Untranslatable("TopPTopK of weights that add up to 0", f"write 1*({scores})")
        scores = call("temp", scores, 1) if exact else scores
        return Meaning(((inner.weight, scores),), weight=inner.weight)


@dataclass(eq=False, repr=False)
class SelfDebias(Operator):
    """Self-debiasing: what the second likes better than the first does falls."""

    from_formula: Operator
    bias_formula: Operator
    lambda_: float = 50

    def steps(self, models: FormulaModels, exact: bool) -> Steps[Meaning]:
        x = yield self.from_formula.steps(models, True)
        y = yield self.bias_formula.steps(models, True)
        return _of(call("debias", x.shifted(), y.shifted(), self.lambda_))


@dataclass(eq=False, repr=False)
class Superseded(Operator):
    """Speculation: the first drafts, and the result is the second's."""

    from_formula: Operator
    by_formula: Operator

    def steps(self, models: FormulaModels, exact: bool) -> Steps[Meaning]:
        result: Meaning = yield self.by_formula.steps(models, exact)
        if result.weight != (yield self.from_formula.steps(models, exact)).weight:
            cure = f"its result is the second's: write {result.shifted(False)}"
            raise Untranslatable("Superseded over formulas of different weights", cure)
        return result


@dataclass(eq=False, repr=False)
class Normalize(Operator):
    """The scores divided by their weights wherever they stand."""

    formula: Operator

    def steps(self, models: FormulaModels, exact: bool) -> Steps[Meaning]:
        return _of((yield self.formula.steps(models, exact)).unguided().divided(exact))


def on_a_line(system_prompt: str, input_string: str) -> str:
    """language-model-arithmetic's template for language models where none is given."""
    return f"{system_prompt}\n{input_string}"


def joined(system_prompt: str, input_string: str) -> str:
    """Its template for classifiers."""
    return system_prompt + input_string


@dataclass(eq=False, repr=False)
class PromptedLLM(Operator):
    """A language model under a prompt.

    Attributes:
        system_prompt: the template's first argument.
        model: a path or hub id, a model in memory, or options of ``descant.ModelSpec``; left out,
            the default model.
        prompt_template: makes one text of the system prompt and the input.
        dtype: of this model.
        tokenizer: in memory, where it is not the model's own.
        model_name: the model's name in the formula.
    """

    system_prompt: str
    model: Any = None
    speculative_factor: int = 1
    prompt_template: Template = on_a_line
    dtype: Any = None
    group: Any = None
    enable_cache: bool = True
    dim_keys_past: int = 2
    dim_values_past: int = 2
    run_eager: bool = False
    tokenizer: Any = None
    model_name: str | None = None
    label = None

    def steps(self, models: FormulaModels, exact: bool) -> Steps[Meaning]:
        yield from ()
        return _of(models.expression(self))


@dataclass(eq=False, repr=False)
class Classifier(Operator):
    """A classifier's log-probability of a text with a token, less the one without.

    Attributes:
        formula: the candidates are its ``n_runs_per_sample`` best tokens.
        model: as for ``PromptedLLM``.
        index: the class; ``minimize`` takes the other one of two.
        use_bayes: off, the classifier counts as a weight of 1 in the sum it stands in.
    """

    formula: Operator
    model: Any
    n_runs_per_sample: int
    batch_size: int | None = None
    dtype: Any = None
    system_prompt: str = ""
    prompt_template: Template = joined
    minimize: bool = False
    group: Any = None
    use_bayes: bool = True
    index: int = 1
    tokenizer: Any = None
    model_name: str | None = field(default=None, kw_only=True)

    @property
    def label(self) -> tuple[int, bool]:
        """The class, and whether the other one of two is meant."""
        return self.index, self.minimize

    def steps(self, models: FormulaModels, exact: bool) -> Steps[Meaning]:
        """Without Bayes' rule it differs by a shift, and by its weight."""
        yield from ()
        if exact:
            raise Untranslatable("a Classifier inside Max, Min, SelfDebias or TopPTopK", GUIDED)
        return Meaning(guides=((ONE, self),), weight=Fraction(not self.use_bayes))


def _of(scores: Expression, weight: Fraction | None = ONE) -> Meaning:
    return Meaning(((ONE, scores),), weight=weight)
