"""Grouped heads: folding them is transformers' own attention, without its copies."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import descant
from descant.models.cache import attention
from descant.models.cache.attention import MAX_QUERIES, grouped_attention
from descant.models.cache.masks import in_lane_forward

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 2, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("heads", "groups", "queries"),
    [(8, 2, 1), (8, 2, 11), (6, 3, 5), (8, 1, 4), (4, 4, 3), (8, 2, MAX_QUERIES + 1)],
)
def test_it_is_the_attention_of_transformers(heads, groups, queries) -> None:
    generator = torch.Generator().manual_seed(heads + queries)
    query = torch.randn(3, heads, queries, 16, generator=generator)
    key, value = torch.randn(2, 3, groups, 50, 16, generator=generator)
    mask = torch.rand(3, 1, queries, 50, generator=generator) < 0.5
    mask[..., 0] = True
    layer = SimpleNamespace(num_key_value_groups=heads // groups, is_causal=True)
    found, _ = grouped_attention(layer, query, key, value, mask, scaling=0.3)
    expected, _ = sdpa_attention_forward(layer, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_a_lane_of_grouped_heads_copies_no_keys(monkeypatch) -> None:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    seen = []

    def spied(module, query, key, value, mask, **settings):
        if key.device.type != "meta":  # where the bytes of a token are counted
            seen.append((module.num_key_value_groups, key.shape[1], key.is_contiguous()))
        return sdpa_attention_forward(module, query, key, value, mask, **settings)

    monkeypatch.setattr(attention, "sdpa_attention_forward", spied)
    decoder = descant.compile("base", models={"base": model})
    decoder.generate([[1, 2, 3], [4] * 9], max_new_tokens=4)
    assert len(seen) == 2 * 5
    assert {(groups, heads) for groups, heads, _ in seen} == {(1, 2)}
    assert model.config._attn_implementation == "sdpa"


def test_outside_of_a_lane_transformers_is_as_it_was(monkeypatch) -> None:
    """Its own forwards keep their own masks and attention, before, during and after ours."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    ids = torch.tensor([[4, 5, 6, 7]])
    before = model(input_ids=ids).logits
    monkeypatch.setattr(attention, "grouped_attention", None)
    assert torch.equal(model(input_ids=ids).logits, before)
    monkeypatch.undo()
    descant.compile("base", models={"base": model}).generate([[1, 2, 3]], max_new_tokens=2)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert model.config._attn_implementation == "sdpa"
    assert not in_lane_forward()
