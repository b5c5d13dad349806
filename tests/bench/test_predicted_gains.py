"""The table of predicted gains is what its script computes."""

from __future__ import annotations

import pytest

from bench.draft_gains import CASES, RESULTS, gain, report


def test_the_page_is_as_computed() -> None:
    assert RESULTS.read_text(encoding="utf-8") == report()
    assert "not measured" in report()


def test_an_arm_that_drafts_for_a_strong_model() -> None:
    arm = gain(CASES[0], "arm", 1)
    tokens, cost = 1 + 0.8 + 0.64 + 0.512 + 0.4096, (5 * 14 + 70) / 84
    assert arm.speedup(0.8, 4) == pytest.approx(tokens / cost)
    assert gain(CASES[0], "prompt", 1).speedup(0.8, 4) == pytest.approx(tokens)
