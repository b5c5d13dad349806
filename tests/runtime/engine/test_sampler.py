"""The sampler on a GPU: its kernel's first draw is held against torch's operations.

Here the operation is what it is on a CPU; what a kernel could get wrong is put into its results.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from descant.models.kernels.first_use import FirstUse
from descant.runtime.engine import sampler
from descant.runtime.engine.sampler import Draw, Drawn
from descant.runtime.scores.noise import seed_key

CPU = torch.device("cpu")


@dataclass
class Rows:
    """What the sampler reads of a batch."""

    temperatures: Tensor
    samples: bool = True

    def __post_init__(self) -> None:
        self.width = len(self.temperatures)
        self.keys = torch.tensor([seed_key(seed) for seed in range(self.width)]).int()
        self.steps = torch.arange(self.width) + 3


def case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, temperatures, keys and steps; a row has NaN, and one nothing but minus infinity."""
    scores = torch.randn(5, 300, generator=torch.Generator().manual_seed(2))
    scores[3, 7], scores[4] = math.nan, -math.inf
    rows = Rows(torch.tensor([0.0, 1.0, 0.5, 1.0, 2.0]))
    return scores, rows.temperatures, rows.keys, rows.steps


def test_the_operation_draws_what_the_sampler_draws() -> None:
    scores, *settings = arguments = case()
    found, expected = sampler._by_kernel(*arguments), sampler._plain(*arguments)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.allclose(found.scores, expected.scores, rtol=0, atol=0, equal_nan=True)
    assert sampler._wrong(scores, settings, found, expected) is None


def test_what_is_as_good_within_rounding_is_not_wrong() -> None:
    scores, *settings = case()
    expected = sampler._plain(scores, *settings)
    other = expected.tokens[0] - 1
    tokens = expected.tokens.clone()
    tokens[0] = other
    for below, wrong in ((1e-6, False), (1e-2, True)):
        scores[0, other] = scores[0].max() - below
        found = Draw(tokens, scores.gather(1, tokens[:, None])[:, 0])
        said = "its kernel draws otherwise in 1 of 5 rows" if wrong else None
        assert sampler._wrong(scores, settings, found, expected) == said


WRONG = {
    "other tokens": lambda drawn: Draw((drawn.tokens + 1) % 300, drawn.scores),
    "scores with noise": lambda drawn: Draw(drawn.tokens, drawn.scores + 0.01),
    "no token": lambda drawn: Draw(drawn.tokens + 10**12, drawn.scores),
    "NaN unseen": lambda drawn: Draw(drawn.tokens, drawn.scores.nan_to_num(nan=0.0)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_not_used_and_said(name, caplog) -> None:
    scores, *settings = arguments = case()
    expected = sampler._plain(*arguments)
    first: FirstUse[Draw] = FirstUse("sampling", lambda device: None)

    def run() -> Draw:
        return first.run(
            CPU,
            lambda: WRONG[name](sampler._by_kernel(*arguments)),
            lambda: sampler._plain(*arguments),
            lambda *pair: sampler._wrong(scores, settings, *pair),
        )

    with caplog.at_level(logging.WARNING, "descant"):
        drawn = [run() for _ in range(3)]
    assert all(torch.equal(each.tokens, expected.tokens) for each in drawn)
    [message] = caplog.messages
    assert message.startswith(
        "sampling on cpu goes on with torch's operations, for its kernel draws"
    )
    assert message.endswith("please report this with the output of `descant doctor --gpu`")


def test_batches_that_are_joined_draw_what_they_draw_apart() -> None:
    batches = [Rows(torch.tensor([0.0, 1.0])), Rows(torch.tensor([0.0, 0.0, 0.0]), False)]
    scores = [case()[0][:2], case()[0][:3]]
    together = sampler.draw(batches, scores)
    for batch, own, found in zip(batches, scores, together, strict=True):
        [alone] = sampler.draw([batch], [own])
        assert torch.equal(found.tokens, alone.tokens)
        assert torch.equal(found.scores, alone.scores)


WRONG_SUMS = {
    "other tokens": lambda drawn: drawn.results[0].add_(1).remainder_(300),
    "another score": lambda drawn: drawn.scores.add_(0.01),
    "alarms unseen": lambda drawn: drawn.results[1].zero_(),
    "steps": lambda drawn: drawn.results[2].zero_(),
}


@pytest.mark.parametrize("name", WRONG_SUMS)
def test_what_is_wrong_with_a_draw_from_a_sum_is_seen(name) -> None:
    free, *settings = case()
    least = free.topk(20, dim=-1).values[:, -1:]
    masked = free.masked_fill(free < least, -torch.inf)
    tokens, scores = sampler._plain(masked, *settings)
    wrong = torch.tensor([0, 0, 0, 1, 2])
    expected = Drawn([], torch.stack((tokens, wrong, settings[2] + 1)), scores)
    found = Drawn([], expected.results.clone(), scores.clone())
    assert sampler._wrong_sum(masked, free, settings, found, expected) is None
    WRONG_SUMS[name](found)
    assert "otherwise" in (sampler._wrong_sum(masked, free, settings, found, expected) or "")


def test_the_last_token_that_is_kept_may_be_excluded_by_rounding() -> None:
    free = torch.zeros(1, 300)
    free[0, :3] = torch.tensor([5.0, 4.0, 3.0])
    masked = free.masked_fill(free < 4.0, -torch.inf)
    settings = torch.ones(1), torch.zeros(1, 2, dtype=torch.int32), torch.zeros(1).long()
    for token, right in ((1, True), (0, True), (2, False)):
        expected = Drawn([], torch.tensor([[1], [0], [1]]), free[:, 1])
        found = Drawn([], torch.tensor([[token], [0], [1]]), free[:, token])
        assert (sampler._wrong_sum(masked, free, settings, found, expected) is None) is right
