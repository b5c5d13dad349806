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
from collections.abc import Callable
from dataclasses import make_dataclass
from typing import Any

import torch
from torch import Tensor

from .formula import STAGES, Stage
from .formula.names import RESERVED, SCALAR_FUNCTIONS
from .formula.scalar import FUNCTIONS
from .formula.words.signature import number
from .runtime.scores.context import Context
from .runtime.scores.stages import apply


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
        raise ValueError(f"{function.__name__} takes no scores; give it a first parameter")
    cls = _stage_class(function.__name__, function.__doc__, parameters[1:])
    names = [parameter.name for parameter in parameters[1:]]

    def run(stage: Any, scores: Tensor, context: Context, address: Any) -> Tensor:
        numbers = {name: context.number(getattr(stage, name)) for name in names}
        return _checked(function.__name__, scores, function(scores.clone(), **numbers))

    apply.register(cls)(run)
    return function


def logits_processor(name: str, processor: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Register a transformers ``LogitsProcessor`` as a stage without arguments.

    It is called once per row, with the ``(1, L)`` ids that the formula's first term has read and
    ``(1, V)`` scores: log-probabilities, not raw logits.

    >>> from transformers import NoRepeatNGramLogitsProcessor
    >>> import descant
    >>> descant.logits_processor("no_repeat_trigram", NoRepeatNGramLogitsProcessor(3))
    >>> "no_repeat_trigram" in descant.formula.STAGES
    True
    """

    def run(stage: Any, scores: Tensor, context: Context, address: Any) -> Tensor:
        copied = scores.clone()
        texts = context.texts()
        rows = [processor(ids[None], copied[i : i + 1]) for i, ids in enumerate(texts)]
        return _checked(name, scores, torch.cat(rows))

    apply.register(_stage_class(name, type(processor).__doc__, []))(run)


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


def _stage_class(name: str, doc: str | None, parameters: list[inspect.Parameter]) -> type[Stage]:
    _free(name)
    fields = []
    for parameter in parameters:
        default = None if parameter.default is parameter.empty else parameter.default
        if default is not None and not isinstance(default, (int, float)):
            raise ValueError(f"{parameter.name} of {name} is {default!r}; a stage takes numbers")
        integer = parameter.annotation in (int, "int")
        fields.append((parameter.name, Any, number(default, integer=integer)))
    cls: type[Stage] = make_dataclass(
        name.title().replace("_", ""), fields, bases=(Stage,), frozen=True
    )
    cls.__doc__ = (doc or "").strip().split("\n\n")[0]
    cls.register(name)
    return cls


def _free(name: str) -> None:
    if not (name.isidentifier() and name.isascii()):
        raise ValueError(f"{name!r} is not a name; a name is letters, digits and underscores")
    if name in RESERVED or name in STAGES or name in SCALAR_FUNCTIONS:
        raise ValueError(f"{name} is a word of the language already")


def _checked(name: str, scores: Tensor, changed: Tensor) -> Tensor:
    if changed.shape != scores.shape:
        raise ValueError(
            f"the stage {name} returned {tuple(changed.shape)}, not {tuple(scores.shape)}"
        )
    excluded = scores == -torch.inf  # they stay excluded
    return changed.float().masked_fill(excluded, -torch.inf)
