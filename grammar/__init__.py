"""Text to syntax tree: the language's grammar, its nodes, its canonical text and its errors.

This package knows nothing of models or numbers on a device. It imports only lark, and that when
the first formula is parsed.
"""

from .errors import FormulaError, did_you_mean, nearest
from .parse import parse
from .text import text
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
    Span,
    Text,
    Tuple,
    Unary,
)

__all__ = [
    "Added",
    "Argument",
    "Binary",
    "Call",
    "Entry",
    "FormulaError",
    "Mapping",
    "Name",
    "Node",
    "Number",
    "Pipeline",
    "Prompted",
    "Span",
    "Text",
    "Tuple",
    "Unary",
    "did_you_mean",
    "nearest",
    "parse",
    "text",
]
