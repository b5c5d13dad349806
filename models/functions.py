"""Python functions as reward models: ``descant.reward(fn)``, with TRL's signature."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..errors import ArgumentError, ArgumentTypeError, quoted
from .errors import ModelError, first_line

IDS = "completion_ids"
OFFERED = ("prompts", "completions", IDS)


def is_python(path: str) -> bool:
    """Whether a text names Python code, as ``rewards.py``, ``rewards.py:fn`` or ``module:fn`` do.

    A hub id has no colon in it.
    """
    file, colon, name = path.rpartition(":")
    if not colon:
        return path.endswith(".py")
    return name.isidentifier() and (
        file.endswith(".py") or all(part.isidentifier() for part in file.split("."))
    )


class FunctionReward:
    """A reward that a Python function computes; made by ``descant.reward``.

    Attributes:
        function: as it was given.
        name: what messages and plans call it.
        takes: which of ``prompts``, ``completions`` and ``completion_ids`` it is given.
        needs_ids: whether it has no default for the last.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function) or inspect.isclass(function):
            kind = getattr(function, "__name__", type(function).__name__)
            problem = f"reward takes a function of prompts and completions, and this is {kind}"
            raise ArgumentTypeError(problem)
        self.function = function
        plain = inspect.unwrap(getattr(function, "func", function))
        self.name: str = getattr(plain, "__name__", type(function).__name__)
        self.takes, self.needs_ids = _taken(self.name, function)

    def __repr__(self) -> str:
        return f"descant.reward({self.name})"

    def rewards(
        self,
        name: str,
        prompts: Sequence[Any],
        texts: Sequence[str],
        ids: Sequence[Sequence[int]] | None,
    ) -> list[float | ModelError]:
        """The rewards of answers in one call; where one is no finite number, an error.

        Args:
            name: as declared, for messages.
            prompts: one per answer, as users give them.
            texts: the answers' texts.
            ids: their tokens; None where nobody knows them, and nothing is given.

        Raises:
            WrongCount: the function returns no list of as many rewards.
            ModelError: it raises something.
        """
        pairs = [as_conversation(*pair) for pair in zip(prompts, texts, strict=True)]
        columns = [prompt for prompt, _ in pairs], [text for _, text in pairs]
        arguments: dict[str, Any] = dict(zip(OFFERED, columns, strict=False))
        if ids is not None:
            arguments[IDS] = [[*row] for row in ids]
        calls = f"{name} calls {self.name}, which"
        try:
            values = self.function(**{k: v for k, v in arguments.items() if k in self.takes})
            if inspect.isawaitable(values):
                values = asyncio.run_coroutine_threadsafe(_awaited(values), _loop()).result()
        except Exception as error:
            problem = f"{calls} raises {type(error).__name__}: {first_line(error)}"
            raise ModelError(problem, "correct the function", name) from error
        values = getattr(values, "tolist", lambda: values)()  # of numpy and torch
        cure = "return a list of floats, one per completion"
        if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
            raise WrongCount(f"{calls} returns {quoted(values)}", cure, name)
        values = list(values)
        if (count := len(values)) != len(texts):
            problem = f"{calls} returns {count} rewards for {len(texts)} completions"
            raise WrongCount(problem, cure, name)
        rewards: list[float | ModelError] = []
        for value, text in zip(values, texts, strict=True):
            reward = _number(value)
            problem = f"{calls} returns {quoted(value)} for the completion …{text[-40:]!r}"
            rewards.append(reward if math.isfinite(reward) else ModelError(problem, cure, name))
        return rewards


class WrongCount(ModelError):
    """A function's fault whatever the completions: it returns no list of as many rewards."""


@dataclass
class UserPrompt:
    """A prompt as its user gave it, for a function.

    Attributes:
        prompt: text, chat messages or token ids.
        failure: what the function's last call for its answers has failed with.
    """

    prompt: Any
    failure: ModelError | None = field(default=None, compare=False, repr=False)


def reward(function: Callable[..., Any]) -> FunctionReward:
    """A Python function as a reward model, with the signature of TRL's reward functions.

    It is called with the keywords ``prompts``, ``completions`` and ``completion_ids``, lists of the
    same length, as far as it takes them, and returns a float for each. A prompt is what the user
    gave: text, chat messages or token ids. A completion is the text of an answer so far, without
    special tokens; for chat messages a list of one assistant message. As in TRL, an assistant
    message that ends the prompt moves to the beginning of that one. ``completion_ids`` are the
    formula's tokens, and special ones among them. ``rerank`` calls it once per step, with the k
    candidates of all rows; a search once whenever it scores answers; equal ones are there once. A
    coroutine function is awaited, in a thread of its own.

    Args:
        function: any callable; of its parameters, those without a default are among these three.

    Raises:
        ArgumentError: it needs another argument.

    Examples:
        >>> def short(completions, **kwargs):
        ...     return [-float(len(text)) for text in completions]
        >>> reward(short)
        descant.reward(short)
    """
    return FunctionReward(function)


def as_conversation(prompt: Any, text: str) -> tuple[Any, Any]:
    """A prompt and an answer as TRL gives them to functions; messages are copied."""
    if isinstance(prompt, str):
        return prompt, text
    items = list(prompt)
    if not items or not isinstance(items[0], Mapping):
        return items, text
    messages = [dict(message) for message in items]
    begun = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
    return messages, [{"role": "assistant", "content": begun + text}]


def _taken(name: str, function: Callable[..., Any]) -> tuple[tuple[str, ...], bool]:
    """Which arguments a function is given, and whether it needs tokens.

    Raises:
        ArgumentError: it needs others, or takes none of them.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return OFFERED, False
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    several = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    needed = [p.name for p in parameters if p.kind not in several and p.default is p.empty]
    offered = ", ".join(OFFERED)
    for parameter in needed:
        if parameter not in OFFERED or parameter not in named:
            problem = f"{name} needs {parameter}, and a reward is given {offered} by keyword"
            raise ArgumentError(f"{problem}; bind it: functools.partial({name}, {parameter}=…)")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return OFFERED, IDS in needed
    if not named & {*OFFERED}:
        raise ArgumentError(f"{name} takes none of {offered}, which a reward is given by keyword")
    return tuple(key for key in OFFERED if key in named), IDS in needed


def _number(value: Any) -> float:
    """A float of Python, numpy or torch; NaN for what is none."""
    try:
        return math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One event loop for all coroutine functions, so that a client that belongs to it goes on."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="descant rewards", daemon=True).start()
    return loop


async def _awaited(values: Awaitable[Any]) -> Any:
    return await values
