"""The parts of a section, and what they are in Markdown and in LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .citations import Citation


@dataclass(frozen=True)
class Code:
    """A formula or a name, as it was written."""

    text: str


Text = tuple["str | Code | Citation", ...]


@dataclass(frozen=True)
class Heading:
    """The title of what follows."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Sentences."""

    text: Text


@dataclass(frozen=True)
class Table:
    """A table with its caption."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str | Code]]


@dataclass(frozen=True)
class Figure:
    """A picture of the run's folder with its caption; ``name`` has no ending."""

    name: str
    caption: str


Block = Heading | Paragraph | Table | Figure


def markdown(blocks: Sequence[Block], works: Sequence[Citation]) -> str:
    """The section as Markdown, with pandoc's citations; the entries follow it."""
    parts = [_as_markdown(block) for block in blocks]
    if works:
        entries = "\n\n".join(work.bibtex for work in works)
        parts.append(f"## References\n\n```bibtex\n{entries}\n```")
    return "\n\n".join(parts) + "\n"


def _as_markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_escaped(text)}"
        case Paragraph(text):
            return "".join(map(_inline, text))
        case Table(caption, heads, rows):
            lines = [list(heads), ["---"] * len(heads)]
            lines += [[_inline(cell).replace("|", "\\|") for cell in row] for row in rows]
            table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            return f"{table}\n\n: {caption}"
        case Figure(name, caption):
            return f"![{caption}]({name}.png)"


def _inline(part: str | Code | Citation) -> str:
    match part:
        case Code(text):
            fence = "``" if "`" in text else "`"
            return f"{fence}{' '.join(text.split())}{fence}"
        case Citation(key):
            return f"[@{key}]"
    return _escaped(part)


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in "\\`*_[]<>" else char for char in text)


def latex(blocks: Sequence[Block], works: Sequence[Citation]) -> str:
    """The section as LaTeX, to be put into a paper; ``works`` are in its comments.

    It needs the packages booktabs and graphicx; with natbib or biblatex the citations are theirs.
    """
    parts = [_as_latex(block) for block in blocks]
    if works:
        entries = "\n\n".join(work.bibtex for work in works)
        lines = "\n".join(f"% {line}".rstrip() for line in entries.splitlines())
        parts.append(f"% The entries cited above, for a .bib file:\n%\n{lines}")
    return "\n\n".join(parts) + "\n"


def _as_latex(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"\\{'sub' * (level - 1)}section{{{_tex(text)}}}"
        case Paragraph(text):
            return "".join(map(_tex_inline, text))
        case Table(caption, heads, rows):
            lines = [" & ".join(map(_tex_inline, row)) + r" \\" for row in [heads, *rows]]
            lines = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
            body = "\n".join(lines)
            columns = "l" * len(heads)
            return (
                f"\\begin{{table}}\n\\caption{{{_tex(caption)}}}\n\\begin{{tabular}}{{{columns}}}\n"
                f"{body}\n\\end{{tabular}}\n\\end{{table}}"
            )
        case Figure(name, caption):
            return (
                f"\\begin{{figure}}\n\\includegraphics[width=\\linewidth]{{{name}.pdf}}\n"
                f"\\caption{{{_tex(caption)}}}\n\\end{{figure}}"
            )


def _tex_inline(part: str | Code | Citation) -> str:
    match part:
        case Code(text):
            return f"\\texttt{{{_tex(' '.join(text.split()))}}}"
        case Citation(key):
            return f"\\cite{{{key}}}"
    return _tex(part)


_TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}  # fmt: skip


def _tex(text: str) -> str:
    """Text that LaTeX sets as it stands."""
    return "".join(_TEX.get(char, char) for char in text)
