"""Formulas at random: trees of every operator, condition and stage, over tables.

A strategy is made once for its arguments: hypothesis looks at each new one for longer than a draw
takes.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

from hypothesis import strategies as st
from interpreter import MODELS, PARAMS, REWARDS

from descant.grammar import (
    Argument,
    Binary,
    Call,
    Entry,
    Mapping,
    Name,
    Node,
    Number,
    Pipeline,
    Tuple,
    Unary,
)

DEPTH = 6


@cache
def of(*values: Fraction | int | str) -> st.SearchStrategy[Node]:
    """One of these numbers."""
    return st.sampled_from(list(map(Fraction, values))).map(_number)


def _number(value: Fraction) -> Node:
    return Unary("-", Number(-value)) if value < 0 else Number(value)


def call(name: str, *plain: Node, **named: Node) -> Call:
    """``name(plain, key=named)``."""
    given = [*map(Argument, plain), *(Argument(node, Name(key)) for key, node in named.items())]
    return Call(Name(name), tuple(given))


def weighted(*parts: tuple[Node, Node]) -> tuple[Argument, ...]:
    """``w: x, v: y``."""
    return tuple(Argument(node, weight=weight) for weight, node in parts)


numbers = st.sampled_from([Fraction(n, 4) for n in (1, 2, 3, 4, 6, 8, 12)]).map(Number)
scalars = st.recursive(
    numbers | st.sampled_from(PARAMS).map(Name),
    lambda inner: (
        st.builds(Binary, st.sampled_from(["+", "-", "*"]), inner, inner)
        | st.builds(Unary, st.just("-"), inner)
        | st.builds(call, st.sampled_from(["max", "min"]), inner, inner)
        | st.builds(call, st.just("abs"), inner)
    ),
    max_leaves=4,
)
of_models = (
    st.builds(call, st.sampled_from(["entropy", "max_prob"]), st.sampled_from(MODELS).map(Name))
    | st.builds(
        call, st.sampled_from(["kl", "js"]), *[st.sampled_from(MODELS).map(Name) for _ in "xy"]
    )
    | st.builds(
        lambda x, k: call("entropy", call("top_k", Name(x), Number(Fraction(k)))),
        st.sampled_from(MODELS), st.integers(1, 5),
    )
    | st.just(Name("step"))
)  # fmt: skip
varying = (
    of_models
    | st.builds(Binary, st.sampled_from(["+", "-", "*"]), scalars, of_models)
    | st.builds(Binary, st.sampled_from(["+", "-", "*"]), of_models, of_models)
    | st.builds(lambda x, y: call("max", x, y), scalars, of_models)
)
factors = st.one_of(scalars, scalars, varying)
weights = numbers | of(0) | st.sampled_from(PARAMS).map(lambda name: call("abs", Name(name)))


def sums_of(parts: st.SearchStrategy[Node], leaves: int = 8) -> st.SearchStrategy[Node]:
    """Sums, differences and multiples of some parts, written every which way."""
    return st.recursive(
        parts,
        lambda inner: (
            st.builds(Binary, st.sampled_from(["+", "-"]), inner, inner)
            | st.builds(lambda by, node: Binary("*", by, node), factors, inner)
            | st.builds(lambda by, node: Binary("*", node, by), factors, inner)
            | st.builds(lambda by, node: Binary("/", node, by), numbers, inner)
            | st.builds(Unary, st.just("-"), inner)
        ),
        max_leaves=leaves,
    )


@cache
def sums(names: tuple[str, ...], leaves: int = 8) -> st.SearchStrategy[Node]:
    """Linear expressions over some models."""
    return sums_of(st.sampled_from(names).map(Name), leaves)


def inside(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    """Functions of rewards that have a value whatever these are."""
    one = Number(Fraction(1))

    def above(x: Node) -> Node:
        return Binary("+", one, call("abs", x))

    return (
        st.builds(Binary, st.sampled_from(["+", "-", "*"]), inner, inner)
        | st.builds(lambda by, x: Binary("*", by, x), scalars, inner)
        | st.builds(lambda x, by: Binary("/", x, by), inner, numbers)
        | st.builds(lambda x, y: Binary("/", x, above(y)), inner, inner)
        | st.builds(lambda x, y: call("max", x, y), inner, inner | scalars)
        | st.builds(lambda x, y: call("min", x, y), inner | scalars, inner)
        | st.builds(lambda x: call("exp", Unary("-", call("abs", x))), inner)
        | st.builds(lambda name, x: call(name, above(x)), st.sampled_from(["log", "sqrt"]), inner)
        | st.builds(lambda name, x: call(name, x), st.sampled_from(["sigmoid", "abs"]), inner)
        | st.builds(lambda x: Binary("**", x, Number(Fraction(2))), inner)
    )


rewards = st.recursive(
    st.sampled_from([*REWARDS, "answer_length"]).map(Name), inside, max_leaves=6
).map(lambda x: Binary("+", x, Name(REWARDS[0])))  # with a model in any case


judged = sums(REWARDS, 3) | rewards
weighed = of(0, 1, "3/2", -1) | st.sampled_from(PARAMS).map(Name) | of_models


@st.composite
def reranks(draw: st.DrawFn) -> Call:
    """``rerank`` with any of its options."""
    given = {
        "reward": draw(judged),
        "k": draw(of(1, 2, 4, 11)),
        "w": draw(weighed),
    }
    if draw(st.booleans()):
        given["norm"] = Name(draw(st.sampled_from(["none", "center", "minmax", "prefix"])))
    if draw(st.booleans()):
        given["clamp"] = Tuple((draw(of(-1, 0, "-1/4")), draw(of("1/4", 1, 2))))
    if draw(st.booleans()):
        given["keep"] = Name(draw(st.sampled_from(["candidates", "all"])))
    return call("rerank", **given)


stages = st.one_of(
    st.builds(lambda k: call("top_k", k=k), of(1, 2, 3, 5, 11)),
    st.builds(lambda p: call("top_p", p=p), of("1/10", "1/2", "9/10", 1)),
    st.builds(lambda x: call("top_p", p=call("max_prob", Name(x))), st.sampled_from(MODELS)),
    st.builds(lambda k: call("top_k", k=Binary("+", Name("step"), k)), of(1, 3)),
    st.builds(
        lambda x, t: call("temperature", t=Binary("+", t, call("entropy", Name(x)))),
        st.sampled_from(MODELS),
        of("1/2", 1),
    ),
    st.builds(lambda p: call("min_p", p=p), of(0, "1/20", "3/10", 1)),
    st.builds(lambda t: call("temperature", t=t), of("1/2", 1, 2)),
    st.builds(lambda x: call("repetition_penalty", x=x), of("1/2", 1, "3/2")),
    st.builds(lambda x: call("presence_penalty", x=x), of("-1/2", 0, 1)),
    st.builds(lambda x: call("frequency_penalty", x=x), of("-1/2", 0, "3/4")),
    st.builds(lambda x: call("logit_bias", Mapping((Entry(Number(Fraction(1)), x),))), of(-2, 1)),
    reranks(),
)


@cache
@st.composite
def states(draw: st.DrawFn, depth: int) -> Node:
    """One side of a comparison."""
    kind = draw(
        st.sampled_from(["step", "entropy", "max_prob", "number", "param", "sum", "max", "abs"])
    )
    match kind:
        case "step":
            return Name("step")
        case "entropy" | "max_prob":
            return call(kind, draw(scores(depth - 1)))
        case "number":
            return draw(of(0, "1/4", "1/2", 1, 2, 3))
        case "param":
            return Name(draw(st.sampled_from(PARAMS)))
        case "max":
            return call(
                draw(st.sampled_from(["max", "min"])), draw(states(depth - 1)), Name("step")
            )
        case "abs":
            return call("abs", draw(states(depth - 1)))
    op = draw(st.sampled_from(["+", "-", "*"]))
    return Binary(op, draw(states(depth - 1)), draw(of("1/4", 1, 2)))


@cache
@st.composite
def conditions(draw: st.DrawFn, depth: int) -> Node:
    """Comparisons, joined."""
    kind = draw(st.sampled_from(["compare"] * 4 + ["not", "and", "or"])) if depth > 1 else "compare"
    if kind == "not":
        return Unary("not", draw(conditions(depth - 1)))
    if kind != "compare":
        return Binary(kind, draw(conditions(depth - 1)), draw(conditions(depth - 1)))
    op = draw(st.sampled_from(["<", "<=", ">", ">="]))
    return Binary(op, draw(states(depth)), draw(states(depth)))


OPERATORS = (
    "max", "min", "mix", "pmean", "mean", "temp", "top_k", "top_p", "min_p", "plausible", "debias",
    "where", "staged",
)  # fmt: skip


@cache
@st.composite
def operators(draw: st.DrawFn, depth: int, names: tuple[str, ...] = OPERATORS) -> Node:
    """One operator over scores of one level less."""
    name, x = draw(st.sampled_from(names)), draw(scores(depth - 1))
    more = scores(depth - 1)
    match name:
        case "max" | "min":
            return call(name, x, draw(more), *draw(st.lists(scores(1), max_size=1)))
        case "mix":
            one, two = draw(weights), draw(weights)
            return Call(Name("mix"), weighted((one, x), (two, draw(more))))
        case "pmean":
            near = draw(st.booleans())
            p = draw(of("1/1000000", "-1/1000000", "1/4096", 0) if near else of(-1, 1, 2, "1/2"))
            one = draw(of("1/4", "1/2", 1) if near else weights)
            two = Number(1 - one.value) if near else draw(weights)
            return Call(Name("pmean"), (Argument(p), *weighted((one, x), (two, draw(more)))))
        case "mean":
            return call("mean", x)
        case "temp":
            return call("temp", x, draw(of("1/2", 1, 2)))
        case "top_k":
            return call("top_k", x, draw(of(1, 3, 5, 11)))
        case "top_p":
            return call("top_p", x, draw(of("1/2", "9/10", 1)))
        case "min_p":
            return call("min_p", x, draw(of(0, "1/20", "3/10")))
        case "plausible":
            return call("plausible", x, draw(of(0, "1/10", "1/2", 1)))
        case "debias":
            return call("debias", x, draw(more), draw(of(0, 1, 10)))
        case "where":
            return call("where", draw(conditions(depth - 1)), x, draw(more))
    return Pipeline(x, tuple(draw(st.lists(stages, min_size=1, max_size=2))))


@cache
@st.composite
def scores(draw: st.DrawFn, depth: int = DEPTH) -> Node:
    """Scores: a model, an operator, or a sum of them, at most so many levels deep."""
    if depth <= 1:
        return Name(draw(st.sampled_from(MODELS)))
    kind = draw(st.sampled_from(["model", "operator", "operator", "sum"]))
    if kind == "model":
        return draw(sums(MODELS, 3))
    if kind == "operator":
        return draw(operators(depth))
    part = operators(depth - 1)
    parts = {"one part": draw(part), "another part": draw(part)}
    return _with(draw(sums((*parts, *MODELS), 4)), parts)


def _with(tree: Node, parts: dict[str, Node]) -> Node:
    """A sum with its parts in the places of their names."""
    match tree:
        case Name(name):
            return parts.get(name, tree)
        case Binary(op, left, right):
            return Binary(op, _with(left, parts), _with(right, parts))
        case Unary(op, operand):
            return Unary(op, _with(operand, parts))
    return tree


def piped(heads: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    """A formula and up to three stages after it."""
    chains = st.lists(stages, min_size=1, max_size=3).map(tuple)
    return heads | st.builds(Pipeline, heads, chains)


linear: st.SearchStrategy[Node] = piped(sums(MODELS))
formulas: st.SearchStrategy[Node] = piped(scores())
values = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0])
