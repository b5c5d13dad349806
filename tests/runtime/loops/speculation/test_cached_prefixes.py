"""What a drafted run leaves in the prefix caches is what was read: the next call is the same."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.pages

FORMULAS = [
    ("base + a*arm", "base"),
    ("base + a*arm", "arm"),
    ("base + a*arm", "prompt"),
    ("gpt2 - a*mistral", "mistral"),
    ("base + a*lora4 - 0.25*lora8", "base + lora4"),
    ("base + a*qwen2 | blockwise(arm, beams=2, samples=2, length=3)", "base"),
]


@pytest.mark.parametrize(("formula", "draft"), FORMULAS)
@pytest.mark.parametrize("others", [{}, {"draft": "same", "draft_length": 2}])
def test_a_prefix_of_a_drafted_text_is_found_as_it_was_read(
    compiled, formula, draft, others
) -> None:
    """The answer of the first call is part of the next prompt, as in a chat."""
    decoder = compiled(formula, params={"a": 0.5}, draft=draft)
    without = compiled(formula, params={"a": 0.5}, enable_prefix_caching=False)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 300, (n,), generator=generator).tolist() for n in (17, 30, 3)]
    call = {"eos_token_id": (), "seed": [1, 2, 3], "temperature": [0.9, 0.0, 0.9]}
    drafted = {"draft": draft, "draft_length": 4}
    if "draft" in others:
        others = {**others, "draft": draft}
    first = decoder.generate(prompts, max_new_tokens=14, **drafted, **call)
    longer = [
        [*ids, *one.token_ids, *more]
        for ids, one, more in zip(prompts, first, ([], [77], [4, 5]), strict=True)
    ]
    counted = decoder.session.engine.stats
    counted.clear()
    second = decoder.generate(longer, max_new_tokens=10, **others, **call)
    assert counted.cached_tokens > 0
    expected = without.generate(longer, max_new_tokens=10, **call)
    assert [one.token_ids for one in second] == [one.token_ids for one in expected]
    assert [one.token_ids for one in first] == [
        one.token_ids for one in without.generate(prompts, max_new_tokens=14, **call)
    ]
