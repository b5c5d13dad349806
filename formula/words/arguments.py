"""Matching the arguments of a call to a signature, before their kinds are checked."""

from __future__ import annotations

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

    def error(problem: str, span: Span, cure: str = "") -> FormulaError:
        return FormulaError(f"{cls.name} {problem}", source, span, cure)

    rest = {item.metadata["kind"]: key for key, item in cls.arguments().items()}
    weighted, texts = rest.get("weighted"), rest.get("texts")
    others = rest.get("many") or texts or weighted
    names = [name for name in cls.arguments() if name != others]
    unnamed = iter(names)
    matched = MatchedArguments()
    for argument in call.arguments:
        if argument.weight is not None:
            if not weighted:
                raise error("takes no weighted arguments", argument.span)
            matched.many.append(argument)
            continue
        if argument.name is not None:
            key = argument.name.name
            if key not in names:
                cure = did_you_mean(key, names)
                raise error(f"has no argument {key}", argument.name.span, cure)
        elif not (key := next(unnamed, "")):
            if others and not weighted:
                matched.many.append(argument)
                continue
            most = f"at most {len(names)} argument{'s' if len(names) > 1 else ''}"
            problem = f"takes {'weighted arguments' if weighted else most}"
            raise error(problem, argument.span, f"write {usage(cls)}")
        if key in matched.single:
            raise error(f"is given {key} twice", argument.span)
        matched.single[key] = argument.value
    for key in cls.required():
        if key != others and key not in matched.single:
            raise error(f"needs its argument {key}", call.span, f"write {usage(cls)}")
    if others and len(matched.many) < (1 if weighted or texts else 2):
        wanted = "weighted scores" if weighted else "two scores or more"
        wanted = "one text or more" if texts else wanted
        raise error(f"takes {wanted}", call.span, f"write {usage(cls)}")
    return matched


def usage(cls: type[Signature]) -> str:
    """How a call is written: ``rerank(reward, k=10, w=1)``."""
    required, parts = cls.required(), []
    for key, item in cls.arguments().items():
        match item.metadata["kind"]:
            case "many":
                parts.append("x, y, …")
            case "by_token":
                parts.append("{50256: -100}")
            case "texts":
                parts.append('"…", "…"')
            case "source" if cls.name == "regex":
                parts.append('"…"')
            case "weighted":
                parts.append("0.5: x, 0.5: y")
            case "number" if key not in required and item.default is not None:
                parts.append(f"{key}={item.default:g}")
            case _ if key in required:
                parts.append(key)
    joined = ", ".join(parts)
    return f"{cls.name}({joined})".replace("p, 0.5:", "p; 0.5:")
