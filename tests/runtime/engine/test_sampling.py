"""Sampling: reproducible, the same alone and in any batch, and distributed as softmax says."""

from __future__ import annotations

import math

import pytest
import torch

import descant
from descant.runtime.scores.noise import gumbel, seed_key

V = 12
BASE = descant.TableModel.random(V, seed=1)


def table(formula: str = "base", **more):
    models = {"base": BASE, "arm": descant.TableModel.random(V, seed=2)}
    return descant.compile(formula, models=models, **more)


def drawn(decoder, prompts, **settings) -> list[list[int]]:
    return [one.token_ids for one in decoder.generate(prompts, temperature=1.0, **settings)]


def total_variation(counts: torch.Tensor, expected: torch.Tensor) -> float:
    return 0.5 * (counts / counts.sum() - expected).abs().sum().item()


def counts(samples: list[list[int]], place: int = 0) -> torch.Tensor:
    return torch.bincount(torch.tensor([one[place] for one in samples]), minlength=V).double()


def test_a_seed_draws_the_same_tokens_in_any_batch() -> None:
    decoder, prompts = table("base + 0.5*arm"), [[i % V, 3] for i in range(9)]
    seeds = [7 * i for i in range(9)]
    whole = drawn(decoder, prompts, seed=seeds, max_new_tokens=20)
    for size in (1, 2, 4):
        assert drawn(decoder, prompts, seed=seeds, max_new_tokens=20, batch_size=size) == whole
    back = drawn(decoder, prompts[::-1], seed=seeds[::-1], max_new_tokens=20)
    assert back == whole[::-1]
    assert [
        drawn(decoder, prompt, seed=seed, max_new_tokens=20)[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ] == whole


def test_different_seeds_and_no_seed_differ() -> None:
    decoder = table()
    several = [drawn(decoder, [1], seed=seed, max_new_tokens=30)[0] for seed in range(10)]
    several += [drawn(decoder, [1], max_new_tokens=30)[0] for _ in range(10)]
    assert len({tuple(one) for one in several}) == 20


def test_num_return_sequences_are_draws_of_their_own() -> None:
    decoder = table()
    found = decoder.generate(
        [[1], [2]], temperature=1.0, seed=5, num_return_sequences=3, max_new_tokens=30
    )
    assert [one.prompt for one in found] == [[1]] * 3 + [[2]] * 3
    assert len({tuple(one.token_ids) for one in found[:3]}) == 3
    [first] = decoder.generate([1], temperature=1.0, seed=5, max_new_tokens=30)
    assert found[0].token_ids == first.token_ids


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_softmax(temperature) -> None:
    n = 8_000
    found = table().generate(
        [4], temperature=temperature, seed=3, num_return_sequences=n, max_new_tokens=2,
        batch_size=n,
    )  # fmt: skip
    samples = [one.token_ids for one in found]
    first = torch.softmax(BASE.table[4].double() / temperature, -1)
    # sqrt(V / (2 pi n)) is what chance alone makes of the total variation
    chance = math.sqrt(V / (2 * math.pi * n))
    assert total_variation(counts(samples), first) < 2 * chance
    second = first @ torch.softmax(BASE.table.double() / temperature, -1)
    assert total_variation(counts(samples, 1), second) < 2 * chance
    joint = torch.zeros(V, V).double()
    for one, two in samples:
        joint[one, two] += 1
    expected = first[:, None] * torch.softmax(BASE.table.double() / temperature, -1)
    assert total_variation(joint, expected) < 2 * math.sqrt(V * V / (2 * math.pi * n))


def test_the_comparison_of_frequencies_can_fail() -> None:
    n = 8_000
    samples = drawn(table(), [4], seed=3, num_return_sequences=n, max_new_tokens=1, batch_size=n)
    warmer = torch.softmax(BASE.table[4].double() / 1.25, -1)
    assert total_variation(counts(samples), warmer) > 2 * math.sqrt(V / (2 * math.pi * n))


def test_frequencies_over_seeds_are_softmax_too() -> None:
    n = 8_000
    found = table().generate(
        [[4]] * n, temperature=1.0, seed=list(range(n)), max_new_tokens=1, batch_size=n
    )
    expected = torch.softmax(BASE.table[4].double(), -1)
    samples = counts([one.token_ids for one in found])
    assert total_variation(samples, expected) < 2 * math.sqrt(V / (2 * math.pi * n))


def test_rerank_at_a_temperature_is_args_stochastic() -> None:
    reward, n = descant.RuleReward.random(V, seed=3), 8_000
    decoder = descant.compile("base | rerank(rm, k=4, w=1.5)", models={"base": BASE, "rm": reward})
    found = decoder.generate(
        [4], temperature=0.7, seed=1, num_return_sequences=n, max_new_tokens=1, batch_size=n
    )
    best = BASE.table[4].topk(4).indices
    scores = BASE.table[4].double()[best] + 1.5 * reward.table[4].double()[best]
    expected = torch.zeros(V).double()
    expected[best] = torch.softmax(scores / 0.7, -1)
    samples = counts([one.token_ids for one in found])
    assert total_variation(samples, expected) < 2 * math.sqrt(4 / (2 * math.pi * n))


def test_noise_is_a_pure_function_and_standard_gumbel() -> None:
    keys = torch.tensor([seed_key(seed) for seed in range(50)], dtype=torch.int32)
    steps = torch.arange(50)
    noise = gumbel(keys, steps, 4000)
    assert torch.equal(noise[7:9], gumbel(keys[7:9], steps[7:9], 4000))
    assert torch.equal(noise[:, :99], gumbel(keys, steps, 99))
    values = noise.double().flatten()
    assert values.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert values.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)
    rank = torch.exp(-torch.exp(-values)).sort().values  # uniform, if it is Gumbel
    place = (torch.arange(len(rank)) + 0.5) / len(rank)
    assert (rank - place).abs().max() < 2.5 / math.sqrt(len(rank))
    assert torch.corrcoef(noise)[~torch.eye(50, dtype=torch.bool)].abs().max() < 0.09


def test_noise_is_never_infinite() -> None:
    """These draws have all 24 leading bits set: (2^24 - 0.5) / 2^24 is 1 in float32."""
    for seed in (1, 4, 5, 31, 41, 55, 62):
        key = torch.tensor([seed_key(seed)], dtype=torch.int32)
        assert gumbel(key, torch.tensor([seed]), 1 << 20).isfinite().all()


def test_seeds_of_any_size_have_keys_of_their_own() -> None:
    keys = {
        seed_key(seed, sample)
        for seed in (0, 1, -1, 2**31, 2**32, 2**63, 2**64 - 2)
        for sample in range(50)
    }
    assert len(keys) == 7 * 50


def test_temperature_zero_takes_the_lowest_id_of_a_tie() -> None:
    scores = torch.zeros(6, 6)
    scores[:, [2, 4, 5]] = 3.0
    decoder = descant.compile("base", models={"base": descant.TableModel(scores)})
    for settings in ({}, {"temperature": 0}, {"do_sample": False, "temperature": 1.5}):
        [found] = decoder.generate([1], max_new_tokens=3, **settings)
        assert found.token_ids == [2, 2, 2]


def test_greedy_and_sampled_rows_agree_about_do_sample() -> None:
    decoder = table()
    [one], [two] = (
        decoder.generate([1], max_new_tokens=20, seed=3, **settings)
        for settings in ({"do_sample": True}, {"temperature": 1.0})
    )
    assert one.token_ids == two.token_ids
