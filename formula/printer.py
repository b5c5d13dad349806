"""A plan's nodes as text.

The text is a formula again, with like terms collected; a long system prompt is cut short.
"""

from __future__ import annotations

from typing import Any

from ..grammar.literals import write_string
from .algebra.conditions import FUNCTIONS
from .nodes import Linear, Node, Predicate, Read, Scalar, Staged, State, numbers
from .scalar import added, show
from .words.operators import STAGED
from .words.signature import Signature
from .words.stages import Stage


def written(node: Node | Stage | Scalar) -> str:
    """The text of a node, a stage or a number."""
    match node:
        case Scalar():
            return str(node)
        case Read(term):
            return str(term)
        case Linear(parts, shift):
            products = [_product(coefficient, part) for coefficient, part in parts]
            return added(products if shift is None else [*products, str(shift)])
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


def written_without_rewards(stage: Stage) -> str:
    """The text of a stage without its reward expression: ``rerank(k=10, w=1.5)``."""
    return f"{stage.name}({_arguments(stage, rewards=False)})"


def _product(coefficient: Scalar, part: Node) -> str:
    factor = show(coefficient.expression, 1)
    if factor in ("1", "-1"):
        return factor[:-1] + written(part)
    return f"{factor}*{written(part)}"


def _predicate(node: Predicate) -> str:
    sides = [_side(part) for part in node.parts]
    if node.op in FUNCTIONS:
        return f"{node.op}({', '.join(map(written, node.parts))})"
    if len(sides) == 1:
        return f"{node.op}{' ' if node.op.isalpha() else ''}{sides[0]}"
    return f" {node.op} ".join(sides)


def _side(node: Any) -> str:
    if isinstance(node, Scalar):
        return show(node.expression, 2)
    bare = not isinstance(node, Predicate) or node.op in FUNCTIONS
    return written(node) if bare else f"({written(node)})"


def _arguments(node: Signature, rewards: bool = True) -> str:
    """Every number, by name in a stage; words where they are not the default."""
    parts: list[str] = []
    for key, item in type(node).arguments().items():
        value, kind = getattr(node, key), item.metadata["kind"]
        match kind:
            case "number":
                parts.append(f"{key}={value}" if isinstance(node, Stage) else str(value))
            case "reward" if not rewards:
                pass
            case "scores" | "condition" | "reward":
                parts.append(written(value))
            case "many":
                parts += map(written, value)
            case "weighted":
                pairs = ", ".join(f"{weight}: {written(part)}" for weight, part in value)
                parts = ["; ".join([*parts, pairs])]
            case "pair" if value is not None:
                parts.append(f"{key}=({value[0]}, {value[1]})")
            case "label" if value is not None:
                parts.append(f"{key}={write_string(value) if isinstance(value, str) else value}")
            case "choice" if value != item.default:
                parts.append(f"{key}={value}")
    return ", ".join(parts)
