"""Laws of the canonical text: it gives the tree back, and has no parenthesis it can do without."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import round_trip, trees

from descant.grammar import (
    Binary,
    Call,
    Name,
    Node,
    Number,
    Pipeline,
    Text,
    Tuple,
    Unary,
    parse,
    text,
)
from descant.grammar.literals import write_number

A, B, C = Name("a"), Name("b"), Name("c")

# each line is canonical: what is written is what comes out
CANONICAL = """
a - (b - c)
a - b - c
a + b - c
a + (b + c)
a/(b*c)
a/b*c
a*(b*c)
(a*b)**c
a**b**c
(a**b)**c
a**-b
a**(-b)**c
a**-b**c
-(a + b)
-a + b
-a*b
-(a*b)
(-a)**2
-a**2
--a
-+a
a - -b
a*-b
2**-(a + b)
(a | top_k(5)) + b
a + b | top_k(5)
(a | top_k(5)) + b | top_p(0.9) | greedy()
a | top_k(5) | top_p(0.9)
(a | top_k(5)) | top_p(0.9)
mean(a | top_k(5))
not (a and b)
not a and b
not not a
not a < b
(not a) < b
a and b or c
a and (b or c)
a or (b or c)
(a < b) < c
a + 1 < 2*b
a + (not b)
f()
f(a, k=10, r=none)
mix(0.7: a, 0.3: b)
pmean(p; w1: a, w2: b)
pmean(p=-1; 1 - w: a, w: b, keep=all)
mix((a | f()): b, (a, b): c)
rerank(0.7*rm1 + 0.3*rm2, k=10, w=1.5, clamp=(0, 1), norm=prefix)
(0, 1)
((0, 1), 2)
(a + b, c | f())
chat@child
chat@"You are a child."
base@"" - base@none
"a"
0.5*a
1e-9*a
0.0001*a
1000000*a
1e9*a
1.5e-300*a
123456789*a
"""


@pytest.mark.parametrize("line", CANONICAL.strip().splitlines())
def test_canonical_text_is_kept(line: str) -> None:
    assert text(parse(line)) == line
    round_trip(parse(line))


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("((base))+(0.50*(arm))", "base + 0.5*arm"),
        ("(a*b)/c", "a*b/c"),
        ("a+(b*c)", "a + b*c"),
        ("(a**(b**c))", "a**b**c"),
        ("a ** (-b)", "a**-b"),
        ("-(a)**2", "-a**2"),
        ("not(a<b)", "not a < b"),
        ("(a and b)and c", "a and b and c"),
        ("base|greedy", "base | greedy()"),
        ("pmean(p, w1:x,w2:y)", "pmean(p; w1: x, w2: y)"),
        ("mix((0.5+0): (x), .5: y)", "mix(0.5 + 0: x, 0.5: y)"),
        ("f((a | g()), k=(b))", "f(a | g(), k=b)"),
        (r"base@'it\'s \u0041'", 'base@"it\'s A"'),
        (r"""base@'say "hi"\n'""", r'base@"say \"hi\"\n"'),
        ("5. + .5 + 00.10 + 1E3 + 1e-3 + 0.0", "5 + 0.5 + 0.1 + 1000 + 0.001 + 0"),
    ],
)
def test_text_is_canonical(written: str, canonical: str) -> None:
    assert text(parse(written)) == canonical


@settings(max_examples=200, deadline=None)
@given(trees)
def test_every_tree_comes_back(tree: Node) -> None:
    round_trip(tree)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_every_string_comes_back(value: str) -> None:
    round_trip(Text(value))


@pytest.mark.parametrize(
    "value",
    [
        "\x00\x1f\x7f\x85",
        "\u2028\u2029",
        "\ufeff",
        "\u202e",
        "\U000e0001",
        "👩\u200d🚀",
        "é",
        "\\u0041",
    ],
)
def test_strange_strings_come_back(value: str) -> None:
    round_trip(Text(value))


def test_the_round_trip_can_fail() -> None:
    wrong_twin = Number(Fraction(-1))  # its text is that of Unary("-", Number(1))
    with pytest.raises(AssertionError):
        round_trip(wrong_twin)
    with pytest.raises(AssertionError):
        round_trip(Binary("+", Name("a + b"), C))  # its text groups to the left


@pytest.mark.parametrize("right", [Binary("-", B, C), Binary("+", B, C)])
def test_grouping_is_part_of_a_tree(right: Node) -> None:
    assert parse(text(Binary("-", A, right))) != parse("a - b - c")


def _value(tree: Node) -> Fraction:
    """What a formula of numbers alone is worth."""
    match tree:
        case Number(value):
            return value
        case Unary("-", operand):
            return -_value(operand)
        case Binary(op, left, right):
            x, y = _value(left), _value(right)
            return {"*": lambda: x * y, "/": lambda: x / y, "**": lambda: x ** int(y)}[op]()
    raise AssertionError(tree)


@pytest.mark.parametrize(
    ("tree", "written"),
    [
        (Number(Fraction(1, 3)), "1/3"),
        (Number(Fraction(-1, 3)), "-(1/3)"),
        (Number(Fraction(-1, 2)), "-0.5"),
        (Binary("**", Number(Fraction(1, 3)), Number(Fraction(2))), "(1/3)**2"),
        (Binary("**", Number(Fraction(-2)), Number(Fraction(2))), "(-2)**2"),
        (Binary("/", Number(Fraction(2)), Number(Fraction(1, 3))), "2/(1/3)"),
        (Binary("*", Number(Fraction(1, 3)), Number(Fraction(3))), "1/3*3"),
        (Binary("**", Number(Fraction(2)), Number(Fraction(-2))), "2**-2"),
        (Unary("-", Number(Fraction(-5))), "--5"),
    ],
)
def test_numbers_from_python_keep_their_value(tree: Node, written: str) -> None:
    assert text(tree) == written
    assert _value(parse(written)) == _value(tree)


@given(st.fractions(min_value=0, max_value=10**6))
def test_a_number_is_exact(value: Fraction) -> None:
    top, _, bottom = write_number(value).partition("/")
    assert Fraction(top) / Fraction(bottom or 1) == value


@pytest.mark.parametrize(
    "tree",
    [
        Binary("%", A, B),
        Unary("!", A),
        Text("\ud800"),
        Number(Fraction(10**400)),
        Number(Fraction(1, 10**400)),
        Number(Fraction(1, 7**2000)),
        Number(Fraction(int("1" * 900), 10**899)),
    ],
)
def test_what_no_formula_can_hold_is_refused(tree: Node) -> None:
    with pytest.raises(ValueError, match="a formula"):
        text(tree)


def test_a_tree_of_any_depth_has_a_text() -> None:
    left: Node = A
    right: Node = A
    for _ in range(20_000):
        left, right = Binary("+", left, B), Binary("**", B, right)
    assert text(left).count(" + ") == 20_000
    assert text(right).startswith("b**b**b")


def test_a_tree_of_every_kind() -> None:
    stage = Call(Name("g"), ())
    round_trip(Pipeline(Tuple((A, Pipeline(B, (stage,)))), (stage, stage)))
