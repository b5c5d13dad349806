"""What nodes of a tree are: frozen, and compared, hashed, printed, pickled without recursion.

Python's dataclasses do all four by calling themselves for what is inside, so that a deep tree ends
in a RecursionError wherever the caller is deep too. It must not know any kind of node.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import fields
from functools import cache
from typing import Any


class Frozen:
    """The base of a frozen dataclass whose fields hold nodes, tuples and plain values.

    The hash is worked out once, when the node is made, from those of its fields.
    """

    __slots__ = ("_hash",)
    _hash: int

    def __init_subclass__(cls, **options: Any) -> None:
        """Keep dataclasses from writing methods of their own, which would recurse."""
        super().__init_subclass__(**options)
        for name in ("__eq__", "__hash__", "__repr__"):
            if name not in cls.__dict__:
                setattr(cls, name, Frozen.__dict__[name])

    def __post_init__(self) -> None:
        """Work out the hash."""
        values = [getattr(self, name) for name in _compared(_kind(self))]
        object.__setattr__(self, "_hash", hash((type(self).__qualname__, *values)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        todo: list[tuple[Any, Any]] = [(self, other)]
        while todo:
            a, b = todo.pop()
            if a is b:
                continue
            if isinstance(a, Frozen):
                if type(a) is not type(b) or a._hash != b._hash:
                    return False
                todo += ((getattr(a, name), getattr(b, name)) for name in _compared(_kind(a)))
            elif isinstance(a, tuple) and isinstance(b, tuple):
                if len(a) != len(b):
                    return False
                todo += zip(a, b, strict=True)
            elif a != b:
                return False
        return True

    def __repr__(self) -> str:
        return shown(self, {})

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (_rows(self),)


def shown(root: Frozen, known: dict[Frozen, str]) -> str:
    """What ``repr`` gives; ``known`` has the texts of nodes, and gets those below this one."""

    def text(value: Any) -> str:
        if isinstance(value, Frozen):
            return known[value]
        if type(value) is not tuple:
            return repr(value)
        return f"({', '.join(map(text, value))}{',' * (len(value) == 1)})"

    for node in _inner_first(root, known):
        parts = (f"{name}={text(getattr(node, name))}" for name in _shown(_kind(node)))
        known[node] = f"{type(node).__qualname__}({', '.join(parts)})"
    return known[root]


class _Place(int):
    """Where a node stands among the rows of a pickled tree."""


def _rows(root: Frozen) -> list[tuple[type, list[Any]]]:
    """Every node below one and itself, last, by its class and its fields; nodes are places."""
    rows: list[tuple[type, list[Any]]] = []
    places: dict[int, _Place] = {}

    def flat(value: Any) -> Any:
        if isinstance(value, Frozen):
            return places[id(value)]
        return tuple(map(flat, value)) if type(value) is tuple else value

    for node in _inner_first(root, ()):
        rows.append((type(node), [flat(getattr(node, name)) for name in _made_of(_kind(node))]))
        places[id(node)] = _Place(len(rows) - 1)
    return rows


def _inner_first(root: Frozen, known: Container[Frozen]) -> Iterator[Frozen]:
    """Every node from one down, each object once and after all inside it, but the ``known``."""
    visited: set[int] = set()
    todo = [root]
    while todo:
        node = todo[-1]
        if id(node) in visited or node in known:
            todo.pop()
            continue
        values = [getattr(node, name) for name in _made_of(_kind(node))]
        inner = [each for each in _nodes(values) if id(each) not in visited and each not in known]
        if inner:
            todo += inner
        else:
            visited.add(id(todo.pop()))
            yield node


def _nodes(values: list[Any]) -> list[Frozen]:
    """The nodes in some fields, those in tuples too."""
    found, todo = [], list(values)
    while todo:
        value = todo.pop()
        if isinstance(value, Frozen):
            found.append(value)
        elif type(value) is tuple:
            todo += value
    return found


def _rebuilt(rows: list[tuple[type, list[Any]]]) -> Any:
    made: list[Any] = []

    def full(value: Any) -> Any:
        if isinstance(value, _Place):
            return made[value]
        return tuple(map(full, value)) if type(value) is tuple else value

    for kind, values in rows:
        pairs = zip(_made_of(kind), values, strict=True)
        made.append(kind(**{name: full(value) for name, value in pairs}))
    return made[-1]


def _kind(node: Frozen) -> Any:
    return type(node)


@cache
def _compared(kind: Any) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind) if item.compare)


@cache
def _shown(kind: Any) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind) if item.repr)


@cache
def _made_of(kind: Any) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind) if item.init)
