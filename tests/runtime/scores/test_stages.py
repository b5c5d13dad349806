"""Stages do to scores what transformers' own processors do to them, each row by its own numbers."""

from __future__ import annotations

import math

import pytest
import torch
from reference_rules.sampling import processed

import descant

V = 40
BASE, ARM = (descant.TableModel.random(V, seed=seed) for seed in (1, 2))
PROMPTS = [[3, 7, 7], [1], [9, 30, 12, 4], [5, 6]]
CHAINS = [
    [("top_k", [1, 5, 40, 12])],
    [("top_p", [0.1, 0.5, 0.9, 1.0])],
    [("min_p", [0.0, 0.05, 0.5, 1.0])],
    [("temperature", [0.1, 0.7, 1.0, 3.0])],
    [("repetition_penalty", [0.5, 1.0, 1.3, 4.0])],
    [("typical_p", [0.2, 0.7, 0.95, 1.0])],
    [("epsilon_cutoff", [0.0, 0.01, 0.05, 0.9])],
    [("eta_cutoff", [0.0, 0.02, 0.1, 0.9])],
    [("no_repeat_ngram", [0, 1, 2, 3])],
    [("top_k", [20, 9, 4, 30]), ("typical_p", [0.9, 0.5, 0.7, 0.3]), ("eta_cutoff", [0.1] * 4)],
    [("temperature", [0.5, 1.0, 2.0, 3.0]), ("top_p", [0.3, 0.8, 0.9, 0.99])],
    [("top_k", [4, 9, 20, 2]), ("top_p", [0.9] * 4), ("min_p", [0.1, 0.2, 0.01, 0.0])],
    [("repetition_penalty", [1.5] * 4), ("top_k", [5] * 4), ("temperature", [0.3, 1, 2, 9])],
    [("top_p", [0.5] * 4), ("top_p", [0.5] * 4), ("top_k", [30] * 4)],
]


def said(chain) -> str:
    return "".join(f" | {name}(p{i})" for i, (name, _) in enumerate(chain))


@pytest.mark.parametrize("chain", CHAINS, ids=said)
def test_stages_are_those_of_transformers(chain) -> None:
    params = {f"p{i}": values[0] for i, (_, values) in enumerate(chain)}
    decoder = descant.compile(
        "base + 0.5*arm" + said(chain), models={"base": BASE, "arm": ARM}, params=params
    )
    made = [8, 8, 30, 2]
    for row, prompt in enumerate(PROMPTS):
        values = {f"p{i}": many[row] for i, (_, many) in enumerate(chain)}
        found = decoder.scores(prompt, made, params=values)
        for i, scores in enumerate(found):
            text = prompt + made[:i]
            plain = sum(
                weight * torch.log_softmax(model.table[text[-1]], -1)
                for model, weight in ((BASE, 1.0), (ARM, 0.5))
            )
            own = [(name, many[row]) for name, many in chain]
            torch.testing.assert_close(scores, processed(own, text, plain), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chain", CHAINS, ids=said)
def test_each_row_has_its_own_numbers(chain) -> None:
    params = {f"p{i}": values[0] for i, (_, values) in enumerate(chain)}
    decoder = descant.compile("base" + said(chain), models={"base": BASE}, params=params)
    lists = {f"p{i}": values for i, (_, values) in enumerate(chain)}
    settings = {"max_new_tokens": 12, "temperature": 1.0, "seed": 4}
    together = decoder.generate(PROMPTS, params=lists, **settings)
    for row, prompt in enumerate(PROMPTS):
        own = {name: values[row] for name, values in lists.items()}
        [alone] = decoder.generate(prompt, params=own, **settings)
        assert together[row].token_ids == alone.token_ids


@pytest.mark.parametrize(
    ("logits", "p", "kept"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0], 0.5, [0, 1, 2, 3]),
        ([0, 0, 0, 0, 0, 0, 0, 0], 1.0, [0, 1, 2, 3, 4, 5, 6, 7]),
        ([0, 0, 0, 0, 0, 0, 0, 0], 0.01, [0]),
        ([-math.inf, 0, 0, -math.inf, 0, 0, -math.inf, -math.inf], 0.4, [1, 2]),
        ([1, 9, 1, 9, 1, 9, 1, 9], 0.6, [1, 3, 5]),
        ([-30, 0, -30, 0, -30, 0, -30, 0], 0.7, [1, 3, 5]),
        ([0, 200, 0, 0, 0, 0, 0, 0], 1.0, [1]),  # the others have no probability in float32
    ],
)
def test_top_p_keeps_the_fewest_and_of_ties_the_lowest_ids(logits, p, kept) -> None:
    table = torch.tensor([logits] * 8, dtype=torch.float32)
    decoder = descant.compile(f"base | top_p({p})", {"base": descant.TableModel(table)})
    assert decoder.scores([3], [])[0].isfinite().nonzero()[:, 0].tolist() == kept
    own = processed([("top_p", p)], [3], torch.log_softmax(table[3], -1))
    assert int(own.isfinite().sum()) == len(kept)


def test_the_order_of_stages_counts() -> None:
    one, two = (
        descant.compile(f"base | {stages}", models={"base": BASE}).scores([3], [])
        for stages in ("top_p(0.5) | temperature(3)", "temperature(3) | top_p(0.5)")
    )
    assert one.isfinite().sum() < two.isfinite().sum()


def test_stages_before_and_after_a_rerank() -> None:
    reward = descant.RuleReward.random(V, seed=3)
    decoder = descant.compile(
        "base | top_k(6) | rerank(rm, k=10, w=2) | temperature(0.5) | top_k(2)",
        models={"base": BASE, "rm": reward},
    )
    row = decoder.scores([3], [])[0]
    lm = torch.log_softmax(BASE.table[3], -1)
    best = lm.topk(6).indices.tolist()
    found = {token: (lm[token] + 2 * reward.table[3, token]).item() / 0.5 for token in best}
    expected = dict(sorted(found.items(), key=lambda item: -item[1])[:2])
    kept = {token: row[token].item() for token in row.isfinite().nonzero()[:, 0].tolist()}
    assert kept == pytest.approx(expected, abs=1e-5)


def test_an_excluded_token_is_excluded_whatever_the_sign() -> None:
    """A logit of minus infinity must not win through a negative weight, nor make NaN."""
    logits = ARM.table.clone()
    logits[:, 5] = -torch.inf
    arm = descant.TableModel(logits)
    for formula, finite in (("base - 2*arm", V - 1), ("base + a*arm", V), ("arm - arm + base", V)):
        decoder = descant.compile(
            formula, models={"base": BASE, "arm": arm}, params={"a": 0} if "a*" in formula else None
        )
        row = decoder.scores([3], [])[0]
        assert not row.isnan().any() and not (row == torch.inf).any()
        assert row.isfinite().sum() == finite


def test_a_row_without_a_weight_is_spared_the_exclusions() -> None:
    """Another row of the batch reads the term that excludes a token; this row does not."""
    favourite, banned = torch.zeros(V, V), ARM.table.clone()
    favourite[:, 5], banned[:, 5] = 9.0, -torch.inf
    models = {"base": descant.TableModel(favourite), "arm": descant.TableModel(banned)}
    decoder = descant.compile("base + a*arm", models=models, params={"a": 0})
    found = decoder.generate([[1], [1], [1]], params={"a": [0, 1, -1]}, max_new_tokens=3)
    assert found[0].token_ids == [5, 5, 5]
    assert 5 not in found[1].token_ids + found[2].token_ids
