"""Preferences: the loss of an autoregressive reward model, by the formula's coefficients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from test_fit_sums import TABLES

import descant
from descant.errors import ArgumentError

BETA = 0.2


def logprob(names: dict[str, float], prompt: list[int], ids: list[int]) -> float:
    scores = sum(c * TABLES[name].table.double().log_softmax(1) for name, c in names.items())
    rows = scores.log_softmax(1)
    before = [prompt[-1], *ids[:-1]]
    return float(rows[before, ids].sum())


@pytest.fixture(scope="module")
def preferences():
    """Pairs of texts of the base, chosen with the probability that a known formula has."""
    generator = np.random.default_rng(3)
    decoder = descant.compile("base + a*x", models={n: TABLES[n] for n in ("base", "x")},
                              params={"a": 0.1})  # fmt: skip
    prompts = [[i % 40] for i in range(120)]
    texts = decoder.generate(prompts * 2, max_new_tokens=12, temperature=1.0,
                             seed=[*range(240)], params={"a": 0.0})  # fmt: skip
    pairs = []
    for i, prompt in enumerate(prompts):
        one, other = texts[i].token_ids, texts[120 + i].token_ids
        margin = logprob({"base": 1, "x": 1.5}, prompt, one)
        margin -= logprob({"base": 1, "x": 1.5}, prompt, other)
        wins = generator.random() < 1 / (1 + np.exp(-BETA * margin))
        pairs.append((one, other) if wins else (other, one))
    return decoder, prompts, pairs


def test_what_was_preferred_is_recovered_as_by_a_plain_optimiser(preferences) -> None:
    decoder, prompts, pairs = preferences
    fit = decoder.fit(prompts, pairs, objective="preference", beta=BETA)

    def loss(at: np.ndarray) -> float:
        total = 0.0
        for prompt, (chosen, rejected) in zip(prompts, pairs, strict=True):
            names = {"base": 1.0, "x": float(at[0])}
            margin = logprob(names, prompt, chosen) - logprob(names, prompt, rejected)
            total += float(np.logaddexp(0, -BETA * margin))
        return total

    bracket = minimize(loss, [1.0], method="Nelder-Mead", options={"xatol": 1e-4, "maxiter": 40})
    assert fit.params["a"] == pytest.approx(bracket.x[0], abs=2e-3)
    assert fit.loglikelihood == pytest.approx(-bracket.fun, abs=1e-3)
    assert abs(fit.params["a"] - 1.5) < 3 * fit.stderr["a"]
    assert fit.accuracy[1] > fit.accuracy[0] and fit.texts == 120
    held = decoder.fit(prompts, pairs, objective="preference", beta=BETA, holdout=0.25, seed=1)
    assert held.texts == 90 and held.holdout["texts"] == 30
    assert held.holdout["accuracy"][1] >= held.holdout["accuracy"][0] - 0.1
    with pytest.raises(ArgumentError, match="completion 0 is no pair"):
        decoder.fit(prompts, [pair[:1] for pair in pairs], objective="preference")


def test_tensors_of_pairs_stay_apart(preferences) -> None:
    """A pair that is turned round has the opposite gradient: half and half leaves no preference."""
    decoder, prompts, pairs = preferences
    both = pairs + [pair[::-1] for pair in pairs]
    fit = decoder.fit(prompts * 2, both, objective="preference", beta=BETA, bounds={"a": (-1, 3)})
    assert fit.accuracy == (0.5, 0.5) and torch.isfinite(torch.tensor(fit.loglikelihood))
