"""Pages whose blocks of Python run, each after the first one, and print the text block below it.

Run their tests with DESCANT_GOLDEN=write to take what the blocks print into the page, and read the
difference.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.S)


class Page:
    """A document, its blocks and what it says that they print."""

    def __init__(self, name: str) -> None:
        self.file = ROOT / name
        self.text = self.file.read_text(encoding="utf-8")
        found = list(BLOCK.finditer(self.text))
        self.blocks = [(one[1], one[2]) for one in found]
        self.titles = [
            re.findall(r"^#+ (.+)$", self.text[: one.start()], re.M)[-1] for one in found
        ]

    def printed(self, number: int) -> str:
        """What a block prints after the first one."""
        space: dict[str, object] = {}
        for block, _ in self.blocks[:1] + self.blocks[number : number + 1] * (number > 0):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(block, self.file.name, "exec"), space)
        return out.getvalue()

    def check(self, number: int) -> None:
        """A block prints what the page says."""
        (code, said), out = self.blocks[number], self.printed(number)
        assert out.strip()
        if os.environ.get("DESCANT_GOLDEN") == "write":
            whole = self.file.read_text(encoding="utf-8")
            old, new = (f"{code}```\n\n```text\n{text}```" for text in (said, out))
            assert old in whole
            self.file.write_text(whole.replace(old, new), encoding="utf-8")
        elif not torch.cuda.is_available():  # there, a near tie may fall the other way
            assert out == said
