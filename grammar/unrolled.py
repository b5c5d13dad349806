"""Recursion without a limit: a function that yields its inner calls is run on a list, not a stack.

Written as it reads, ``yield f(x)`` where ``f(x)`` would recurse, a pass over a tree takes two frames
of Python's stack however deep the tree is, and so works in a caller that is deep itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Steps: TypeAlias = Generator[Any, Any, T]  # yields calls of the same kind, is sent what they return


def unrolled(function: Callable[P, Steps[T]]) -> Callable[P, T]:
    """The function that runs ``function`` and everything that it yields, to what it returns.

    >>> def depth(n):
    ...     return 0 if n == 0 else 1 + (yield depth(n - 1))
    >>> unrolled(depth)(100_000)
    100000
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        calls: list[Steps[Any]] = [function(*args, **kwargs)]
        value: Any = None
        while True:
            try:
                inner = calls[-1].send(value)
            except StopIteration as done:
                calls.pop()
                value = done.value
                if not calls:
                    return value  # type: ignore[no-any-return]
            else:
                calls.append(inner)
                value = None

    return run
