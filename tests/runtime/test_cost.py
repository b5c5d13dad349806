"""What the plan says of bytes is what is allocated and read, and what cannot fit is refused."""

from __future__ import annotations

import pytest

import descant
from descant.runtime import cost

PROMPTS = [[1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13]]


@pytest.mark.parametrize(
    "formula",
    ["base", "base + 0.5*arm", "gpt2", "opt", "base + lora4 - lora8", "base | rerank(rm, k=4)"],
)
def test_caches_are_as_large_as_the_plan_says(compiled, formula) -> None:
    decoder = compiled(formula)
    decoder.generate(PROMPTS, max_new_tokens=5, batch_size=3, eos_token_id=[])
    bound = decoder._bound
    held = sum(lane.held_bytes() for lane in bound.lanes)
    capacity = bound.lanes[0].rows.capacity
    assert held == cost.cache_bytes(bound, 3, capacity)
    tensors = [tensor for lane in bound.lanes for tensor in lane._cache._tensors()]
    assert held == sum(tensor.numel() * tensor.element_size() for tensor in tensors) > 0


def test_a_batch_that_cannot_fit_is_refused_before_anything_is_allocated(
    compiled, monkeypatch
) -> None:
    decoder = compiled("base + 0.5*arm")
    each = cost.cache_bytes(decoder._bound, 1, 32)
    monkeypatch.setattr(cost, "free_bytes", lambda device: 2 * each + 1)
    settings = {"max_new_tokens": 5, "eos_token_id": []}
    with pytest.raises(descant.ModelError, match=r"3 rows of 32 tokens need .* are free on cpu"):
        decoder.generate(PROMPTS, **settings)
    assert all(lane.held_bytes() == 0 for lane in decoder._bound.lanes)
    with pytest.raises(descant.ModelError, match="batch_size=2 fits"):
        decoder.generate(PROMPTS, **settings)
    assert len(decoder.generate(PROMPTS, batch_size=2, **settings)) == 3
    monkeypatch.setattr(cost, "free_bytes", lambda device: each)  # and two are held already
    assert len(decoder.generate(PROMPTS, batch_size=3, **settings)) == 3
    monkeypatch.setattr(cost, "free_bytes", lambda device: 0)
    fresh = compiled("base + 0.5*arm")
    with pytest.raises(descant.ModelError, match="give fewer max_new_tokens"):
        fresh.generate(PROMPTS, **settings)


def test_free_memory_is_known() -> None:
    import torch

    assert cost.free_bytes(torch.device("cpu")) > 1 << 20
    assert cost.free_bytes(torch.device("meta")) is None


def test_what_the_last_run_read(compiled) -> None:
    decoder = compiled("base + 0.5*arm")
    assert "last run" not in str(decoder.plan)
    decoder.generate(PROMPTS, max_new_tokens=4, eos_token_id=[])
    spent, lanes = decoder._engine.spent, decoder._bound.lanes
    assert (spent.steps, spent.tokens) == (4, 12)
    texts = sum(len(prompt) + drawn for prompt in PROMPTS for drawn in range(4))
    read = sum(4 * lane.weight_bytes() + texts * lane.token_bytes() for lane in lanes)
    assert spent.read == read
    assert "last run    12 tokens in 4 steps" in str(decoder.plan)
    decoder.generate(PROMPTS[0], max_new_tokens=2, eos_token_id=[])
    assert "last run    2 tokens in 2 steps" in str(decoder.plan)


def test_a_search_multiplies_rows_and_judges_now_and_then(compiled) -> None:
    alone = compiled("base").plan
    for stage, rows in (("best_of(rm, n=a)", 5), ("blockwise(rm, beams=2, samples=a)", 10)):
        decoder = compiled(f"base | {stage}", params={"a": 5})
        plan, [base, rm] = decoder.plan, decoder._bound.lanes
        assert plan.forwards == 1 and plan.bytes_per_step == alone.bytes_per_step
        assert "1 forward (1 more where answers are judged)" in str(plan)
        caches = rows * 512 * (base.token_bytes() + rm.token_bytes())
        assert plan.floor(1e9, 1, 512) == pytest.approx((plan.bytes_per_step + caches) / 1e6)
    assert compiled("base | best_of(arm - base, n=2)").plan.forwards == 2


def test_the_floor_grows_with_the_batch(compiled) -> None:
    plan = compiled("base + 0.5*arm").plan
    alone, empty = plan.floor(1e9, 1, 512), plan.floor(1e9)
    assert empty == pytest.approx(plan.bytes_per_step / 1e6)
    assert plan.floor(1e9, 8, 512) - empty == pytest.approx(8 * (alone - empty))
    assert "8 requests of 2048 tokens" in plan.text(1e9, batch_size=8, context=2048)
