"""docs/arm-does-nothing.md says what the check says, of the same sixty pairs."""

from __future__ import annotations

import yaml
from doc_pages import Page

from descant.train.formulas.effect import AtWeight
from descant.train.trainfile import Check

PAGE = Page("docs/arm-does-nothing.md")


def test_both_trainings_are_as_shown():
    (_, first), (_, second) = PAGE.run()
    for printed, expected in zip((first, second), PAGE.code("text"), strict=True):
        lines = printed[printed.index("check  ") :].splitlines()
        assert [line[:20] for line in lines] == [line[:20] for line in expected.splitlines()]
    assert "changes nothing" in first and "changes nothing" not in second


def test_the_defaults_and_columns_are_named():
    [text] = PAGE.code("yaml")
    assert Check(**yaml.safe_load(text)["check"]) == Check()
    columns = [name for name in AtWeight.__dataclass_fields__ if name != "weight"]
    assert all(f"| `{name}` |" in PAGE.text for name in columns)
