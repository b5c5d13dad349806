"""docs/transformers.md is true: its blocks run, one after the other, and print what it says.

Run this file with DESCANT_GOLDEN=write to take what the blocks print into the document, and read
the difference.
"""

import contextlib
import io
import os
import re
from pathlib import Path

import torch

FILE = Path(__file__).parents[2] / "docs/transformers.md"
BLOCK = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.S)


def test_the_pages_blocks_print_what_it_says():
    text = FILE.read_text(encoding="utf-8")
    blocks = [(found[1], found[2]) for found in BLOCK.finditer(text)]
    assert len(blocks) == text.count("```python\n") >= 7
    space: dict[str, object] = {}
    for code, said in blocks:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, FILE.name, "exec"), space)
        if os.environ.get("DESCANT_GOLDEN") == "write":
            before, after = (
                f"{code}```\n\n```text\n{said}```",
                f"{code}```\n\n```text\n{out.getvalue()}```",
            )
            text = text.replace(before, after)
            FILE.write_text(text, encoding="utf-8")
        elif not torch.cuda.is_available():  # there, a near tie may fall the other way
            assert out.getvalue() == said, code
