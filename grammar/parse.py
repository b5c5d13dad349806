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

from ..errors import ArgumentTypeError
from .characters import bad_character
from .errors import FormulaError
from .literals import read_number, read_string
from .mistakes import bad_token
from .stop import BRACKETS, CLOSED_BY, fit
from .tree import (
    NOIMAGE,
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

    Examples:
        >>> parse("base + 0.5*arm").right
        Binary(op='*', left=Number(value=Fraction(1, 2)), right=Name(name='arm'))
    """
    if not isinstance(formula, str):
        raise ArgumentTypeError(f"a formula is a string, not {type(formula).__name__}")
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
    for i, token in enumerate([*tokens, None]):
        try:
            piece = parser.feed_token(token) if token else parser.feed_eof(tokens[-1])
        except UnexpectedToken:
            raise bad_token(formula, tokens, i) from None
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
    """Every parenthesis and bracket has its partner, and few are open at once."""
    opened: list[Token] = []
    for token in tokens:
        if token in CLOSED_BY:
            opened.append(token)
            if len(opened) > PARENTHESES:
                problem = f"a formula may have at most {PARENTHESES} parentheses inside each other"
                _refuse(problem, _span([token]), "write a flatter formula")
        elif token in CLOSED_BY.values():
            own = next(each for each in CLOSED_BY if CLOSED_BY[each] == token)
            what = BRACKETS[own]
            if not opened:
                cure = f"remove it, or write its {own} further left"
                _refuse(f"this {what} closes nothing", _span([token]), cure)
            if opened[-1] != own:
                cure = f"write {CLOSED_BY[str(opened[-1])]} before it, or {own} further left"
                _refuse(f"this {what} closes {opened[-1]}", _span([token]), cure)
            opened.pop()
    if opened:
        what = BRACKETS[str(opened[-1])]
        cure = f"write its {CLOSED_BY[str(opened[-1])]} further right"
        _refuse(f"this {what} is never closed", _span(opened[-1:]), cure)


class _Piece(NamedTuple):
    """A node, its extent with any parentheses (as a token has), and its depth in both counts."""

    node: Any
    start_pos: int
    end_pos: int
    nesting: int = 0
    depth: int = 0


class _Builder:
    """One method per alias of formula.lark, called by the parser with the children of its rule."""

    def number(self, children: list[Token]) -> _Piece:
        return _leaf(Number(read_number(children[0], _span(children)), _span(children)))

    def string(self, children: list[Token]) -> _Piece:
        return _leaf(_text(children[0]))

    def name(self, children: list[Token]) -> _Piece:
        return _leaf(_name(children[0]))

    def bare(self, children: list[Token]) -> _Piece:
        return _leaf(Call(_name(children[0]), (), _span(children)))

    def added(self, children: list[Any]) -> _Piece:
        return _around(Added(_name(children[0]), children[2].node, _span(children)), children)

    def prompted(self, children: list[Any]) -> _Piece:
        model, *rest = children
        node: Any = model.node if isinstance(model, _Piece) else _name(model)
        for token in rest:
            if token.type == "NOIMAGE":
                end = token.end_pos
                word = Name(NOIMAGE, Span(end - len(NOIMAGE), end))
                node = Prompted(node, word, _span(children))
            elif token != "@":
                value = _name(token) if token.type == "NAME" else _text(token)
                node = Prompted(node, value, _span(children[:3]))
        if isinstance(model, _Piece):
            start, end = node.span
            return _Piece(node, start, end, model.nesting, model.depth + 1)
        return _leaf(node)

    def group(self, children: list[Any]) -> _Piece:
        inside: _Piece = children[1]
        start, end = _span(children)
        return inside._replace(start_pos=start, end_pos=end)

    def tuple(self, children: list[Any]) -> _Piece:
        return _around(Tuple(_nodes(children), _span(children)), children)

    def entry(self, children: list[Any]) -> _Piece:
        key, _, value = children
        number = Number(read_number(key, _span([key])), _span([key]))
        return _around(Entry(number, value.node, _span(children)), children)

    def mapping(self, children: list[Any]) -> _Piece:
        return _around(Mapping(_nodes(children), _span(children)), children)

    def unary(self, children: list[Any]) -> _Piece:
        op, operand = children
        return _around(Unary(str(op), operand.node, _span(children)), children)

    def binary(self, children: list[Any]) -> _Piece:
        left, op, right = children
        node = Binary(str(op), left.node, right.node, _span(children))
        return _around(node, children, spine=op != "**")

    def staged(self, children: list[Any]) -> _Piece:
        head, *stages = _nodes(children)
        return _around(Pipeline(head, tuple(stages), _span(children)), children)

    def call(self, children: list[Any]) -> _Piece:
        arguments = _nodes(children)
        _check_keywords(arguments)
        if not arguments:  # as deep as the same stage without its parentheses
            return self.bare(children)
        return _around(Call(_name(children[0]), arguments, _span(children)), children)

    def plain(self, children: list[_Piece]) -> _Piece:
        return _around(Argument(children[0].node, span=_span(children)), children)

    def keyword(self, children: list[Any]) -> _Piece:
        name, _, value = children
        return _around(Argument(value.node, _name(name), span=_span(children)), children)

    def weighted(self, children: list[Any]) -> _Piece:
        weight, _, value = children
        node = Argument(value.node, weight=weight.node, span=_span(children))
        return _around(node, children)


def _leaf(node: Node) -> _Piece:
    return _Piece(node, *node.span)


def _around(node: Node | Argument | Entry, children: Sequence[Any], spine: bool = False) -> _Piece:
    """The piece of a node over the pieces of ``children``, unless it passes a limit.

    On a ``spine``, as in a + b + c, the first part nests no deeper than the whole. An argument
    or an entry is one deeper than its parts, though it nests no deeper for a reader.
    """
    parts = [child for child in children if isinstance(child, _Piece)]
    depth = 1 + max(part.depth for part in parts)
    if isinstance(node, (Argument, Entry)):
        return _Piece(node, *node.span, max(part.nesting for part in parts), depth)
    nesting = max(part.nesting + (i > 0 or not spine) for i, part in enumerate(parts))
    if nesting > NESTING:
        problem = f"a formula may have at most {NESTING} operators and calls inside each other"
        _refuse(problem, node.span, "write a flatter formula")
    if depth > DEPTH:
        problem = f"a formula may have at most {DEPTH} operators and arguments inside each other"
        _refuse(problem, node.span, "put parts of it in parentheses, or write fewer terms")
    return _Piece(node, *node.span, nesting, depth)


def _nodes(children: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(child.node for child in children if isinstance(child, _Piece))


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
    return Name(str(token), _span([token]))


def _text(token: Token) -> Text:
    return Text(read_string(token, _span([token])), _span([token]))


def _span(children: Sequence[Any]) -> Span:
    """From the first to the last of some tokens and pieces."""
    return Span(children[0].start_pos, children[-1].end_pos)


def _refuse(problem: str, span: Span, cure: str) -> NoReturn:
    raise FormulaError(problem, "", span, cure)
