"""A draft changes no token: with and without, a call gives the same, token for token."""

from __future__ import annotations

from typing import Any

import pytest
from ragged import PROMPTS, VALUES

PAIRS = [
    ("base + a*arm", "base"),
    ("base + a*arm", "arm"),
    ("base + a*arm", "base + a*arm"),
    ("base + a*arm", "strong"),
    ("strong + a*(arm - arm2)", "arm"),
    ("gpt2 + a*opt", "opt"),
    ("mistral - a*qwen2", "mistral"),
    ("base + a*lora4 - 0.25*lora8 + patterns", "base"),
    ("base + a*lora4 - 0.25*lora8 + patterns", "base + lora4"),
    ("gpt2 + a*lora_gpt2", "gpt2 | top_k(5)"),
    ('base + a*base@"be kind" - 0.3*base@none', "base"),
    ('base + a*base@"be kind" - 0.3*base@none', 'base@"be good"'),
    ("base + a*arm | repetition_penalty(1.3) | top_k(20) | top_p(0.9)", "base"),
    (
        "base + a*arm | repetition_penalty(1.3) | top_k(20) | top_p(0.9)",
        "arm | repetition_penalty(1.3)",
    ),
    ("where(step < 4, base, base + a*arm)", "base"),
    ("where(entropy(base) > 4, base + a*arm, base)", "base"),
    ("mix(0.5: base, 0.5: arm)", "arm"),
    ("base | blockwise(arm - base, beams=2, samples=2, length=4)", "arm"),
    ("base + a*arm | best_of(rm, n=3)", "base"),
    ("base | reject(rm, samples=2, entropy=3.0, shortest=2, longest=6, retries=3)", "arm"),
]


def params(formula: str, values: Any) -> dict[str, Any]:
    return {"a": values} if "a*" in formula or "=a" in formula else {}


@pytest.mark.pages(temperature=0.8)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("formula", "draft"), PAIRS)
def test_a_draft_changes_no_token(compiled, formula, draft, temperature) -> None:
    decoder = compiled(formula, draft=draft, params=params(formula, 0.5) or None)
    seeds = list(range(len(PROMPTS)))
    settings = {
        "max_new_tokens": 14, "temperature": temperature, "seed": seeds, "batch_size": 4,
        "params": params(formula, VALUES),
    }  # fmt: skip
    plain = decoder.generate(PROMPTS, **settings)
    length = 4 if temperature else 1
    found = decoder.generate(PROMPTS, draft=draft, draft_length=length, **settings)
    assert [one.token_ids for one in found] == [one.token_ids for one in plain]
    assert [one.text for one in found] == [one.text for one in plain]


@pytest.mark.pages(temperature=0.8)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(
    ("formula", "draft"),
    [
        ("base | rerank(rm, k=5, w=a)", "base"),
        ("base + arm | rerank(rm, k=5, w=a, norm=prefix, keep=all)", "arm"),
        ("gpt2 + arm | rerank(rm, k=3, w=a) | rerank(a*rm2 - rm, k=2, w=1)", "gpt2"),
        ("(base | rerank(rm, k=3, w=1)) + a*arm", "base"),
        ("base | rerank(rm, k=4, w=1) | best_of(rm2, n=2)", "base"),
    ],
)
def test_candidates_of_every_position_are_ranked(compiled, formula, draft, temperature) -> None:
    test_a_draft_changes_no_token(compiled, formula, draft, temperature)
