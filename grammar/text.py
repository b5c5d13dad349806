"""Tree to text: one canonical spelling for each tree, with no parenthesis that it can do without.

Which parentheses those are is read from the rules of formula.lark: a node stands without them
if the rule for its position leads to the rule for the node. This file must hold no table of its own
of how tightly operators bind. It does not recurse, so a tree of any depth has a text.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import NamedTuple, TypeAlias

from ..errors import ArgumentError
from .literals import write_number, write_string
from .parse import language
from .tree import (
    Added,
    Argument,
    Binary,
    Call,
    Entry,
    Mapping,
    Name,
    Node,
    Number,
    Pipeline,
    Prompted,
    Text,
    Tuple,
    Unary,
)

TIGHT = ("*", "/", "**")  # operators written without spaces around them


def text(node: Node) -> str:
    """The canonical text of a tree: parsing it gives the tree back.

    A tree built in Python may hold numbers that text has no single form for; they come out as
    quotients or with a sign, of the same value.

    Raises:
        ValueError: the tree holds something that no formula can, such as an unknown operator.

    >>> from .parse import parse
    >>> text(parse("((a)-(b - c)) * 0.50|rerank( rm,k = 10 )"))
    '(a - (b - c))*0.5 | rerank(rm, k=10)'
    """
    start, within = _rules().start, _rules().within
    out: list[str] = []
    todo: list[_Part] = [(node, start)]
    while todo:
        part = todo.pop()
        if isinstance(part, str):
            out.append(part)
            continue
        parts, rule = _written(part[0])
        if rule not in within[part[1]]:
            out.append("(")
            todo.append(")")
        todo.extend(reversed(parts))
    return "".join(out)


_Part: TypeAlias = str | tuple[Node, str]  # text, or a node and the rule for its position


class _Rules(NamedTuple):
    """The rules of formula.lark that decide where nodes may stand, by their names."""

    start: str
    within: dict[str, set[str]]  # the rules that may stand bare where a rule is called for
    forms: dict[str, dict[str, tuple[str, ...]]]  # by form and operator: its rule, its operands'

    def form(self, form: str, op: str = "") -> tuple[str, ...]:
        """The rule that makes a form, and the rules of its operands."""
        table = self.forms[form]
        if op not in table:
            known = " ".join(sorted(table))
            raise ArgumentError(f"a formula has no operator {op} here; it has {known}")
        return table[op]


@cache
def _rules() -> _Rules:
    grammar = language()
    symbols = {terminal.name: terminal.pattern.value for terminal in grammar.terminals}
    rules = _Rules(grammar.options.start[0], {}, defaultdict(dict))
    steps: dict[str, list[str]] = defaultdict(list)
    for rule in grammar.rules:
        origin, form = str(rule.origin.name), rule.alias or rule.origin.name
        names = [symbol.name for symbol in rule.expansion]
        operands = [name for name in names if name not in symbols]
        op = names[-2] if form in ("unary", "binary") else ""
        rules.forms[form].setdefault(symbols.get(op, ""), (origin, *operands))
        steps[origin] += names if len(names) == 1 else []
    for origin in [*steps]:
        reached = [origin]
        for name in reached:  # which grows
            reached += [step for step in steps[name] if step not in reached]
        rules.within[origin] = set(reached)
    return rules


def _written(node: Node) -> tuple[list[_Part], str]:
    """The parts of a node, and the rule that makes it."""
    form = _rules().form
    match node:
        case Number(value) if value < 0:  # as the parser would build it
            return _written(Unary("-", Number(-value)))
        case Number(value):
            written = write_number(value)
            return [written], form("binary", "/")[0] if "/" in written else "atom"
        case Text(value):
            return [write_string(value)], "atom"
        case Name(name):
            return [name], "atom"
        case Added(model, additions):
            return [f"{model.name}[", (additions, form("added")[1]), "]"], "added"
        case Prompted(model, prompt):
            value = prompt.name if isinstance(prompt, Name) else write_string(prompt.value)
            return [*_written(model)[0], f"@{value}"], "prompted"
        case Unary(op, operand):
            rule, below = form("unary", op)
            return [f"{op} " if op.isalpha() else op, (operand, below)], rule
        case Binary(op, left, right):
            rule, before, after = form("binary", op)
            spaced = op if op in TIGHT else f" {op} "
            return [(left, before), spaced, (right, after)], rule
        case Tuple(items):
            inside = [part for item in items for part in (", ", (item, form("tuple")[1]))]
            return ["(", *inside[1:], ")"], "tuple"
        case Mapping(entries):
            inside = [part for entry in entries for part in (", ", *_entry(entry))]
            return ["{", *inside[1:], "}"], "mapping"
        case Call():
            return _call(node), "call"
        case Pipeline(head, stages):
            after_head = (part for stage in stages for part in (" | ", *_call(stage)))
            return [(head, form("staged")[1]), *after_head], "pipeline"
    raise ArgumentError(f"a formula cannot hold a {type(node).__name__}")


def _call(call: Call) -> list[_Part]:
    first = next((i for i, argument in enumerate(call.arguments) if argument.weight is not None), 0)
    parts: list[_Part] = [f"{call.function.name}("]
    for i, argument in enumerate(call.arguments):
        if i > 0:
            parts.append("; " if i == first else ", ")
        parts += _argument(argument)
    return [*parts, ")"]


def _entry(entry: Entry) -> list[_Part]:
    value = _rules().form("entry")[1]
    return [f"{write_number(entry.key.value)}: ", (entry.value, value)]


def _argument(argument: Argument) -> list[_Part]:
    form = _rules().form
    if argument.name is not None:
        return [f"{argument.name.name}=", (argument.value, form("keyword")[1])]
    if argument.weight is not None:
        _, weight, value = form("weighted")
        return [(argument.weight, weight), ": ", (argument.value, value)]
    return [(argument.value, form("plain")[1])]
