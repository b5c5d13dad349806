"""``descant docs``: the pages that come with the package, in the terminal or in a browser.

The pages are those of ``docs/``. It loads neither torch nor a model, but for the reference, whose
text is in the docstrings.
"""

from __future__ import annotations

import inspect
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from .. import disk
from ..errors import ArgumentError
from ..grammar import did_you_mean
from ..options import option
from .terminal import Screen

_PACKAGE = Path(__file__).resolve().parents[1]
FOLDER = _PACKAGE / "pages" if (_PACKAGE / "pages").is_dir() else _PACKAGE.parent / "docs"
_LISTED = r"^\d+\. \[(?P<title>.+?)\]\((?P<path>[\w./-]+?)\): (?P<about>.+(?:\n    .+)*)"
_LINK = r"\[(?P<text>[^\]\n]*)\]\((?P<page>[\w/-]+)\.md(?P<anchor>#[\w-]+)?\)"
_HEADING = r"^(#+) (.+)$"
_ANCHOR = r'<a id="([^"]+)"></a>'
_FENCED = r"^```.*?^```$"
_DIRECTIVE = r"^::: ([\w.]+)$(?:\n {4}.+$)*"
_STYLE = (
    "body{max-width:52rem;margin:2rem auto;padding:0 1rem;font:1rem/1.6 system-ui,sans-serif}"
    "pre{overflow:auto;padding:.8rem;background:#f4f4f4}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.2rem .6rem}img{max-width:100%}"
)


@dataclass(frozen=True)
class ListedPage:
    """A page as the first one lists it."""

    name: str
    title: str
    about: str


def docs(
    page: Annotated[
        str | None, Argument(metavar="NAME[#SECTION]", help="A page; left out, they are listed.")
    ] = None,
    browser: Annotated[bool, option("Open it in a browser.", "", "--browser")] = False,
) -> None:
    """The pages of the documentation, which come with the package; NAME shows one."""
    screen = Screen()
    if browser:
        _open(page)
    elif page is None:
        _list(screen.for_tables())
    elif not screen.is_terminal:
        screen.write(text_of(page))
    else:
        from rich.markdown import Markdown

        with screen.pager(styles=True):
            screen.print(Markdown(_for_terminal(text_of(page))), soft_wrap=False)


def listed() -> list[ListedPage]:
    """The pages in the order in which a newcomer needs them."""
    index = _read(FOLDER / "README.md")
    found = [match.groupdict() for match in re.finditer(_LISTED, index, re.M)]
    return [
        ListedPage(one["path"].removesuffix(".md"), one["title"], " ".join(one["about"].split()))
        for one in found
        if _file(one["path"].removesuffix(".md")).exists()
    ]


def text_of(name: str) -> str:
    """The Markdown of a page, or of one section: ``how-do-i#memory``.

    Raises:
        ArgumentError: no such page, or no such section on it.
    """
    page, _, section = name.partition("#")
    text = _expanded(_read(_found(page)))
    return _section(text, section, page) if section else text


def _found(page: str) -> Path:
    """The file of a page; of a decision its number is enough."""
    name = page.removeprefix("docs/").removesuffix(".md")
    file = _file(name)
    if file.is_file():
        return file
    if file.is_dir():
        return file / "README.md"
    known = {file.stem: file for file in FOLDER.rglob("*.md")}
    numbers = [file for stem, file in known.items() if re.fullmatch(rf"0*{name}-.*", stem)]
    if name.isdecimal() and numbers:
        return numbers[0]
    if name in known:
        return known[name]
    cure = did_you_mean(name, sorted({one.name for one in listed()}))
    raise ArgumentError(f"there is no page {page}; {cure}")


def _file(name: str) -> Path:
    return FOLDER / name if name == "decisions" else FOLDER / f"{name}.md"


def _read(file: Path) -> str:
    if file.parent.name == "decisions" and file.name == "README.md":
        lines = [f"- [{_title(one)}]({one.name})" for one in sorted(file.parent.glob("0*.md"))]
        return "\n".join(["# Decisions", "", *lines, ""])
    with disk.reading(file):
        return file.read_text(encoding="utf-8")


def _title(file: Path) -> str:
    return file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def _section(text: str, section: str, page: str) -> str:
    """From a heading, or from an anchor that is set, to the next heading as high."""
    plain = re.sub(_FENCED, lambda block: re.sub(r"[^\n]", "·", block[0]), text, flags=re.S | re.M)
    headings = list(re.finditer(_HEADING, plain, re.M))
    starts = {_slug(heading[2]): i for i, heading in enumerate(headings)}
    for anchor in re.finditer(_ANCHOR, plain):  # it stands before its heading
        after = (i for i, heading in enumerate(headings) if heading.start() > anchor.start())
        starts[anchor[1]] = next(after, len(headings) - 1)
    if section not in starts:
        raise ArgumentError(f"{page} has no section {section}; {did_you_mean(section, starts)}")
    first = starts[section]
    level = len(headings[first][1])
    ends = (one.start() for one in headings[first + 1 :] if len(one[1]) <= level)
    return text[headings[first].start() : next(ends, len(text))].rstrip() + "\n"


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


def _expanded(text: str) -> str:
    """The text with signatures and docstrings where a page of the reference asks for them."""
    return re.sub(_DIRECTIVE, lambda match: "\n".join(_reference(match[1])), text, flags=re.M)


def _reference(path: str) -> Iterator[str]:
    """A public name: its signature, its docstring, and those of its methods."""
    module, _, name = path.rpartition(".")
    value = getattr(import_module(module), name)
    yield from _described(path, value)
    if inspect.isclass(value):
        for key, member in inspect.getmembers(value):
            function = inspect.isroutine(member) or isinstance(member, property)
            own = any(key in vars(base) for base in value.__mro__ if _is_ours(base))
            if function and own and not key.startswith("_") and inspect.getdoc(member):
                yield from _described(f"{value.__name__}.{key}", member)


def _is_ours(base: type) -> bool:
    return base.__module__.startswith("descant")


def _described(name: str, value: Any) -> Iterator[str]:
    signature = ""
    if callable(value):
        try:
            signature = str(inspect.signature(value))
        except (TypeError, ValueError):
            signature = "(…)"
    yield from ("```python", f"{name}{signature}", "```", "")
    text = inspect.getdoc(value) or "" if callable(value) or isinstance(value, property) else ""
    yield from ("```text", text, "```", "")


def _for_terminal(text: str) -> str:
    """Links to pages as the command that shows them; a terminal follows no relative link."""

    def shown(match: re.Match[str]) -> str:
        command = f"`descant docs {match['page'].removeprefix('../')}{match['anchor'] or ''}`"
        return f"{match['text']} ({command})"

    parts = re.split(r"(^```.*?^```$)", re.sub(_ANCHOR, "", text), flags=re.S | re.M)
    return "".join(part if part.startswith("```") else re.sub(_LINK, shown, part) for part in parts)


def _list(screen: Screen) -> None:
    from rich.table import Table

    table = Table("NAME", "what", box=None, pad_edge=False)
    for page in listed():
        table.add_row(page.name, f"{page.title}: {page.about}")
    screen.print(table)
    screen.print("\ndescant docs NAME shows one, NAME#SECTION a part of it; --browser opens it")


def _open(page: str | None) -> None:
    """Write all pages as HTML into a temporary folder, and open one."""
    import webbrowser

    name, _, section = (page or "README").partition("#")
    if page is not None:
        text_of(page)  # its mistakes are told before a browser opens
    first = _found(name).relative_to(FOLDER).with_suffix(".html")
    folder = Path(tempfile.mkdtemp(prefix="descant-docs-"))
    write_html(folder)
    address = (folder / first).as_uri() + (f"#{section}" if section else "")
    opened = webbrowser.open(address)
    Screen().print(address if opened else f"no browser here; the pages are at {address}")


def write_html(folder: Path) -> None:
    """Every page as HTML, whose links lead to each other.

    Raises:
        DiskError: they cannot be written.
    """
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark").enable("table")
    with disk.saving(folder):
        files = [*FOLDER.rglob("*.md"), FOLDER / "decisions" / "README.md"]
        for file in files:
            html = markdown.render(_expanded(_read(file)))
            html = re.sub(r'(<a href="[\w./-]+?)\.md(#[\w-]+)?"', r'\1.html\2"', html)
            html = html.replace('<a href="decisions"', '<a href="decisions/README.html"')
            html = re.sub(r"<h(\d)>(.*?)</h\1>", _with_anchor, html)
            target = (folder / file.relative_to(FOLDER)).with_suffix(".html")
            target.parent.mkdir(parents=True, exist_ok=True)
            head = f"<meta charset=utf-8><title>{escape(file.stem)}</title><style>{_STYLE}</style>"
            target.write_text(f"<!doctype html>{head}{html}", encoding="utf-8")
        for image in FOLDER.glob("*.png"):
            shutil.copy(image, folder)


def _with_anchor(match: re.Match[str]) -> str:
    slug = _slug(re.sub(r"<[^>]+>", "", match[2]))
    return f'<h{match[1]} id="{slug}">{match[2]}</h{match[1]}>'
