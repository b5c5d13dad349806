"""Tree to text: one canonical spelling for each tree, with no parenthesis that it can do without.

Which parentheses those are is read from the rules of formula.lark: a node stands without them
if the rule for its position leads to the rule for the node. This file must hold no table of its own
of how tightly operators bind. It does not recurse, so a tree of any depth has a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple, TypeAlias

from .literals import write_number, write_string
from .parse import language
from .tree import Argument, Binary, Call, Name, Node, Number, Pipeline, Prompted, Text, Tuple, Unary

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
    rules = _rules()
    out: list[str] = []
    todo: list[_Part] = [(node, rules.start)]
    while todo:
        part = todo.pop()
        if isinstance(part, str):
            out.append(part)
            continue
        written = _written(part[0], rules)
        if written.rule not in rules.within[part[1]]:
            out.append("(")
            todo.append(")")
        todo.extend(reversed(written.parts))
    return "".join(out)


_Part: TypeAlias = str | tuple[Node, str]  # text, or a node and the rule for its position


class _Written(NamedTuple):
    """The parts of a node, and the rule that makes it."""

    parts: list[_Part]
    rule: str


class _Rules(NamedTuple):
    """The rules of formula.lark that decide where nodes may stand, by their names."""

    start: str
    within: dict[str, set[str]]  # the rules that may stand bare where a rule is called for
    binary: dict[str, tuple[str, str, str]]  # operator: its rule, and its operands' rules
    unary: dict[str, tuple[str, str]]
    argument: dict[str, list[str]]  # plain, keyword, weighted: the rules of their parts
    item: str  # of a tuple
    head: str  # of a pipeline


@cache
def _rules() -> _Rules:
    grammar = language()
    symbols = {terminal.name: terminal.pattern.value for terminal in grammar.terminals}
    rules = _Rules(grammar.options.start[0], {}, {}, {}, {}, "", "")
    steps: dict[str, set[str]] = {}
    for rule in grammar.rules:
        origin = str(rule.origin.name)
        names = [symbol.name for symbol in rule.expansion]
        steps.setdefault(origin, set())
        if rule.alias == "binary":
            left, op, right = names
            rules.binary[symbols[op]] = (origin, left, right)
        elif rule.alias == "unary":
            rules.unary[symbols[names[0]]] = (origin, names[1])
        elif rule.alias == "staged":
            rules = rules._replace(head=names[0])
        elif origin in ("plain", "keyword", "weighted"):
            rules.argument[origin] = [name for name in names if name not in symbols]
        elif origin == "tuple":
            rules = rules._replace(item=names[1])
        elif len(names) == 1:
            steps[origin].add(names[0])
    rules.within.update({origin: _reached(origin, steps) for origin in steps})
    return rules


def _reached(origin: str, steps: dict[str, set[str]]) -> set[str]:
    reached, todo = {origin}, [origin]
    while todo:
        new = steps.get(todo.pop(), set()) - reached
        reached |= new
        todo.extend(new)
    return reached


def _written(node: Node, rules: _Rules) -> _Written:
    match node:
        case Number(value):
            return _number(node, rules)
        case Text(value):
            return _Written([write_string(value)], "atom")
        case Name(name):
            return _Written([name], "atom")
        case Prompted(model, prompt):
            value = prompt.name if isinstance(prompt, Name) else write_string(prompt.value)
            return _Written([f"{model.name}@{value}"], "prompted")
        case Unary(op, operand):
            rule, below = _known(op, rules.unary)
            return _Written([f"{op} " if op.isalpha() else op, (operand, below)], rule)
        case Binary(op, left, right):
            rule, before, after = _known(op, rules.binary)
            spaced = op if op in TIGHT else f" {op} "
            return _Written([(left, before), spaced, (right, after)], rule)
        case Tuple(items):
            inside = _joined([[(item, rules.item)] for item in items], ", ")
            return _Written(["(", *inside, ")"], "tuple")
        case Call():
            return _Written(_call(node, rules), "call")
        case Pipeline(head, stages):
            parts = [" | ", *_joined([_call(stage, rules) for stage in stages], " | ")]
            return _Written([(head, rules.head), *parts], "pipeline")
    raise ValueError(f"a formula cannot hold a {type(node).__name__}")


def _number(node: Number, rules: _Rules) -> _Written:
    """A decimal, or what the parser would build for a number that text has no decimal for."""
    if node.value < 0:
        rule, below = rules.unary["-"]
        return _Written(["-", (Number(-node.value), below)], rule)
    written = write_number(node.value)
    return _Written([written], rules.binary["/"][0] if "/" in written else "atom")


def _call(call: Call, rules: _Rules) -> list[_Part]:
    written = [_argument(argument, rules) for argument in call.arguments]
    weighted = [argument.weight is not None for argument in call.arguments]
    first = weighted.index(True) if any(weighted) else 0
    before, after = _joined(written[:first], ", "), _joined(written[first:], ", ")
    return [f"{call.function.name}(", *before, *(["; "] if first else []), *after, ")"]


def _argument(argument: Argument, rules: _Rules) -> list[_Part]:
    if argument.name is not None:
        return [f"{argument.name.name}=", (argument.value, rules.argument["keyword"][-1])]
    if argument.weight is not None:
        weight, value = rules.argument["weighted"]
        return [(argument.weight, weight), ": ", (argument.value, value)]
    return [(argument.value, rules.argument["plain"][0])]


def _joined(lists: Iterable[list[_Part]], between: str) -> list[_Part]:
    joined: list[_Part] = []
    for parts in lists:
        joined += [between, *parts] if joined else parts
    return joined


def _known(op: str, table: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    if op not in table:
        raise ValueError(f"a formula has no operator {op} here; it has {' '.join(sorted(table))}")
    return table[op]
