"""What a formula's tree is: equal for equal spellings, and with the place of every node."""

import logging
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import nodes, round_trip, trees

import descant.grammar
from descant.grammar import (
    Argument,
    Binary,
    Call,
    Name,
    Node,
    Number,
    Pipeline,
    Prompted,
    Text,
    Tuple,
    Unary,
    parse,
    text,
)

# one published method, or one feature of the language, per line
FORMULAS = """
base + a*arm
base + h*help + s*harm
strong + a*arm
mean(base + a*arm)
max(a, b)
a + 2*max(b, c)
min(a, b)
debias(base, base@bias, 50)
base | rerank(cls, k=50, w=1.0, label=1, norm=prefix, keep=all)
base + a*(expert - anti)
base - a*(tuned - ref)
top_p(base, 0.9) + a*(expert - anti)
plausible(expert, 0.1) - c*temp(amateur, 0.5)
1.5*base - 0.5*base@none
base@neg + g*(base - base@neg)
(1-l)*ref + l*aligned
w1*m1 + w2*m2
pmean(-1; w1: m1, w2: m2)
mix(w1: m1, w2: m2)
where(step < 2, mix(0.4: base, 0.6: expert), base)
where(entropy(base) > 1, base + a*arm, base)
where(max_prob(base) < 0.4, nudger, base)
base | rerank(rm, k=10, w=1.5)
base | rerank(0.7*rm1 + 0.3*rm2, k=10, w=1.5)
base | rerank(rm, k=20, w=50, clamp=(0, 1))
base | rerank(v, k=20, w=b, norm=center, keep=all)
top_k(base, 10) | rerank(rm, k=10, w=w)
base + 0.5*help + 0.5*harm | rerank(rm, k=10, w=1.5)
base | best_of(rm, n=16)
base | blockwise(value, beams=1, samples=K, length=L)
base | blockwise(tuned - ref, beams=2, samples=2, length=30)
base | reject(rm, entropy=3, start=0.5, target=8.5, beta=0.7)
mix(0.5: a, 0.5: align(b))
base + 0.5*arm_help + 0.5*arm_harm | rerank(reward, k=10, w=1.5)
base + (1-a)*arm_help + a*arm_harm | rerank(reward, k=10, w=1.5)
chat@"You are a child."
chat@child
base@""
base@none
base - (base - 2*arm)
mix(0.7: x, 0.3: y)
temp(x, t)
min_p(x, p)
-0.5*top_p(x, .9)
base | rerank(0.7*rm_help + 0.3*rm_safe, k=10, w=1.5)
base | top_k(5) | top_p(0.9) | min_p(0.1) | temperature(0.7) | repetition_penalty(1.1)
(base | top_k(10)) + arm
strong + b*(weak_tuned - weak)
where(0 < step and step < 2 or not entropy(x) >= 1, x, y)
__import__("os")
"""
LINES = FORMULAS.strip().splitlines()


@pytest.mark.parametrize("formula", LINES)
def test_every_method_parses(formula: str) -> None:
    round_trip(parse(formula))


@pytest.mark.parametrize(
    ("formula", "same"),
    [
        ("base+arm", "  base \n\t + \r\n arm "),
        ("a - b - c", "((a) - b) - (c)"),
        ("a*b + c", "(a*b) + c"),
        ("a/b*c", "(a/b)*c"),
        ("-a**2", "-(a**2)"),
        ("-a*b", "(-a)*b"),
        ("a**b**c", "a**(b**c)"),
        ("a**-b", "a ** (-b)"),
        ("a**-b**c", "a**(-(b**c))"),
        ("not a < b", "not (a < b)"),
        ("not a and b", "(not a) and b"),
        ("a or b and c", "a or (b and c)"),
        ("a + 1 < b*2", "(a + 1) < (b*2)"),
        ("a + b | f()", "(a + b) | f()"),
        ("a | f", "a | f()"),
        ("a | f | g", "a | f() | g()"),
        ("0.5", "0.50"),
        (".5", "5e-1"),
        ("5.", "5"),
        ("1e-3", "0.001"),
        ("1E3", "1000."),
        ("base@'x'", 'base @ "x"'),
        ("base@none", "base @ none"),
        (r'"\u0041\n\t"', r"'A\u000a\u0009'"),
        ("f( a , k = 1 )", "f((a),k=(1))"),
        ("mix(0.5: a, 0.5: b)", "mix((0.5):(a),\n(0.5):(b))"),
        ("pmean(p; 1: a, 1: b)", "pmean(p, 1: a, 1: b)"),
        ("f(a | g)", "f((a | g()))"),
        ("(a, b)", "((a), (b))"),
    ],
)
def test_equivalent_spellings(formula: str, same: str) -> None:
    assert parse(formula) == parse(same)


@pytest.mark.parametrize(
    ("formula", "other"),
    [
        ("a - (b - c)", "a - b - c"),
        ("(-a)**2", "-a**2"),
        ("(a**b)**c", "a**b**c"),
        ("(a | f) | g", "a | f | g"),
        ("f(a, b)", "f((a, b))"),
        ("f(0.5: a)", "f(0.5*a)"),
        ("base@none", 'base@"none"'),
        ("+a", "a"),
        ("1", "1 + 0"),
    ],
)
def test_different_formulas(formula: str, other: str) -> None:
    assert parse(formula) != parse(other)


def test_the_tree_of_a_formula() -> None:
    base, arm, half = Name("base"), Name("arm"), Number(Fraction(1, 2))
    stage = Call(Name("rerank"), (Argument(Name("rm")), Argument(Number(Fraction(10)), Name("k"))))
    head = Binary("-", base, Binary("*", half, Prompted(arm, Text("x"))))
    assert parse('base - 0.5*arm@"x" | rerank(rm, k=10)') == Pipeline(head, (stage,))
    mixed = Call(Name("mix"), (Argument(base, weight=half), Argument(arm, weight=half)))
    assert parse("mix(0.5: base, 0.5: arm)") == mixed
    assert parse("not -base") == Unary("not", Unary("-", base))
    assert parse("(base, 0.5)") == Tuple((base, half))


@pytest.mark.parametrize("formula", [*LINES, "((a + (b))*c)", "f( (a, b) , (c) )\n| k"])
def test_a_span_is_the_text_of_its_node(formula: str) -> None:
    for node in nodes(parse(formula)):
        written = formula[node.span.start : node.span.end]
        assert written == written.strip()
        bare_stage = isinstance(node, Call) and not written.endswith(")")
        assert parse(written + "()" if bare_stage else written) == node


@settings(max_examples=100, deadline=None)
@given(trees)
def test_every_span_is_the_text_of_its_node(tree: Node) -> None:
    formula = text(tree)
    for node in nodes(parse(formula)):
        assert parse(formula[node.span.start : node.span.end]) == node


def test_spans_leave_out_parentheses_of_the_node_and_keep_those_inside() -> None:
    formula = "((a + b))*c | f"
    tree = parse(formula)
    assert isinstance(tree, Pipeline)
    assert isinstance(tree.head, Binary)
    shown = [formula[slice(*node.span)] for node in (tree, tree.head, tree.head.left)]
    assert shown == [formula, "((a + b))*c", "a + b"]
    call = parse("f(a, k=(1), (w): (x))")
    assert isinstance(call, Call)
    assert [call.span, *(one.span for one in call.arguments)] == [
        (0, 21),
        (2, 3),
        (5, 10),
        (12, 20),
    ]


@settings(max_examples=100, deadline=None)
@given(trees, st.randoms(use_true_random=False))
def test_white_space_means_nothing(tree: Node, random: Random) -> None:
    string = r'"(?:\\.|[^"\\])*"'
    tokens = re.findall(rf"{string}|[\w.]+(?:(?<=e)-\d+)?|\*\*|[<>]=|\S", text(tree))
    spaces = [" ", "\n", "\t ", "\r\n"]
    assert parse("".join(token + random.choice(spaces) for token in tokens)) == tree


@pytest.mark.parametrize("wrong", [None, 3, b"base", ["base"], Name("base")])
def test_a_formula_is_a_string(wrong: object) -> None:
    with pytest.raises(TypeError, match="a formula is a string, not"):
        parse(wrong)  # type: ignore[arg-type]


def test_importing_loads_no_parser() -> None:
    code = "import sys, descant.grammar as g; assert 'lark' not in sys.modules; g.parse('a')"
    code += "; assert 'lark' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_grammar_has_no_conflicts(caplog: pytest.LogCaptureFixture) -> None:
    """An LALR conflict is settled by lark in silence, unless it is asked to speak."""
    import lark

    source = Path(descant.grammar.__file__).with_name("formula.lark").read_text(encoding="utf-8")
    options = {"parser": "lalr", "lexer": "basic", "start": "pipeline", "debug": True}

    def conflicts(grammar: str) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.DEBUG, logger=lark.logger.name):
            lark.Lark(grammar, **options)
        return [record.message for record in caplog.records if "onflict" in record.message]

    assert conflicts(source) == []
    dangling = 'pipeline: "if" pipeline | "if" pipeline "else" pipeline | "x"'
    assert conflicts(dangling), "this check cannot see a conflict"
