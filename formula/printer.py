"""A plan's nodes as text.

The text is a formula again, with like terms collected; a long system prompt is cut short.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..grammar.literals import write_string
from ..grammar.unrolled import Steps, unrolled
from .nodes import Linear, Node, Predicate, Read, Staged, numbers
from .scalar import Scalar, added, show
from .words.constraints import cut_string
from .words.operators import STAGED
from .words.signature import Signature
from .words.stages import Stage


def written(node: Node | Stage | Scalar) -> str:
    """The text of a node, a stage or a number."""
    return unrolled(_written(node))


def written_product(coefficient: Scalar, part: Node) -> str:
    """The text of a part of a sum with its coefficient."""
    return unrolled(_product(coefficient, part))


def written_without_rewards(stage: Stage) -> str:
    """The text of a stage without its reward expression: ``rerank(k=10, w=1.5)``."""
    return f"{stage.name}({unrolled(_arguments(stage, rewards=False))})"


def _written(node: Node | Stage | Scalar) -> Steps[str]:
    match node:
        case Scalar():
            return str(node)
        case Read():
            return str(node)
        case Linear(parts, shift):
            products = []
            for coefficient, part in parts:
                products.append((yield _product(coefficient, part)))
            return added(products if shift is None else [*products, str(shift)])
        case Staged(head, (stage,)) if stage.name in STAGED:  # as in top_k(base, 10)
            return (
                f"{stage.name}({(yield _written(head))}, {(yield _written(next(numbers(stage))))})"
            )
        case Staged(head, stages):
            return f"({' | '.join((yield _all((head, *stages))))})"
        case Predicate():
            text: str = yield _predicate(node)
            return text
        case Signature():
            return f"{node.name}({(yield _arguments(node))})"
    raise TypeError(f"no text for {node}")


def _all(nodes: Iterable[Node | Stage | Scalar]) -> Steps[list[str]]:
    texts = []
    for node in nodes:
        texts.append((yield _written(node)))
    return texts


def _product(coefficient: Scalar, part: Node) -> Steps[str]:
    factor, text = show(coefficient.expression, 1), (yield _written(part))
    return factor[:-1] + text if factor in ("1", "-1") else f"{factor}*{text}"


def _predicate(node: Predicate) -> Steps[str]:
    sides: list[str] = []
    for part in node.parts:
        text = yield _written(part)
        sides.append(text if isinstance(part, Scalar) else f"({text})")
    return f"{node.op} {sides[0]}" if len(sides) == 1 else f" {node.op} ".join(sides)


def _arguments(node: Signature, rewards: bool = True) -> Steps[str]:
    """Every number, by name in what is no built-in operator; words that are not the default."""
    parts: list[str] = []
    for key, item in type(node).arguments().items():
        value, kind = getattr(node, key), item.metadata["kind"]
        match kind:
            case "number" if value is not None:
                named = isinstance(node, Stage) or node.own is not None
                parts.append(f"{key}={value}" if named else str(value))
            case "reward" if not rewards:
                pass
            case "scores" | "condition" | "reward":
                parts.append((yield _written(value)))
            case "many":
                parts += yield _all(value)
            case "weighted":
                texts = yield _all(part for _, part in value)
                pairs = [
                    f"{weight}: {text}" for (weight, _), text in zip(value, texts, strict=True)
                ]
                parts = ["; ".join([*parts, ", ".join(pairs)])]
            case "source":
                parts.append(str(value))
            case "texts":
                parts += map(cut_string, value)
            case "by_token":
                parts.append(f"{{{', '.join(f'{each.token}: {each.number}' for each in value)}}}")
            case "pair" if value is not None:
                parts.append(f"{key}=({value[0]}, {value[1]})")
            case "label" if value is not None:
                parts.append(f"{key}={write_string(value) if isinstance(value, str) else value}")
            case "string" if value is not None:
                parts.append(f"{key}={write_string(value.value)}")
            case "choice" if value != item.default:
                parts.append(f"{key}={value}")
    return ", ".join(parts)
