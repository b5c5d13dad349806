"""What a user of language-model-arithmetic writes: its operators, as nouns without a meaning.

``meaning`` says which formula they are. Arguments are those of language-model-arithmetic; those
that change how it computes and not what (speculation, its caches) are taken and have no effect.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from numbers import Rational, Real
from typing import Any, ClassVar

from .refused import Untranslatable

Template = Callable[[str, str], str]
PROMPT = "\x02prompt\x03"  # stands for a text where a template is asked what it does with it
SYSTEM = "\x02system\x03"


class Operator:
    """Scores, or a number, or what Python's operators make of them. ``str()`` is its formula."""

    __array_ufunc__ = None  # numpy's numbers leave the arithmetic to us
    writer: ClassVar[Callable[[Any], str]]  # ``meaning`` says what it is

    def __add__(self, other: Any) -> Operator:
        return Sum([self, lifted(other)])

    def __radd__(self, other: Any) -> Operator:
        return Sum([lifted(other), self])

    def __sub__(self, other: Any) -> Operator:
        return Sum([self, -lifted(other)])

    def __rsub__(self, other: Any) -> Operator:
        return Sum([lifted(other), -self])

    def __mul__(self, other: Any) -> Operator:
        return Product([self, lifted(other)])

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Operator:
        return Product([self, Constant(1 / lifted(other).number)])

    def __neg__(self) -> Operator:
        return Product([self, Constant(-1)])

    @property
    def number(self) -> Fraction:
        """The value of a constant."""
        raise TypeError(f"{self} is not a number, and only a number can be divided by")

    def __str__(self) -> str:
        try:
            return type(self).writer(self)
        except Untranslatable as error:
            return f"<{type(self).__name__}: {error.problem}>"

    __repr__ = __str__


def lifted(value: Any) -> Operator:
    """An operator as it is, and a number as a constant."""
    if isinstance(value, Operator):
        return value
    if isinstance(value, Real) and not isinstance(value, bool):
        return Constant(value)
    raise TypeError(f"{value!r} cannot stand in a formula")


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


@dataclass(eq=False, repr=False)
class Sum(Operator):
    """The terms added, and divided by the sum of their weights."""

    terms: Sequence[Operator]


@dataclass(eq=False, repr=False)
class Product(Operator):
    """The factors multiplied: at most one is more than a number."""

    factors: Sequence[Operator]

    @property
    def number(self) -> Fraction:
        """The product of numbers."""
        return reduce(operator.mul, (factor.number for factor in self.factors))


@dataclass(eq=False, repr=False)
class Max(Operator):
    """Of each token the better of two scores; ``wait_until_finished`` is of speculation."""

    formula1: Any
    formula2: Any
    wait_until_finished: bool = True
    include_norm: bool = True


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


@dataclass(eq=False, repr=False)
class SelfDebias(Operator):
    """Self-debiasing: what the second likes better than the first does falls."""

    from_formula: Operator
    bias_formula: Operator
    lambda_: float = 50


@dataclass(eq=False, repr=False)
class Superseded(Operator):
    """The second, drafted by the first: speculation, of which the result is the second's."""

    from_formula: Operator
    by_formula: Operator


@dataclass(eq=False, repr=False)
class Normalize(Operator):
    """The scores divided by their weights wherever they stand."""

    formula: Operator


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
        system_prompt: what the template is given first.
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


@dataclass(eq=False, repr=False)
class Classifier(Operator):
    """What a classifier says of a text with a token, less what it says without.

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
