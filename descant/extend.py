"""Operators, stages and scalar functions of your own: a Python function's signature is theirs.

>>> import torch, descant
>>> @descant.stage
... def sharpen(scores, power=2.0):
...     \"\"\"Multiplies the scores by power.\"\"\"
...     return scores * power
>>> @descant.operator
... def contrast(x, y, strength=1.0):
...     \"\"\"What x likes more than y does.\"\"\"
...     return x + strength * (x - y)
>>> table = descant.TableModel(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
>>> models = {"base": table, "arm": descant.TableModel(torch.eye(2))}
>>> decoder = descant.compile("contrast(base, arm, a) | sharpen(power=a)", models, params={"a": 3})
>>> decoder.plan.formula
'contrast(base, arm, a) | sharpen(power=a)'

A registration holds for the whole program; every later formula knows the name.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, make_dataclass
from typing import Any, TypeAlias, get_args

import torch
from torch import Tensor

from .errors import ArgumentError
from .formula import STAGES, Stage
from .formula.names import SCALAR_FUNCTIONS, is_word
from .formula.nodes import StageAddress
from .formula.scalar import FUNCTIONS
from .formula.words.operators import Operator
from .formula.words.signature import Limits, Shift, Signature, number, place, scores
from .runtime.scores.context import Context
from .runtime.scores.own.functions import OFFERED, OwnFunction
from .runtime.scores.own.processors import Processor, RowProcessor
from .runtime.scores.own.trial import try_rows
from .runtime.scores.stages import apply

Scores: TypeAlias = Tensor  # (rows, V) float32: log-probabilities, or a sum of such
Parameters: TypeAlias = Sequence[inspect.Parameter]
Change: TypeAlias = Callable[[Any, Tensor, Context, StageAddress], Tensor]  # of a stage's scores

WHY_LAST = "keeps a state, and a step may leave out what is in parentheses"


def operator(
    function: Any = None,
    *,
    state: Callable[[], Any] | None = None,
    on_shift: str = "felt",
    vocabulary: int | None = None,
) -> Any:
    """Register a function as an operator on scores, under its own name: ``contrast(base, arm)``.

    A parameter that is annotated ``float`` or ``int``, or has a number as its default, is a number,
    ``(rows, 1)`` float32, a value per row; ``Annotated[float, descant.Limits(low=0)]`` has limits,
    and an ``int`` is a whole number. Every other is scores, ``(rows, V)`` float32 in natural
    logarithms: of a model its log-probabilities, of a sum that sum, minus infinity where a token
    is excluded. It returns scores of the same shape; where they are minus infinity, a token is
    excluded. It must treat every row by itself, write to nothing that it is given, and, on a GPU,
    not synchronise. Two rows are tried at once, together and alone.

    A keyword-only ``ids`` is a list of the rows' token ids so far, ``(L,)`` int64 each, as the
    formula's first term has read them, and ``start`` a list of where the answer begins in each. A
    step with any of these two or a ``state`` is not recorded on a GPU.

    Args:
        function: takes scores and numbers.
        state: makes the state of a row, before its first token. The function then has a
            keyword-only ``state`` and returns ``(scores, state)``. A tensor, or a dict or tuple of
            tensors, comes stacked, ``(rows, …)``; anything else as a list, of copies. A row's
            state follows its text through searches, drafts and preemption, and each step changes
            it, also one in which a row takes the other side of a ``where``.
        on_shift: what one number added to all of x does, for every x: ``"felt"``, or, where a plan
            may leave a log-softmax out, ``"passed"`` (a number is added to every score of the
            result too) or ``"absorbed"`` (nothing).
        vocabulary: how many tokens to try it with, where it is for so many alone.

    Raises:
        ArgumentError: the name is taken, a parameter is neither scores nor a number, or the trial
            shows rows that are mixed, another shape, or NaN from finite scores.

    Examples:
        >>> import torch, descant
        >>> @descant.operator
        ... def halfway(x, y, share=0.5):
        ...     \"\"\"Between x and y.\"\"\"
        ...     return (1 - share) * x + share * y
        >>> models = {name: descant.TableModel(torch.eye(2)) for name in ("base", "arm")}
        >>> print(descant.compile("halfway(base, arm, 0.3)", models).plan.formula)
        halfway(base, arm, 0.3)
    """
    if function is None:
        return lambda each: operator(each, state=state, on_shift=on_shift, vocabulary=vocabulary)
    name, parameters = function.__name__, _parameters(function)
    own, taken = _own("operator", function, parameters, state)
    fields = _fields(name, Operator, taken)
    of_scores = [key for key, kind, _ in fields if kind == "scores"]
    if not of_scores:
        raise ArgumentError(f"{name} takes no scores; give it a parameter without a number")
    shifts = {each.name.lower(): each for each in Shift}
    if on_shift not in shifts:
        raise ArgumentError(f"on_shift is {on_shift!r}; it is {', '.join(shifts)}")
    _free(name)
    numbers = {key: _tried(field) for key, kind, field in fields if kind == "number"}
    try_rows(name, own, of_scores, numbers, vocabulary, shifts[on_shift])
    cls = _made(name, function.__doc__, fields, Operator, own)
    cls.on_shift = shifts[on_shift]
    cls.register(name)
    return function


def stage(function: Any = None, *, state: Callable[[], Any] | None = None) -> Any:
    """Register a function as a stage of the language, under its own name.

    Args:
        function: takes the scores, ``(slots, V)`` float32 with minus infinity where a token is
            excluded, and then its numbers, each ``(slots, 1)``, a value per row. Those with a
            default may be left out of a formula; one annotated ``int`` must be a whole number. It
            returns scores of the same shape. It must treat every row by itself. Keyword-only
            ``state``, ``ids`` and ``start`` are those of ``operator``.
        state: makes the state of a row. Such a stage stands after the last bar, and not in
            parentheses; a draft goes without it.

    Raises:
        ArgumentError: the name is taken, or a parameter is not a number.

    Examples:
        >>> import torch, descant
        >>> @descant.stage
        ... def flatter(scores, by=2.0):
        ...     \"\"\"Divides the scores.\"\"\"
        ...     return scores / by
        >>> base = descant.TableModel(torch.eye(2))
        >>> print(descant.compile("base | flatter(3)", {"base": base}).plan.formula)
        base | flatter(3)
    """
    if function is None:
        return lambda each: stage(each, state=state)
    name, parameters = function.__name__, _parameters(function)
    own, taken = _own("stage", function, parameters, state)
    if not taken:
        raise ArgumentError(f"{name} takes no scores; give it a first parameter")
    first, *others = taken

    def changed(stage: Any, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
        if own.make_state is not None and context.row_states is None:
            return scores
        numbers = {item.name: context.number(getattr(stage, item.name)) for item in others}
        return own(context, address, {first.name: scores}, numbers)

    _register(name, function.__doc__, others, changed, own)
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

    Examples:
        >>> from transformers import NoRepeatNGramLogitsProcessor
        >>> import descant
        >>> descant.logits_processor("no_repeat_trigram", NoRepeatNGramLogitsProcessor(3))
        >>> "no_repeat_trigram" in descant.formula.STAGES
        True
    """
    by_row = RowProcessor(name, processor, factory)

    def changed(stage: Any, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
        return by_row(scores, context, address)

    cls = _register(name, by_row.doc, (), changed, by_row)
    cls.why_eager = "is called on the host, row by row"
    cls.why_last = WHY_LAST * by_row.keeps_state


def scalar_function(function: Callable[..., float]) -> Callable[..., float]:
    """Register a function of numbers, under its own name: ``base + logistic(a)*arm``.

    Args:
        function: takes floats and returns one; it runs once per request, never in a step.

    Raises:
        ValueError: the name is taken.

    Examples:
        >>> import math, torch, descant
        >>> @descant.scalar_function
        ... def logistic_of(x):
        ...     return 1 / (1 + math.exp(-x))
        >>> base = descant.TableModel(torch.eye(2))
        >>> decoder = descant.compile("logistic_of(a)*base", {"base": base}, params={"a": 0})
        >>> decoder.generate([0], max_new_tokens=1)[0].token_ids
        [0]
    """
    name = function.__name__
    _free(name)
    parameters = inspect.signature(function).parameters.values()
    least = sum(parameter.default is parameter.empty for parameter in parameters)
    SCALAR_FUNCTIONS[name] = (least, len(parameters))
    FUNCTIONS[name] = function
    return function


def _register(
    name: str,
    doc: str | None,
    parameters: Parameters,
    changed: Change,
    own: OwnFunction | RowProcessor,
) -> type[Stage]:
    """Make the class of a stage and enter it; ``changed`` gets a copy of the scores."""
    _free(name)
    fields = _fields(name, Stage, parameters)
    cls: type[Stage] = _made(name, doc, fields, Stage, own)
    cls.why_last = WHY_LAST * cls.keeps_state
    cls.register(name)

    @apply.register(cls)
    def run(stage: Any, scores: Tensor, context: Context, address: Any) -> Tensor:
        result = changed(stage, scores.clone(), context, address)
        if result.shape != scores.shape:
            shapes = f"{tuple(result.shape)}, not {tuple(scores.shape)}"
            raise ArgumentError(f"the stage {name} returned {shapes}")
        excluded = scores == -torch.inf  # they stay excluded
        result = result.float().masked_fill(excluded, -torch.inf)
        if address[0] is None:  # in parentheses there may be rows that have no use for it
            context.note(("own", stage), ~(result.amax(dim=-1) < torch.inf))
        return result

    return cls


def _parameters(function: Callable[..., Any]) -> Parameters:
    """Those of a function, with their annotations as objects where these are known."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, SyntaxError, TypeError):
        signature = inspect.signature(function)
    return list(signature.parameters.values())


def _own(
    kind: str, function: Callable[..., Any], parameters: Parameters, state: Any
) -> tuple[OwnFunction, Parameters]:
    """What calls a function, and the parameters that a formula gives."""
    name, named = function.__name__, inspect.Parameter.KEYWORD_ONLY
    asked = [each.name for each in parameters if each.name in OFFERED and each.kind is named]
    for each in parameters:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD, each.POSITIONAL_ONLY):
            cure = "give each parameter a name, without *, ** and /"
            raise ArgumentError(f"{name} takes {each}, which a formula cannot write; {cure}")
        if each.name in OFFERED and each.kind is not named:
            cure = f"put *, before it: def {name}(…, *, {each.name})"
            raise ArgumentError(f"{each.name} of {name} is given by name; {cure}")
    if ("state" in asked) != (state is not None):
        problem = "takes a state, and none is made" if state is None else "takes no state"
        cure = f"write @descant.{kind}(state=make), and def {name}(…, *, state)"
        raise ArgumentError(f"{name} {problem}; {cure}")
    if state is not None and not callable(state):
        cure = "make is a function without arguments, such as lambda: torch.zeros(8)"
        raise ArgumentError(f"state= of {name} is called for every row; {cure}")
    own = OwnFunction(kind, name, function, state, asked)
    return own, [each for each in parameters if each.name not in asked]


def _fields(name: str, base: type[Signature], parameters: Parameters) -> list[tuple[str, str, Any]]:
    """The name, the kind and the field of each argument."""
    fields: list[tuple[str, str, Any]] = []
    for parameter in parameters:
        key, default = parameter.name, parameter.default
        kind, *more = get_args(parameter.annotation) or [parameter.annotation]
        if hasattr(base, key) or key in base.__dataclass_fields__:
            raise ArgumentError(f"{key} of {name} is a word of its own; give it another name")
        if default is parameter.empty:
            default = None
        elif isinstance(default, bool) or not isinstance(default, (int, float)):
            what = "a stage takes numbers" if base is Stage else "a default is a number"
            raise ArgumentError(f"{key} of {name} is {default!r}; {what}")
        if base is Operator and default is None and kind not in (int, float, "int", "float"):
            fields.append((key, "scores", scores()))
        else:
            limits = next((each for each in more if isinstance(each, Limits)), Limits())
            integer = limits.integer or kind in (int, "int")
            if default is not None and (problem := limits.problem(default)):
                raise ArgumentError(f"{key} of {name} {problem}, and its default is {default:g}")
            own = {**asdict(limits), "integer": integer}
            fields.append((key, "number", number(default, **own)))
        if default is None and any(field.default is not MISSING for *_, field in fields):
            raise ArgumentError(f"{key} of {name} has no default; put it before those that have")
    return fields


def _tried(field: Any) -> tuple[float, float]:
    """Two values that a number may have: its default, or one in the middle; and another."""
    limits = field.metadata["limits"]
    low, high = limits.low, limits.high
    if field.default is not MISSING:
        value = float(field.default)
    elif math.isfinite(low) and math.isfinite(high):
        value = (low + high) / 2
    else:
        value = low + 1 if math.isfinite(low) else min(high - 1, 1.0)
    if limits.integer:
        value = float(math.ceil(value))
    others = (value + 1, value - 1) if limits.integer else (value / 2, value + 0.5, value - 0.5)
    allowed = (each for each in others if each != value and limits.problem(each) is None)
    return value, next(allowed, value)


def _made(
    name: str, doc: str | None, fields: Sequence[tuple[str, str, Any]], base: Any, own: Any
) -> Any:
    """The class of a stage or an operator of one's own."""
    typed = [(key, Any, field) for key, _, field in fields]
    title = name.title().replace("_", "")
    cls: Any = make_dataclass(title, [*typed, ("span", Any, place())], bases=(base,), frozen=True)
    cls.__doc__ = (doc or "").strip().split("\n\n")[0]
    cls.own = own
    if isinstance(own, OwnFunction):
        cls.keeps_state = own.make_state is not None
        cls.why_eager = "looks at each row's own text or state" if own.asked else ""
    return cls


def _free(name: str) -> None:
    if not (name.isidentifier() and name.isascii()):
        raise ArgumentError(f"{name!r} is not a name; a name is letters, digits and underscores")
    if is_word(name) or name in STAGES:
        raise ArgumentError(f"{name} is a word of the language already")
