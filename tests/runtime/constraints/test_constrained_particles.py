"""Particles after a constraint: the model under the whole of it, by every answer there is."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from constrained import LETTERS, tables

import descant

PATTERN, LONGEST, REQUESTS = "a(b|c1?)|b{3}", 4, 400
MODELS = tables(base=4, arm=2)
TOKENIZER = MODELS["base"]["tokenizer"]
END, START = TOKENIZER.eos_token_id, TOKENIZER.convert_tokens_to_ids("c")
Answers = dict[tuple[int, ...], float]


def logits(name: str, last: int) -> torch.Tensor:
    """Log-probabilities; rows that no token has are none of the vocabulary."""
    scores = MODELS[name]["model"].table[last, : len(TOKENIZER)].double()
    return scores.log_softmax(-1)


def spelt(answer: tuple[int, ...]) -> str:
    return "".join(LETTERS[token] for token in answer)


def fitting(answer: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Every way to spell a text that fits."""
    if re.fullmatch(PATTERN, spelt(answer)):
        yield answer
    if len(answer) < LONGEST:
        for token in range(len(LETTERS)):
            yield from fitting((*answer, token))


def log_prob(name: str, answer: tuple[int, ...]) -> float:
    """Of an answer and its end."""
    read = (START, *answer, END)
    return sum(logits(name, u)[v].item() for u, v in pairwise(read))


def locally(answer: tuple[int, ...]) -> float:
    """What masking token by token draws an answer with."""
    beginnings = {each[:n] for each in fitting() for n in range(len(each) + 1)}
    probability, whole = 1.0, {*fitting()}
    for n, token in enumerate((*answer, END)):
        own, last = answer[:n], (START, *answer)[n]
        allowed = [each for each in range(len(LETTERS)) if (*own, each) in beginnings]
        allowed += [END] * (own in whole)
        row = logits("base", last).exp()
        probability *= (row[token] / row[allowed].sum()).item()
    return probability


def normalised(weights: Answers) -> Answers:
    total = sum(weights.values())
    return {answer: weight / total for answer, weight in weights.items()}


def distance(one: Answers, other: Answers) -> float:
    return sum(abs(one.get(each, 0) - other.get(each, 0)) for each in {*one, *other}) / 2


def sampling_error(answers: int, chance: float = 1e-6) -> float:
    """Total variation that a sample exceeds with that chance (Weissman et al. 2003)."""
    return math.sqrt((answers * math.log(2) - math.log(chance)) / (2 * REQUESTS))


@pytest.mark.parametrize("r", ["0", "2*arm - 2*base"])
@pytest.mark.parametrize("by_request", [False, True])
def test_the_target_is_the_constrained_model_and_not_its_mask(r, by_request) -> None:
    stage = "" if by_request else f' | regex("{PATTERN}")'
    decoder = descant.compile(f"base{stage} | particles({r}, n=16, length=1)", MODELS)
    settings = {"structured_outputs": {"regex": PATTERN}} if by_request else {}
    found = decoder.generate(
        [[START]] * REQUESTS, seed=[*range(REQUESTS)], max_new_tokens=LONGEST + 2, batch_size=256,
        **settings,
    )  # fmt: skip
    answers = [*fitting()]
    tilt = {
        each: 0.0 if r == "0" else 2 * (log_prob("arm", each) - log_prob("base", each))
        for each in answers
    }
    weights = {each: math.exp(log_prob("base", each) + tilt[each]) for each in answers}
    target = normalised(weights)
    counts = Counter(tuple(t for t in each.token_ids if t != END) for each in found)
    drawn = {each: count / REQUESTS for each, count in counts.items()}
    masked = normalised({each: locally(each) * math.exp(tilt[each]) for each in answers})
    assert distance(masked, target) > 2 * sampling_error(len(answers))
    assert distance(drawn, target) < sampling_error(len(answers))
    ends = {"eos" if END in each.token_ids else "stop" for each in found}
    assert {each.finish_reason for each in found} == ends == {"eos", "stop"}
    estimates = torch.tensor([math.exp(each.log_normalizer) for each in found]).double()
    error = estimates.std().item() / len(estimates) ** 0.5
    assert abs(estimates.mean().item() - sum(weights.values())) < 4 * error < sum(weights.values())
