"""docs/per-prompt.md says what the code does."""

from __future__ import annotations

import re

from doc_pages import Page


def test_the_blocks_print_what_the_page_shows():
    page = Page("docs/per-prompt.md")
    for (_, printed), shown in zip(page.run(), page.code("text"), strict=True):
        found, expected = printed.splitlines(), shown.splitlines()
        assert len(found) == len(expected)
        assert [re.sub(r"[\d.]+", "#", line) for line in found[:2]] == [
            re.sub(r"[\d.]+", "#", line) for line in expected[:2]
        ]
    constant, gated = re.findall(r"[\d.]+", printed.splitlines()[1])
    assert float(gated) < float(constant) - 0.05
