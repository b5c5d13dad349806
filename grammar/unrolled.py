"""Recursion without a limit: a function that yields its inner calls is run on a list, not a stack.

Written as it reads, ``yield f(x)`` where ``f(x)`` would recurse, a pass over a tree takes two
frames of Python's stack however deep the tree is, and so works in a caller that is deep itself.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[Any, Any, T]  # yields calls of the same kind, is sent what they return


def unrolled(steps: Steps[T]) -> T:
    """What a call returns, once it and everything that it yields has run.

    >>> def depth(n):
    ...     return 0 if n == 0 else 1 + (yield depth(n - 1))
    >>> unrolled(depth(100_000))
    100000
    """
    calls: list[Steps[Any]] = [steps]
    value: Any = None
    while calls:
        try:
            calls.append(calls[-1].send(value))
            value = None
        except StopIteration as done:
            calls.pop()
            value = done.value
    return value  # type: ignore[no-any-return]
