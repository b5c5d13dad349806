"""Matching the arguments of a call to a signature, before their kinds are checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ...grammar import Argument, Call, FormulaError, Node, Span, did_you_mean
from .signature import Signature


@dataclass
class MatchedArguments:
    """A call's arguments: those with a name of their own, and those in a list."""

    single: dict[str, Node] = field(default_factory=dict)
    many: list[Argument] = field(default_factory=list)


def match_arguments(call: Call, cls: type[Signature], source: str) -> MatchedArguments:
    """Give every argument of a call its name.

    Raises:
        FormulaError: unknown, doubled or missing arguments, or weights where none are taken.
    """
    signature = cls.arguments()
    rest = next((k for k, v in signature.items() if v.metadata["kind"] in ("many", "weighted")), "")
    weighted = bool(rest) and signature[rest].metadata["kind"] == "weighted"
    names = [name for name in signature if name != rest]
    matched, position = MatchedArguments(), 0
    for argument in call.arguments:
        if argument.weight is not None:
            if not weighted:
                raise _error(f"{cls.name} takes no weighted arguments", source, argument.span)
            matched.many.append(argument)
            continue
        if argument.name is not None:
            key = argument.name.name
            if key not in names:
                cure = did_you_mean(key, names)
                raise _error(f"{cls.name} has no argument {key}", source, argument.name.span, cure)
        elif position < len(names):
            key = names[position]
            position += 1
        elif rest and not weighted:
            matched.many.append(argument)
            continue
        else:
            raise _error(
                _too_many(cls, names, weighted), source, argument.span, f"write {usage(cls)}"
            )
        if key in matched.single:
            raise _error(f"{cls.name} is given {key} twice", source, argument.span)
        matched.single[key] = argument.value
    missing = [key for key in cls.required() if key != rest and key not in matched.single]
    if missing:
        problem = f"{cls.name} needs its argument {missing[0]}"
        raise _error(problem, source, call.span, f"write {usage(cls)}")
    if rest and len(matched.many) < (1 if weighted else 2):
        wanted = "weighted scores" if weighted else "two scores or more"
        raise _error(f"{cls.name} takes {wanted}", source, call.span, f"write {usage(cls)}")
    return matched


def usage(cls: type[Signature]) -> str:
    """How a call is written: ``rerank(reward, k=10, w=1)``."""
    required, parts = cls.required(), []
    for key, item in cls.arguments().items():
        match item.metadata["kind"]:
            case "many":
                parts.append("x, y, …")
            case "weighted":
                parts.append("0.5: x, 0.5: y")
            case "number" if key not in required:
                parts.append(f"{key}={item.default:g}")
            case _ if key in required:
                parts.append(key)
    joined = ", ".join(parts)
    return f"{cls.name}({joined})".replace("p, 0.5:", "p; 0.5:")


def _too_many(cls: type[Signature], names: Iterable[str], weighted: bool) -> str:
    if weighted:
        return f"{cls.name} takes weighted arguments"
    names = list(names)
    return f"{cls.name} takes at most {len(names)} argument{'s' if len(names) > 1 else ''}"


def _error(problem: str, source: str, span: Span, cure: str = "") -> FormulaError:
    return FormulaError(problem, source, span, cure)
