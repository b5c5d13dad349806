"""Effect sizes against plain computations, scipy's, and what intervals and p-values promise."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest
from scipy import stats

from descant.scoring.effects import effects, holm, sign_flip


def test_an_effect_is_the_plain_numbers() -> None:
    """Samples of a prompt are averaged first; prompts that one side lacks are left out."""
    rng = np.random.default_rng(3)
    ours = {i: list(rng.normal(0.4, 1, size=1 + i % 3)) for i in range(12)}
    theirs = {i: list(rng.normal(0, 1, size=2)) for i in range(1, 14)}
    found = effects({"ours": ours}, theirs)["ours"]
    differences = [statistics.fmean(ours[i]) - statistics.fmean(theirs[i]) for i in range(1, 12)]
    assert found.difference.mean == pytest.approx(statistics.fmean(differences))
    assert found.difference.n == 11
    spread = statistics.stdev(differences)
    assert found.d_z == pytest.approx(statistics.fmean(differences) / spread)
    assert found.d_z == pytest.approx(
        stats.ttest_rel([statistics.fmean(ours[i]) for i in range(1, 12)],
                        [statistics.fmean(theirs[i]) for i in range(1, 12)]).statistic / 11**0.5
    )  # fmt: skip
    assert found.win_rate.mean == pytest.approx(sum(d > 0 for d in differences) / 11)
    ways = list(itertools.product((1, -1), repeat=11))
    sums = [abs(sum(s * d for s, d in zip(way, differences, strict=True))) for way in ways]
    assert found.p == sum(s >= abs(sum(differences)) - 1e-9 for s in sums) / len(ways)


@pytest.mark.parametrize("count", [5, 13, 30, 200])
def test_the_sign_flip_test_is_scipys(count) -> None:
    """Exact where all ways are tried; else within what drawing them at random leaves open."""
    differences = np.random.default_rng(count).normal(1.3 / count**0.5, 1, size=count)
    reference = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=50_000, rng=0
    ).pvalue
    found = sign_flip(differences)
    near = 0 if count <= 13 else 5 * (reference * (1 - reference) / 9999) ** 0.5
    assert found == pytest.approx(reference, abs=near + 1e-12)


def test_edges_of_small_and_equal_samples() -> None:
    theirs = {0: [1.0], 1: [2.0]}
    found = effects({"same": theirs, "more": {0: [1.5], 1: [2.5]}, "none": {9: [1.0]}}, theirs)
    assert list(found) == ["same", "more"]  # nothing in common: left out
    assert (found["same"].d_z, found["same"].p, found["same"].win_rate.mean) == (None, 1.0, 0.5)
    assert (found["more"].d_z, found["more"].p, found["more"].p_holm) == (None, 0.5, 1.0)
    assert effects({"one": {0: [3.0]}}, {0: [1.0]})["one"].p == 1.0
    assert effects({}, {0: [1.0]}) == {} and holm([]) == []


def test_holm_is_its_definition() -> None:
    """Each value: over the hypotheses rejected no later, the largest of (m - rank)·p."""
    for seed in range(20):
        p = np.random.default_rng(seed).uniform(size=7).round(1)  # with ties
        order = sorted(range(7), key=lambda i: p[i])
        for rank, i in enumerate(order):
            expected = min(1, max((7 - earlier) * p[order[earlier]] for earlier in range(rank + 1)))
            assert holm(p)[i] == pytest.approx(expected)
    assert holm([0.001, 0.02, 0.03, 0.2]) == pytest.approx([0.004, 0.06, 0.06, 0.2])


def test_intervals_cover_and_families_err_rarely() -> None:
    """Skewed scores of 30 prompts with two samples each, 400 times.

    The interval has the true difference inside in 95 % of them, less what 30 prompts cost a
    percentile interval; of four points that equal the reference, one has p_holm below 0.05 in 5 %.
    """
    rng = np.random.default_rng(0)
    covered, wrong, single, times, prompts = 0, 0, 0, 400, range(30)

    def drawn(prompt_effect, shift):
        noise = rng.exponential(1, size=(len(prompts), 2)) - 1
        return {i: list(prompt_effect[i] + noise[i] + shift) for i in prompts}

    for _ in range(times):
        prompt_effect = rng.normal(0, 3, size=len(prompts))  # far larger than what is compared
        theirs = drawn(prompt_effect, 0)
        moved = effects({"moved": drawn(prompt_effect, 0.5)}, theirs)["moved"].difference
        covered += moved.low <= 0.5 <= moved.high
        null = effects({k: drawn(prompt_effect, 0) for k in range(4)}, theirs).values()
        wrong += any(effect.p_holm < 0.05 for effect in null)
        single += any(effect.p < 0.05 for effect in null)
    assert 0.90 <= covered / times <= 0.975
    assert wrong / times <= 0.075
    assert single > 1.5 * wrong  # without the correction it errs far more often
