"""What a notebook shows of plans and inspections, ``_repr_html_``; and tables of pandas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError

if TYPE_CHECKING:
    from pandas import DataFrame

_CHANGED = "background:rgba(255,176,0,.3)"  # readable on a light and on a dark page


def preformatted(text: str) -> str:
    """Text whose columns stay under one another."""
    return f"<pre>{escape(text)}</pre>"


def tabulated(columns: Sequence[str], rows: Iterable[Sequence[Any]], marked: Iterable[bool]) -> str:
    """A table with a row for each of ``rows``; ``marked`` says which stand out."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f'<tr style="{_CHANGED if stands_out else ""}">'
        + "".join(f"<td>{escape(_cell(value))}</td>" for value in row)
        + "</tr>"
        for row, stands_out in zip(rows, marked, strict=True)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def frame(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    """A table of pandas.

    Raises:
        ArgumentError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ArgumentError("a table needs pandas: pip install pandas") from None
    return pandas.DataFrame(rows)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
