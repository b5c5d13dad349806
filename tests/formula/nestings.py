"""Every way in which formulas can stand inside each other, from the grammar and the words' fields.

Nothing here names a construct: a rule that is added to formula.lark, or a word with an argument
that holds scores, numbers or a condition, is nested by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from descant.formula import STAGES
from descant.formula.names import SCALAR_FUNCTIONS, STATE
from descant.formula.words.operators import OPERATORS, STAGED
from descant.formula.words.signature import Signature
from descant.grammar import FormulaError, parse
from descant.grammar.parse import language

LEAF = "base"
TOKENS = {"NOIMAGE": "@noimage", "NAME": "base", "NUMBER": "1", "STRING": '"s"'}
SCORES, NUMBER, CONDITION, REWARD = "base", "a", "step < 1", "rm"
PLAIN = {
    "scores": SCORES, "number": "1", "condition": CONDITION, "reward": REWARD, "model": SCORES,
    "pair": "(0, 1)", "label": "0", "by_token": "{1: 1}",
}  # fmt: skip
NEEDED = {"every": "keep"}  # without which an argument says nothing


class Nesting(NamedTuple):
    """Text before and after what is inside; the innermost, and what stands around it all."""

    name: str
    before: str
    after: str
    leaf: str
    around: tuple[str, str] = ("", "")

    def times(self, count: int) -> str:
        """So many of them, inside each other."""
        inside = self.before * count + self.leaf + self.after * count
        return inside.join(self.around)

    def deepest(self, most: int = 256, low: int = 0) -> int:
        """How many of them the parser takes, from ``low``, which it does, to ``most``."""
        while low < most:
            middle = (low + most + 1) // 2
            try:
                parse(self.times(middle))
                low = middle
            except FormulaError:
                most = middle - 1
        return low


def of_grammar() -> Iterator[Nesting]:
    """One per production of the grammar and symbol in it that leads back to the production."""
    for origin, symbols in _productions():
        down, up = _way(origin, "atom"), _way("pipeline", origin)
        for place, symbol in enumerate(symbols):
            if down and up and (back := _way(symbol, origin)):
                before, after = _around(symbols, place)
                before, after = before + back[0], back[1] + after
                if (before + after).strip():
                    leaf = LEAF.join(down)
                    yield Nesting(f"{origin}: {before}…{after}", before, after, leaf, up)


def placed(nesting: Nesting) -> Iterator[Nesting]:
    """A nesting around scores, a number and a condition, by itself and where each may stand."""
    for leaf in (SCORES, NUMBER, f"({CONDITION})"):
        for before, after in (("", ""), (f"{SCORES}*(", ")"), ("where(", f", {SCORES}, arm)")):
            around = before + nesting.around[0], nesting.around[1] + after
            yield nesting._replace(leaf=nesting.leaf.replace(LEAF, leaf), around=around)


def of_words() -> Iterator[Nesting]:
    """One per argument of each word of the language that may hold a formula of its own kind."""
    for name, cls in [*OPERATORS.items(), *STAGES.items()]:
        for key, item in cls.arguments().items():
            for i, nesting in enumerate(_of_argument(cls, key, item.metadata["kind"])):
                yield nesting._replace(name=f"{name}({key}) {i}")
    for name, (least, _) in SCALAR_FUNCTIONS.items():
        more = ", 1" * (least - 1)
        yield Nesting(f"{name} of 1 +", f"{name}(1 + ", f"{more})", NUMBER, (f"{SCORES}*", ""))
        yield Nesting(f"{name} of a", f"{name}(", f"{more})", NUMBER, (f"{SCORES}*", ""))
        around = ("where(", " < 1, base, arm)")
        yield Nesting(f"{name} of step", f"{name}(", f"{more})", "step", around)
    for name, count in STATE.items():
        if count:
            more = ", arm" * (count - 1)
            yield Nesting(name, f"where({name}(", f"{more}) < 1, {SCORES}, arm)", SCORES)
            yield Nesting(f"{name} as a factor", f"{name}(", f"{more})*{SCORES}", SCORES)


def _of_argument(cls: type[Signature], key: str, kind: str) -> Iterator[Nesting]:
    """The nestings of one argument, without their names."""
    is_stage = cls.name in STAGES
    leaf = REWARD if kind == "reward" else SCORES
    if kind in ("scores", "many", "weighted", "reward", "model"):
        before, after = _call(cls, key)
        if is_stage:
            before, after = f"({SCORES} | {before}", f"{after})"
        yield Nesting("", before, after, leaf)
    if kind == "reward":
        before, after = _call(cls, key)
        yield Nesting("", "(1*", ")", REWARD, (f"{SCORES} | {before}", after))
    if kind == "weighted":
        yield Nesting("", *_call(cls, key, ("a: a*", ", 1: arm")), SCORES)
        before, after = _call(cls, key, ("", f": {SCORES}"))
        yield Nesting("", "abs(1+", ")", NUMBER, (before, after))
    if kind == "condition":
        before, after = _call(cls, key)
        yield Nesting("", "not ", "", CONDITION, (before, after))
        yield Nesting("", "(", ") and step < 1", CONDITION, (before, after))
    if kind in ("number", "pair", "by_token"):
        inside = {"pair": ("(0, ", ")"), "by_token": ("{1: ", "}")}.get(kind, ("", ""))
        before, after = _call(cls, key, inside)
        around = (f"{SCORES} | {before}", after) if is_stage else (before, after)
        yield Nesting("", "abs(", ")", "1", around)
    if is_stage:
        options = cls.arguments()[key].metadata.get("options", ("",))
        call = PLAIN.get(kind, options[-1]).join(_call(cls, key))
        yield Nesting("", "(", f" | {call})", SCORES)
    if cls.name in STAGED:
        before, after = _call(cls, key)
        yield Nesting("", f"{cls.name}(", f", {PLAIN[kind]})", SCORES)


def _call(cls: type[Signature], key: str, around: tuple[str, str] = ("", "")) -> tuple[str, str]:
    """A call of a word, in two texts: before and after what its argument ``key`` holds."""
    mark = "\0"
    plain: list[str] = []
    many: list[str] = []
    for name, item in cls.arguments().items():
        kind = item.metadata["kind"]
        inside = mark.join(around) if name == key else PLAIN.get(kind, SCORES)
        if kind == "many":
            many = [inside, "arm"]
        elif kind == "weighted":
            many = [inside if ":" in inside else f"1: {inside}"]
        elif name == key or name in (*cls.required(), NEEDED.get(key)):
            plain.append(f"{name}={inside}")
    before, _, after = f"{cls.name}({', '.join([*plain, *many])})".partition(mark)
    return before, after


@cache
def _productions() -> list[tuple[str, tuple[str, ...]]]:
    return [
        (str(rule.origin.name), tuple(str(symbol.name) for symbol in rule.expansion))
        for rule in language().rules
    ]


@cache
def _shortest(symbol: str) -> str:
    """The shortest text of a symbol."""
    terminals = {terminal.name: terminal.pattern for terminal in language().terminals}
    if symbol in terminals:
        return TOKENS.get(symbol) or f" {terminals[symbol].value} "
    texts: dict[str, str] = {}
    while symbol not in texts:
        for origin, symbols in _productions():
            known = [
                texts.get(each) if each not in terminals else _shortest(each) for each in symbols
            ]
            if all(text is not None for text in known):
                text = "".join(filter(None, known))
                if len(text) < len(texts.get(origin, text + "-")):
                    texts[origin] = text
    return texts[symbol]


def _around(symbols: tuple[str, ...], place: int) -> tuple[str, str]:
    before = "".join(map(_shortest, symbols[:place]))
    return before, "".join(map(_shortest, symbols[place + 1 :]))


def _way(start: str, goal: str) -> tuple[str, str] | None:
    """The texts around ``goal`` where it is derived from ``start`` in few steps, if it ever is."""
    ways: dict[str, tuple[str, str]] = {start: ("", "")}
    todo = [start]
    for symbol in todo:  # which grows
        if symbol == goal:
            return ways[symbol]
        for origin, symbols in _productions():
            if origin != symbol:
                continue
            for place, each in enumerate(symbols):
                if each not in ways:
                    before, after = _around(symbols, place)
                    ways[each] = ways[symbol][0] + before, after + ways[symbol][1]
                    todo.append(each)
    return None
