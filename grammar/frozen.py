"""What every node of a tree is: frozen, and compared, hashed, printed and pickled without recursion.

Python's dataclasses do all four by calling themselves for what is inside, so that a deep tree ends
in a RecursionError wherever the caller is deep too. It must not know any kind of node.
"""

from __future__ import annotations

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
        values = [getattr(self, name) for name in _compared(type(self))]
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
                todo += ((getattr(a, name), getattr(b, name)) for name in _compared(type(a)))
            elif isinstance(a, tuple) and isinstance(b, tuple):
                if len(a) != len(b):
                    return False
                todo += zip(a, b, strict=True)
            elif a != b:
                return False
        return True

    def __repr__(self) -> str:
        out: list[str] = []
        todo: list[tuple[bool, Any]] = [(False, self)]  # a text as it is, or a value to be shown
        while todo:
            is_text, value = todo.pop()
            if is_text:
                out.append(value)
                continue
            if isinstance(value, Frozen):
                shown = [(f"{name}=", getattr(value, name)) for name in _shown(type(value))]
                opening, closing = f"{type(value).__qualname__}(", ")"
            elif type(value) is tuple:
                shown = [("", item) for item in value]
                opening, closing = "(", ",)" if len(value) == 1 else ")"
            else:
                out.append(repr(value))
                continue
            parts = [(True, opening)]
            for i, (label, item) in enumerate(shown):
                parts += [(True, ", " * (i > 0) + label), (False, item)]
            todo += reversed([*parts, (True, closing)])
        return "".join(out)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (_rows(self),)


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

    todo = [root]
    while todo:
        node = todo[-1]
        values = [getattr(node, name) for name in _given(type(node))]
        inner = [each for each in _nodes(values) if id(each) not in places]
        if inner and id(node) not in places:
            todo += inner
            continue
        todo.pop()
        if id(node) not in places:
            rows.append((type(node), [flat(value) for value in values]))
            places[id(node)] = _Place(len(rows) - 1)
    return rows


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
        given = zip(_given(kind), values, strict=True)
        made.append(kind(**{name: full(value) for name, value in given}))
    return made[-1]


@cache
def _compared(kind: type) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind) if item.compare)  # type: ignore[arg-type]


@cache
def _shown(kind: type) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind) if item.repr)  # type: ignore[arg-type]


@cache
def _given(kind: type) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind) if item.init)  # type: ignore[arg-type]
