"""Grouped heads: folding them is transformers' own attention, without its copies."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import descant
from descant.models.cache import attention
from descant.models.cache.attention import FOLDED, chunk_attention, grouped_attention
from descant.models.cache.masks import current_window
from descant.models.cache.window import runs_of_lengths

lane_file = importlib.import_module("descant.models.lanes.prefill")

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 2, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("heads", "groups", "queries"),
    [(8, 2, 1), (8, 2, 11), (6, 3, 5), (8, 1, 4), (4, 4, 3), (8, 2, FOLDED + 1)],
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


@pytest.mark.parametrize(("heads", "groups"), [(8, 2), (4, 4), (6, 1)])
@pytest.mark.parametrize(("start", "queries"), [(0, 1), (0, 33), (1, 7), (40, 64), (700, 130)])
def test_a_chunk_is_attention_under_a_causal_mask(heads, groups, start, queries) -> None:
    generator = torch.Generator().manual_seed(start + queries)
    query = torch.randn(2, heads, queries, 16, generator=generator)
    key, value = 3 * torch.randn(2, 2, groups, start + queries, 16, generator=generator)
    found = chunk_attention(query, key, value, start, 0.3)
    keys, values = (x.repeat_interleave(heads // groups, dim=1).double() for x in (key, value))
    scores = 0.3 * query.double() @ keys.mT
    at = torch.arange(start, start + queries)[:, None]
    scores = scores.masked_fill(torch.arange(start + queries) > at, -torch.inf)
    expected = scores.softmax(dim=-1) @ values
    torch.testing.assert_close(found.double(), expected, atol=5e-6, rtol=1e-5)


def test_a_prompt_is_read_without_a_mask_in_numbers(monkeypatch) -> None:
    """A chunk of a lane takes the path above, from the first one on."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    starts = []

    def spied(query, key, value, start, scale):
        starts.append((start, query.shape[2]))
        return chunk_attention(query, key, value, start, scale)

    monkeypatch.setattr(attention, "chunk_attention", spied)
    monkeypatch.setattr(lane_file, "CHUNK", 8)
    decoder = descant.compile("base", models={"base": model})
    [completion] = decoder.generate([[5] * 20], max_new_tokens=4, temperature=0)
    assert starts == [(start, q) for start, q in ((0, 8), (8, 8), (16, 4)) for _ in range(2)]
    expected = model.generate(
        torch.tensor([[5] * 20]), max_new_tokens=4, do_sample=False, eos_token_id=None
    )
    assert completion.token_ids == expected[0, 20:].tolist()


@pytest.mark.parametrize(
    ("ends", "runs"),
    [
        ([4096, 64, 64, 64], [(0, 1, 4096), (1, 4, 64)]),
        ([64, 64, 4096, 60, 70], [(0, 2, 64), (2, 3, 4096), (3, 5, 70)]),
        ([100, 90, 300, 120], [(0, 2, 100), (2, 4, 300)]),
        ([250, 240, 300, 270], [(0, 4, 300)]),
        ([7], [(0, 1, 7)]),
    ],
)
def test_rows_of_like_lengths_attend_together(ends, runs) -> None:
    found = runs_of_lengths(ends, lambda longest: longest)
    assert [(rows.start, rows.stop, limit) for rows, limit in found] == runs


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
    assert len(seen) == 2 * 4  # the prompts are read by ``chunk_attention``
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
    assert current_window() is None
