"""A second meaning of formulas, and formulas at random: what the compiled step is held against.

The interpreter walks the tree in double precision, one text at a time, with no collecting, no plan
and no batch. It also says how close any of its choices was, so that a law is not held against
rounding. It shares the syntax tree with descant, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from hypothesis import strategies as st

from descant.grammar import Argument, Binary, Call, Name, Node, Number, Pipeline, Unary

MODELS, REWARDS, PARAMS = ("base", "arm", "arm2"), ("rm", "rm2"), ("a", "b")
Table = Sequence[Sequence[float]]


@dataclass
class World:
    """The tables of every model, the parameters, and the text so far."""

    tables: Mapping[str, Table]
    params: Mapping[str, float]
    text: Sequence[int]
    margin: float = math.inf  # of the closest choice

    def scores(self, node: Node) -> dict[int, float]:
        """The tokens that are not excluded, with their scores."""
        if not isinstance(node, Pipeline):
            row = self._vector(node, len(self.tables["base"]))
            return dict(enumerate(row))
        found = self.scores(node.head)
        for stage in node.stages:
            found = self._stage(stage, found)
        return found

    def _vector(self, node: Node, width: int) -> list[float]:
        match node:
            case Name(name) if name in MODELS:
                return _log_softmax(self.tables[name][self.text[-1]])
            case Name(name) if name in REWARDS:
                return list(self.tables[name][self.text[-1]])
            case Unary(op, operand):
                return [-x if op == "-" else x for x in self._vector(operand, width)]
            case Binary("+" | "-" as op, left, right):
                sign = 1 if op == "+" else -1
                pairs = zip(self._vector(left, width), self._vector(right, width), strict=True)
                return [x + sign * y for x, y in pairs]
            case Binary("*", left, right):
                pairs = zip(self._vector(left, width), self._vector(right, width), strict=True)
                return [x * y for x, y in pairs]
            case Binary("/", left, right):
                pairs = zip(self._vector(left, width), self._vector(right, width), strict=True)
                return [x / y for x, y in pairs]
            case Number(value):
                return [float(value)] * width
            case Name(name):
                return [self.params[name]] * width
            case Call(function, arguments):
                values = [self._number(one.value) for one in arguments]
                return [{"max": max, "min": min, "abs": abs}[function.name](*values)] * width
        raise TypeError(node)

    def _number(self, node: Node) -> float:
        return self._vector(node, 1)[0]

    def _stage(self, stage: Call, found: dict[int, float]) -> dict[int, float]:
        given = {one.name.name: one.value for one in stage.arguments if one.name}
        numbers = {key: self._number(node) for key, node in given.items() if key != "reward"}
        order = sorted(found, key=lambda token: -found[token])
        match stage.function.name:
            case "top_k":
                return self._first(order, found, int(numbers["k"]))
            case "rerank":
                kept = self._first(order, found, int(numbers["k"]))
                rewards = self._vector(given["reward"], len(self.tables["base"]))
                return {t: value + numbers["w"] * rewards[t] for t, value in kept.items()}
            case "top_p":
                shares, total = _softmax(found), 0.0
                for count, token in enumerate(order, 1):
                    self._close(total - numbers["p"])
                    total += shares[token]
                    if total > numbers["p"]:
                        self._close(total - numbers["p"])
                        return self._first(order, found, count)
                return found
            case "min_p":
                if numbers["p"] == 0:
                    return found
                least = found[order[0]] + math.log(numbers["p"])
                for token in order:
                    self._close(found[token] - least)
                return {token: value for token, value in found.items() if value >= least}
            case "temperature":
                return {token: value / numbers["t"] for token, value in found.items()}
            case "repetition_penalty":
                x, seen = numbers["x"], set(self.text)
                return {
                    t: (v * x if v < 0 else v / x) if t in seen else v for t, v in found.items()
                }
        raise TypeError(stage)

    def _first(self, order: list[int], found: dict[int, float], k: int) -> dict[int, float]:
        if k < len(order):
            self._close(found[order[k - 1]] - found[order[k]])
        return {token: found[token] for token in order[:k]}

    def _close(self, distance: float) -> None:
        self.margin = min(self.margin, abs(distance))


def _log_softmax(row: Sequence[float]) -> list[float]:
    most = max(row)
    total = most + math.log(math.fsum(math.exp(x - most) for x in row))
    return [x - total for x in row]


def _softmax(found: Mapping[int, float]) -> dict[int, float]:
    return dict(zip(found, map(math.exp, _log_softmax(list(found.values()))), strict=True))


numbers = st.builds(Number, st.sampled_from([Fraction(n, 4) for n in (1, 2, 3, 4, 6, 8, 12)]))
scalars = st.recursive(
    numbers | st.builds(Name, st.sampled_from(PARAMS)),
    lambda inner: (
        st.builds(Binary, st.sampled_from(["+", "-", "*"]), inner, inner)
        | st.builds(Unary, st.just("-"), inner)
        | st.builds(
            lambda name, one, two: Call(Name(name), (Argument(one), Argument(two))),
            st.sampled_from(["max", "min"]), inner, inner,
        )
        | st.builds(lambda one: Call(Name("abs"), (Argument(one),)), inner)
    ),
    max_leaves=4,
)  # fmt: skip


def sums(names: Sequence[str], leaves: int = 8) -> st.SearchStrategy[Node]:
    """Linear expressions over some models, written every which way."""
    return st.recursive(
        st.builds(Name, st.sampled_from(names)),
        lambda inner: (
            st.builds(Binary, st.sampled_from(["+", "-"]), inner, inner)
            | st.builds(lambda by, node: Binary("*", by, node), scalars, inner)
            | st.builds(lambda by, node: Binary("*", node, by), scalars, inner)
            | st.builds(lambda by, node: Binary("/", node, by), numbers, inner)
            | st.builds(Unary, st.just("-"), inner)
        ),
        max_leaves=leaves,
    )


def _call(name: str, **given: st.SearchStrategy[Node]) -> st.SearchStrategy[Call]:
    return st.builds(
        lambda **nodes: Call(
            Name(name), tuple(Argument(node, Name(key)) for key, node in nodes.items())
        ),
        **given,
    )


def _of(*values: Fraction | int) -> st.SearchStrategy[Node]:
    return st.builds(Number, st.sampled_from([Fraction(value) for value in values]))


stages = st.one_of(
    _call("top_k", k=_of(1, 2, 3, 5, 11)),
    _call("top_p", p=_of(Fraction(1, 10), Fraction(1, 2), Fraction(9, 10), 1)),
    _call("min_p", p=_of(0, Fraction(1, 20), Fraction(3, 10))),
    _call("temperature", t=_of(Fraction(1, 2), 1, 2)),
    _call("repetition_penalty", x=_of(Fraction(1, 2), 1, Fraction(3, 2))),
    _call("rerank", reward=sums(REWARDS, 3), k=_of(1, 2, 4, 11), w=_of(0, 1, Fraction(3, 2))),
)
formulas: st.SearchStrategy[Node] = sums(MODELS) | st.builds(
    lambda head, rest: Pipeline(head, tuple(rest)),
    sums(MODELS),
    st.lists(stages, min_size=1, max_size=3),
)
values = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0])
