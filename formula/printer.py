"""A plan's nodes as text, for those who read what each of them did.

What is written is a formula again, with like terms collected; a long system prompt is cut short.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..grammar.literals import write_string
from .nodes import Linear, Node, Predicate, Read, Scalar, Staged, State, numbers
from .scalar import show
from .words.operators import STAGED
from .words.signature import Signature
from .words.stages import Stage

_CALLED = ("abs", "exp", "log", "sqrt", "max", "min")  # written before their arguments


def written(node: Node | Stage | Scalar) -> str:
    """The text of a node, a stage or a number."""
    match node:
        case Scalar():
            return str(node)
        case Read(term):
            return str(term)
        case Linear(parts, shift):
            sums = [_product(coefficient, part) for coefficient, part in parts]
            return _sum([*sums, *([str(shift)] if shift is not None else [])])
        case Staged(head, (stage,)) if stage.name in STAGED:  # as in top_k(base, 10)
            return f"{stage.name}({written(head)}, {written(next(numbers(stage)))})"
        case Staged(head, stages):
            return f"({' | '.join(map(written, (head, *stages)))})"
        case State(name, of):
            return name if of is None else f"{name}({written(of)})"
        case Predicate():
            return _predicate(node)
        case Signature():
            return f"{node.name}({_arguments(node)})"
    raise TypeError(f"no text for {node}")


def _product(coefficient: Scalar, part: Node) -> str:
    factor = show(coefficient.expression, 1)
    if factor in ("1", "-1"):
        return factor[:-1] + written(part)
    return f"{factor}*{written(part)}"


def _sum(parts: Iterable[str]) -> str:
    first, *rest = parts
    return first + "".join(f" - {p[1:]}" if p.startswith("-") else f" + {p}" for p in rest)


def _predicate(node: Predicate) -> str:
    said = [_side(part) for part in node.parts]
    if node.op in _CALLED:
        return f"{node.op}({', '.join(map(written, node.parts))})"
    if len(said) == 1:
        return f"{node.op}{' ' if node.op.isalpha() else ''}{said[0]}"
    return f" {node.op} ".join(said)


def _side(node: Any) -> str:
    if isinstance(node, Scalar):
        return show(node.expression, 2)
    bare = not isinstance(node, Predicate) or node.op in _CALLED
    return written(node) if bare else f"({written(node)})"


def _arguments(node: Signature) -> str:
    """Every number, by name in a stage; words where they are not the default."""
    said: list[str] = []
    for key, item in type(node).arguments().items():
        value, kind = getattr(node, key), item.metadata["kind"]
        match kind:
            case "number":
                said.append(f"{key}={value}" if isinstance(node, Stage) else str(value))
            case "scores" | "condition" | "reward":
                said.append(written(value))
            case "many":
                said += map(written, value)
            case "weighted":
                pairs = ", ".join(f"{weight}: {written(part)}" for weight, part in value)
                said = ["; ".join([*said, pairs])]
            case "pair" if value is not None:
                said.append(f"{key}=({value[0]}, {value[1]})")
            case "label" if value is not None:
                said.append(f"{key}={write_string(value) if isinstance(value, str) else value}")
            case "choice" if value != item.default:
                said.append(f"{key}={value}")
    return ", ".join(said)
