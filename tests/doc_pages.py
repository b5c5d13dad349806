"""Pages as tests read them: blocks and what they print, links, command lines, measured numbers.

Set DESCANT_GOLDEN=write to store what the blocks print in their page, and read the difference.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
WRITE = os.environ.get("DESCANT_GOLDEN") == "write"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
MEASURED = re.compile(r"(?<=floor).*? ms at .*? GB/s")
NUMBER = r"\d[\d,]*(?:\.\d+)?"


@dataclass(frozen=True)
class Block:
    """A fenced block, the heading above it, and the text block right below it, if any."""

    title: str
    language: str
    code: str
    output: str | None

    def markdown(self, output: str | None) -> str:
        shown = "" if output is None else f"\n\n```text\n{output}```"
        return f"```{self.language}\n{self.code}```{shown}"


class Page:
    """A Markdown file of the repository."""

    def __init__(self, name: str | Path) -> None:
        self.file = ROOT / name
        self.text = self.file.read_text(encoding="utf-8")

    def blocks(self, *languages: str) -> list[Block]:
        """Its blocks in these languages, or all of them."""
        matches = list(FENCED.finditer(self.text))
        blocks = []
        for match, after in zip(matches, [*matches[1:], None], strict=False):
            titles = re.findall(r"^#+ (.+)$", FENCED.sub("", self.text[: match.start()]), re.M)
            adjacent = after and self.text[match.end() : after.start()] == "\n\n"
            shown = after[2] if after and adjacent and after[1] == "text" else None
            if match[1] in languages or not languages:
                blocks.append(Block(["", *titles][-1], match[1], match[2], shown))
        return blocks

    def code(self, language: str, begins: str = "") -> list[str]:
        """The code of its blocks in a language."""
        codes = (block.code for block in self.blocks(language))
        return [code for code in codes if code.startswith(begins)]

    def run(
        self,
        begins: str = "",
        names: dict[str, Any] | None = None,
        replaced: Mapping[str, str] | None = None,
    ) -> list[tuple[Block, str]]:
        """Run its Python, and the commands that show an output, in one process and namespace.

        Args:
            begins: run only the blocks that begin with this.
            names: what the first block finds defined.
            replaced: texts in the blocks, and what they are replaced by.

        Returns:
            Each block and what it prints.
        """
        names, printed = {} if names is None else names, []
        for block in self.blocks("python", "sh"):
            code = block.code
            if not code.startswith(begins) or (block.language == "sh" and block.output is None):
                continue
            for old, new in (replaced or {}).items():
                code = code.replace(old, new)
            if block.language == "sh":
                done = descant(*shlex.split(code)[1:])
                assert done.returncode == 0, done.stderr
                printed.append((block, done.stdout))
                continue
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, self.file.name, "exec"), names)
            printed.append((block, out.getvalue()))
        return printed

    def check(self) -> list[tuple[Block, str]]:
        """Run its blocks: each prints what is shown below it; what shows nothing prints nothing."""
        printed = self.run()
        self.compare(printed)
        return printed

    def compare(self, printed: list[tuple[Block, str]]) -> None:
        """Each of these blocks has printed what is shown below it."""
        if WRITE:
            for block, out in printed:
                old = block.markdown(block.output)
                assert old in self.text
                self.text = self.text.replace(old, block.markdown(out or None))
            self.file.write_text(self.text, encoding="utf-8")
        elif not torch.cuda.is_available():  # on a GPU a near tie may fall the other way
            for block, out in printed:
                assert lasting(out) == lasting(block.output or ""), block.title

    def lost_links(self) -> list[str]:
        """Its links that lead nowhere in the repository."""
        lost = []
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", self.text):
            path, _, anchor = link.partition("#")
            target = self.file.parent / path if path else self.file
            if not target.exists() or (anchor and anchor not in Page(target).anchors()):
                lost.append(link)
        return lost

    def anchors(self) -> set[str]:
        """What a link may name: the page's headings, and the anchors that it sets."""
        titles = re.findall(r"^#+ (.+)$", FENCED.sub("", self.text), re.M)
        slugs = {re.sub(r"[^\w\- ]", "", one).strip().lower().replace(" ", "-") for one in titles}
        return slugs | set(re.findall(r'<a id="([^"]+)"></a>', self.text))

    def commands(self) -> list[list[str]]:
        """Its descant command lines, in blocks and between backticks, as words."""
        shell = "\n".join(block.code for block in self.blocks("", "sh", "bash"))
        lines = re.findall(r"^(?:.*-m )?descant ([a-z].*)$", shell, re.M)
        lines += re.findall(r"`descant ([a-z][^`\n]*)`", self.text)
        return [shlex.split(re.split(r"  +|\s#", line)[0]) for line in lines]

    def section(self, title: str) -> str:
        """The text under a second-level heading."""
        [text] = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", self.text, re.S | re.M)
        return text

    def cells(self, row: str) -> list[str]:
        """The cells of the table row that begins so."""
        [line] = [line for line in self.text.splitlines() if line.startswith(f"| {row} |")]
        return [cell.strip() for cell in line.strip("|").split("|")]


def lasting(text: str) -> str:
    """Without what is measured anew on each machine."""
    return MEASURED.sub("", text)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def descant(*arguments: object) -> Done:
    """Run a ``descant`` command in this process, as its entry point runs it."""
    from descant.cli import main

    out, err, code, before = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = ["descant", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = before
    return Done(code, out.getvalue(), err.getvalue())


def results(name: str) -> dict[str, Any]:
    """A file of ``bench/results``."""
    loaded: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def numbers(text: str) -> list[str]:
    """The numbers of a text, as written, without separators."""
    return [number.replace(",", "") for number in re.findall(NUMBER, text)]


def is_rounded(written: str, value: float) -> bool:
    """Whether a number as written is a value, to the digits that it has."""
    last = Decimal(1).scaleb(int(Decimal(written).as_tuple().exponent))
    return abs(Decimal(written) - Decimal(str(value))) <= last / 2


def values(record: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number that a file of results states, with its keys; raw samples are left out."""
    if isinstance(record, dict):
        for name, inner in record.items():
            if name not in ("raw", "metrics"):
                yield from values(inner, f"{key}.{name}")
    elif isinstance(record, list):
        for inner in record:
            yield from values(inner, key)
    elif isinstance(record, (int, float)) and not isinstance(record, bool):
        yield key, record
