"""What the peers' own tests assert, and that is no less than what they label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import others
import pytest
import sglang
import vllm_chats
import vllm_completions
from facts import FACTS

LABELLED = Path(__file__).with_name("labelled.jsonl")
PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
MODULES = (others, sglang, vllm_chats, vllm_completions)  # that register facts


@pytest.mark.parametrize("known", FACTS, ids=": ".join)
def test_a_peers_fact_holds(served: Any, known: tuple[str, str]) -> None:
    FACTS[known](served)


def test_every_labelled_fact_holds_or_the_page_says_why_not() -> None:
    lines = LABELLED.read_text(encoding="utf-8").splitlines()
    labelled = {(line["peer"], line["what"]) for line in map(json.loads, lines)}
    assert len(labelled) == 170 and set(FACTS) <= labelled
    missing = labelled - set(FACTS)
    page = PAGE.read_text(encoding="utf-8")
    assert len(labelled) - len(missing) >= 153
    assert [what for _, what in missing if f"`{what}`" not in page] == []
