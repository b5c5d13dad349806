"""Text to tree: tokens, limits, then one LALR pass that builds nodes with spans as it goes.

The language itself is in formula.lark. Any text gives a tree or a FormulaError, and soon: no step
recurses, and the limits below are checked before anything large is built. This file must not know
what a name means; characters.py and mistakes.py word the errors of wrong text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

from .characters import bad_character
from .errors import FormulaError
from .literals import read_number, read_string
from .mistakes import bad_token
from .stop import fit
from .tree import (
    Argument,
    Binary,
    Call,
    Name,
    Node,
    Number,
    Pipeline,
    Prompted,
    Span,
    Text,
    Tuple,
    Unary,
)

if TYPE_CHECKING:
    from lark import Lark, Token

LENGTH = 4096  # characters in a formula
PARENTHESES = 100  # parentheses open at once
NESTING = 100  # nodes inside nodes, not counting the left operands of a + b + c and its like
DEPTH = 200  # nodes inside nodes, all counted: Python compares, hashes and prints nodes recursively


def parse(formula: str) -> Node:
    """The syntax tree of a formula, every node with its span.

    Raises:
        FormulaError: the text is not a formula, or passes one of the limits ``LENGTH``,
            ``PARENTHESES``, ``NESTING``, ``DEPTH``.
        TypeError: ``formula`` is not a string.

    >>> parse("base + 0.5*arm").right
    Binary(op='*', left=Number(value=Fraction(1, 2)), right=Name(name='arm'))
    """
    if not isinstance(formula, str):
        raise TypeError(f"a formula is a string, not {type(formula).__name__}")
    if len(formula) > LENGTH:
        problem = f"a formula may have at most {LENGTH} characters, and this one has {len(formula)}"
        raise FormulaError(problem, formula, Span(LENGTH, len(formula)), "write a shorter formula")
    if not formula.strip():
        cure = "write a formula, such as base + 0.5*arm"
        raise FormulaError("the formula is empty", formula, Span(0, 1), cure)
    try:
        return _tree(formula)
    except FormulaError as error:  # those raised while building do not know the whole text
        raise FormulaError(error.problem, formula, error.span, error.cure) from None


def _tree(formula: str) -> Node:
    from lark import UnexpectedCharacters, UnexpectedToken

    parser: Any = language().parse_interactive(formula)
    tokens: list[Token] = []
    try:
        tokens.extend(parser.lexer_thread.lex(parser.parser_state))
    except UnexpectedCharacters as error:
        raise bad_character(formula, cast(int, error.pos_in_stream)) from None
    _check_parentheses(tokens)
    for i, token in enumerate(tokens):
        try:
            parser.feed_token(token)
        except UnexpectedToken:
            raise bad_token(formula, tokens, i) from None
    try:
        piece = parser.feed_eof(tokens[-1])
    except UnexpectedToken:
        raise bad_token(formula, tokens, len(tokens)) from None
    return cast(Node, piece.node)


@cache
def language() -> Lark:
    """formula.lark, loaded once, when the first formula is parsed or printed."""
    from lark import Lark

    return Lark(
        Path(__file__).with_name("formula.lark").read_text(encoding="utf-8"),
        parser="lalr",
        lexer="basic",
        start="pipeline",
        keep_all_tokens=True,
        maybe_placeholders=False,
        transformer=cast(Any, _Builder()),
    )


def _check_parentheses(tokens: Sequence[Token]) -> None:
    """Every parenthesis has its partner, and no more than ``PARENTHESES`` are open at once."""
    opened: list[Token] = []
    for token in tokens:
        if token == "(":
            opened.append(token)
            if len(opened) > PARENTHESES:
                problem = f"a formula may have at most {PARENTHESES} parentheses inside each other"
                _refuse(problem, _span(token), "write a flatter formula")
        elif token == ")":
            if not opened:
                cure = "remove it, or write its ( further left"
                _refuse("this parenthesis closes nothing", _span(token), cure)
            opened.pop()
    if opened:
        _refuse("this parenthesis is never closed", _span(opened[-1]), "write its ) further right")


class _Piece(NamedTuple):
    """A node, its extent with any parentheses around it, and how deep it is in both counts."""

    node: Any
    start: int
    end: int
    nesting: int = 0
    depth: int = 0


class _Builder:
    """One method per alias of formula.lark, called by the parser with the children of its rule."""

    def number(self, children: list[Token]) -> _Piece:
        return _leaf(Number(read_number(children[0], _span(children[0])), _span(children[0])))

    def string(self, children: list[Token]) -> _Piece:
        return _leaf(_text(children[0]))

    def name(self, children: list[Token]) -> _Piece:
        return _leaf(_name(children[0]))

    def bare(self, children: list[Token]) -> _Piece:
        return _leaf(Call(_name(children[0]), (), _span(children[0])))

    def prompted(self, children: list[Token]) -> _Piece:
        model, _, prompt = children
        span = Span(_span(model).start, _span(prompt).end)
        value = _name(prompt) if prompt.type == "NAME" else _text(prompt)
        return _leaf(Prompted(_name(model), value, span))

    def group(self, children: list[Any]) -> _Piece:
        opened, inside, closed = children
        return cast(_Piece, inside._replace(start=_span(opened).start, end=_span(closed).end))

    def tuple(self, children: list[Any]) -> _Piece:
        items = [child for child in children if isinstance(child, _Piece)]
        span = Span(_span(children[0]).start, _span(children[-1]).end)
        return _around(Tuple(tuple(piece.node for piece in items), span), items)

    def unary(self, children: list[Any]) -> _Piece:
        op, operand = children
        return _around(Unary(str(op), operand.node, Span(_span(op).start, operand.end)), [operand])

    def binary(self, children: list[Any]) -> _Piece:
        left, op, right = children
        node = Binary(str(op), left.node, right.node, Span(left.start, right.end))
        return _around(node, [left, right], spine=op != "**")

    def staged(self, children: list[Any]) -> _Piece:
        parts = [child for child in children if isinstance(child, _Piece)]
        head, *stages = parts
        span = Span(head.start, stages[-1].end)
        return _around(Pipeline(head.node, tuple(piece.node for piece in stages), span), parts)

    def call(self, children: list[Any]) -> _Piece:
        parts = [child for child in _flat(children) if isinstance(child, _Piece)]
        arguments = tuple(piece.node for piece in parts)
        _check_keywords(arguments)
        span = Span(_span(children[0]).start, _span(children[-1]).end)
        return _around(Call(_name(children[0]), arguments, span), parts)

    def arguments(self, children: list[Any]) -> list[Any]:
        return children

    def plain(self, children: list[_Piece]) -> _Piece:
        value = children[0]
        return _argument(Argument(value.node, span=Span(value.start, value.end)), [value])

    def keyword(self, children: list[Any]) -> _Piece:
        name, _, value = children
        span = Span(_span(name).start, value.end)
        return _argument(Argument(value.node, _name(name), span=span), [value])

    def weighted(self, children: list[Any]) -> _Piece:
        weight, _, value = children
        span = Span(weight.start, value.end)
        return _argument(Argument(value.node, weight=weight.node, span=span), [weight, value])


def _leaf(node: Node) -> _Piece:
    return _Piece(node, *node.span)


def _argument(node: Argument, parts: Sequence[_Piece]) -> _Piece:
    """An argument's piece: one deeper than its parts, though it nests no deeper for a reader."""
    nesting, depth = max(part.nesting for part in parts), max(part.depth for part in parts)
    return _Piece(node, *node.span, nesting, depth + 1)


def _around(node: Node, parts: Sequence[_Piece], spine: bool = False) -> _Piece:
    """The piece of a node over ``parts``, unless it passes a limit.

    On a ``spine``, as in a + b + c, the first part nests no deeper than the whole.
    """
    nested = [part.nesting + 1 for part in parts]
    if spine:
        nested[0] -= 1
    piece = _Piece(
        node, *node.span, max(nested, default=1), 1 + max((part.depth for part in parts), default=0)
    )
    if piece.nesting > NESTING:
        problem = f"a formula may have at most {NESTING} operators and calls inside each other"
        _refuse(problem, node.span, "write a flatter formula")
    if piece.depth > DEPTH:
        problem = f"a formula may have at most {DEPTH} operators and arguments inside each other"
        _refuse(problem, node.span, "put parts of it in parentheses, or write fewer terms")
    return piece


def _flat(children: list[Any]) -> list[Any]:
    """The children of a call, with those of its list of arguments among them."""
    return [item for child in children for item in (child if type(child) is list else [child])]


def _check_keywords(arguments: Sequence[Argument]) -> None:
    """No keyword twice, and none before a plain argument."""
    seen: set[str] = set()
    for argument in arguments:
        if argument.name is not None:
            name = argument.name.name
            if name in seen:
                _refuse(f"{fit(name)} is given twice", argument.name.span, "keep one of the two")
            seen.add(name)
        elif seen and argument.weight is None:
            cure = "move it before the first keyword argument, or name it too"
            problem = "an argument without a name comes after one with a name"
            _refuse(problem, argument.span, cure)


def _name(token: Token) -> Name:
    return Name(str(token), _span(token))


def _text(token: Token) -> Text:
    return Text(read_string(token, _span(token)), _span(token))


def _span(token: Token) -> Span:
    return Span(cast(int, token.start_pos), cast(int, token.end_pos))


def _refuse(problem: str, span: Span, cure: str) -> NoReturn:
    raise FormulaError(problem, "", span, cure)
