"""Stages and scalar functions of your own: the signature of a Python function is their signature.

>>> import torch, descant
>>> @descant.stage
... def sharpen(scores, power=2.0):
...     \"\"\"Multiplies the scores by power.\"\"\"
...     return scores * power
>>> table = descant.TableModel(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
>>> decoder = descant.compile("base | sharpen(power=a)", {"base": table}, params={"a": 3})
>>> decoder.plan.formula
'base | sharpen(power=a)'

A registration holds for the whole program; every later formula knows the name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import make_dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .errors import ArgumentError
from .formula import STAGES, Stage
from .formula.names import SCALAR_FUNCTIONS, is_word
from .formula.nodes import StageAddress
from .formula.scalar import FUNCTIONS
from .formula.words.signature import number
from .runtime.scores.context import Context
from .runtime.scores.processors import Processor, RowProcessor
from .runtime.scores.stages import apply

Parameters: TypeAlias = Sequence[inspect.Parameter]
Change: TypeAlias = Callable[[Any, Tensor, Context, StageAddress], Tensor]  # of a stage's scores


def stage(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Register a function as a stage of the language, under its own name.

    Args:
        function: takes the scores, ``(slots, V)`` float32 with minus infinity where a token is
            excluded, and then its numbers, each ``(slots, 1)``, a value per row. Those with a
            default may be left out of a formula; one annotated ``int`` must be a whole number. It
            returns scores of the same shape. It must treat every row by itself.

    Raises:
        ValueError: the name is taken, or a parameter is not a number.
    """
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        raise ArgumentError(f"{function.__name__} takes no scores; give it a first parameter")

    def changed(stage: Any, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
        numbers = {item.name: context.number(getattr(stage, item.name)) for item in parameters[1:]}
        return function(scores, **numbers)

    _register(function.__name__, function.__doc__, parameters[1:], changed)
    return function


def logits_processor(
    name: str,
    processor: Processor | None = None,
    *,
    factory: Callable[[], Processor] | None = None,
) -> None:
    """Register a transformers ``LogitsProcessor`` as a stage without arguments.

    It is called once per row and step, with the ``(1, L)`` ids that the formula's first term has
    read and ``(1, V)`` scores: log-probabilities, not raw logits. Each row has a state of its own,
    which begins as the processor is now and follows the row's text wherever it goes: a batch gives
    what each row gives alone, and the second call what the first gave. One that keeps a state
    stands after the last bar, and not in parentheses; a draft goes without it. Its models and
    tokenizers are shared by all rows, and what else it has is copied for every token, and kept as
    long as the row may go back to it.

    Args:
        name: of the stage.
        processor: an object, or a function that keeps no state.
        factory: makes a processor for each row; for one that cannot be copied. Such a row cannot go
            back: not in a search, and not with ``draft``.

    Raises:
        ValueError: the name is taken, or the processor is for more than rows of ids and scores
            (an encoder's ids, guidance, audio codebooks, …); the message says what to write.

    >>> from transformers import NoRepeatNGramLogitsProcessor
    >>> import descant
    >>> descant.logits_processor("no_repeat_trigram", NoRepeatNGramLogitsProcessor(3))
    >>> "no_repeat_trigram" in descant.formula.STAGES
    True
    """
    by_row = RowProcessor(name, processor, factory)

    def changed(stage: Any, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
        return by_row(scores, context, address)

    cls = _register(name, by_row.doc, (), changed)
    cls.why_eager = "is called on the host, row by row"
    if by_row.keeps_state:
        cls.why_last = "keeps a state, and a step may leave out what is in parentheses"


def scalar_function(function: Callable[..., float]) -> Callable[..., float]:
    """Register a function of numbers, under its own name: ``base + logistic(a)*arm``.

    Args:
        function: takes floats and returns one; it runs once per request, never in a step.

    Raises:
        ValueError: the name is taken.
    """
    name = function.__name__
    _free(name)
    parameters = inspect.signature(function).parameters.values()
    least = sum(parameter.default is parameter.empty for parameter in parameters)
    SCALAR_FUNCTIONS[name] = (least, len(parameters))
    FUNCTIONS[name] = function
    return function


def _register(name: str, doc: str | None, parameters: Parameters, changed: Change) -> type[Stage]:
    """Make the class of a stage and enter it; ``changed`` gets a copy of the scores."""
    _free(name)
    fields = []
    for parameter in parameters:
        default = None if parameter.default is parameter.empty else parameter.default
        if default is not None and not isinstance(default, (int, float)):
            raise ArgumentError(f"{parameter.name} of {name} is {default!r}; a stage takes numbers")
        integer = parameter.annotation in (int, "int")
        fields.append((parameter.name, Any, number(default, integer=integer)))
    title = name.title().replace("_", "")
    cls: type[Stage] = make_dataclass(title, fields, bases=(Stage,), frozen=True)
    cls.__doc__ = (doc or "").strip().split("\n\n")[0]
    cls.register(name)

    @apply.register(cls)
    def run(stage: Any, scores: Tensor, context: Context, address: Any) -> Tensor:
        result = changed(stage, scores.clone(), context, address)
        if result.shape != scores.shape:
            shapes = f"{tuple(result.shape)}, not {tuple(scores.shape)}"
            raise ArgumentError(f"the stage {name} returned {shapes}")
        excluded = scores == -torch.inf  # they stay excluded
        return result.float().masked_fill(excluded, -torch.inf)

    return cls


def _free(name: str) -> None:
    if not (name.isidentifier() and name.isascii()):
        raise ArgumentError(f"{name!r} is not a name; a name is letters, digits and underscores")
    if is_word(name) or name in STAGES:
        raise ArgumentError(f"{name} is a word of the language already")
