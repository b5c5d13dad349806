"""The page on constraints prints what it shows."""

from doc_pages import Page


def test_the_page_prints_what_it_shows() -> None:
    assert len(Page("docs/constraints.md").check()) >= 4
