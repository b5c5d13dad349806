"""The page about drafts: its block runs, and its numbers are the code's."""

import pytest
from doc_pages import Page

from descant.formula.algebra.drafting import LONGEST_DRAFT
from descant.runtime.loops.speculation.draft_length import expected_tokens
from descant.runtime.requests.request import MOST_ADAPTIVE
from descant.serve.protocol.schema import SERVED_LENGTH

PAGE = Page("docs/speculation.md")


def test_its_block_prints_what_the_page_shows():
    [(_, printed)] = PAGE.check()
    assert [line.split()[0] for line in printed.splitlines()] == ["drafts", "drafts", "drafted"]


def test_the_lengths_are_the_codes_own():
    [row] = [line for line in PAGE.text.splitlines() if line.startswith("| `draft_length` ")]
    assert f"1 to {LONGEST_DRAFT} ({SERVED_LENGTH} in a server)" in row
    assert f"up to {MOST_ADAPTIVE} |" in row


def test_tokens_of_a_round_are_as_the_page_says():
    said = "2.8, 3.4 and 4.1 for four tokens at 0.7, 0.8 and 0.9"
    assert said in PAGE.text
    for tokens, acceptance in ((2.8, 0.7), (3.4, 0.8), (4.1, 0.9)):
        assert expected_tokens(acceptance, 4) == pytest.approx(tokens, abs=0.05)
