"""The page about fits: its block runs, and its run file is the example's."""

from doc_pages import ROOT, Page

PAGE = Page("docs/fit.md")


def test_its_block_prints_what_the_page_shows():
    [(_, printed)] = PAGE.check()
    value, error = (float(part) for part in printed.splitlines()[0][4:].split(" ± "))
    assert abs(value - 0.7) < 3 * error


def test_its_run_file_is_the_examples():
    [block] = PAGE.blocks("yaml")
    example = (ROOT / "examples" / "fit.yaml").read_text(encoding="utf-8")
    for line in block.code.splitlines():
        assert line in example
