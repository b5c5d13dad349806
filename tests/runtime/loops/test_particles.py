"""Particles against the plain rule, and what they are drawn from against every answer there is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from checkpoints import tokenizer
from reference_rules.particles import particles
from reference_rules.plain import logprobs, reward
from reference_rules.search import implicit

import descant
from descant.grammar import FormulaError
from descant.runtime.scores.noise import coin, gumbel, seed_key

PROMPTS = ([1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13])
SEED, MOST, EOS = 11, 14, 2


def own_seed(seed: int) -> int:
    high, low = seed_key(seed)
    return (high << 32) ^ low


CASES = {  # by r and arguments: n, what ends a segment, ess, and whether the best is taken
    "3*rm, n=4, length=3": (4, 3, None, 0.5, False),
    "3*rm, n=5, length=4, ess=1, pick=best": (5, 4, None, 1, True),
    "2*rm, n=3, ess=0, length=2": (3, 2, None, 0, False),
    "arm - base, n=4, length=5, ess=0.9": (4, 5, None, 0.9, False),
    '2*arm - 2*base, n=4, until="e", ess=0.8': (4, MOST, "e", 0.8, False),
    '3*rm, n=4, until="e", length=4': (4, 4, "e", 0.5, False),
}


def plainly(zoo, prompt, r, n, length, until, ess, best):
    base, arm, rm = (zoo.model(name) for name in ("base", "arm", "rm"))
    seed, texts = own_seed(SEED), tokenizer()
    factor = float(r.split("*")[0]) if "*" in r.split(",")[0] else 1.0

    def draw(made, row, answer):
        key = torch.tensor([seed_key(seed, made * 65536 + row)], dtype=torch.int32)
        scores = logprobs(base, [*prompt, *answer])
        return int((scores + gumbel(key, torch.tensor([len(answer)]), len(scores))[0]).argmax())

    def judge(answer):
        if "rm" in r.split(",")[0].replace("arm", ""):
            return factor * reward(rm, [*prompt, *answer])
        return factor * implicit(arm, base, prompt, answer)

    def ends(start, answer):
        before, now = (texts.decode(ids, skip_special_tokens=True) for ids in (start, answer))
        found = until is not None and now.count(until) > before.count(until)
        return found or len(answer) - len(start) >= length

    def over(answer):
        return len(answer) == MOST or EOS in answer

    return particles(draw, judge, lambda i: coin(seed, i), n, ends, ess, over, best)


@pytest.mark.pages
@pytest.mark.parametrize("r", CASES)
def test_the_plain_rule(zoo, compiled, r):
    decoder = compiled(f"base | particles({r})")
    settings = {"max_new_tokens": MOST, "seed": SEED, "eos_token_id": EOS}
    settings["return_particles"] = True
    found = decoder.generate([list(p) for p in PROMPTS], batch_size=9, **settings)
    for prompt, completion in zip(PROMPTS, found, strict=True):
        answer, weights, normalizer = plainly(zoo, prompt, r, *CASES[r])
        assert completion.token_ids == answer
        assert completion.log_normalizer == pytest.approx(normalizer, abs=1e-4)
        own = [each.log_weight for each in completion.particles]
        assert own == pytest.approx(weights, abs=1e-4)
        assert completion.log_weight in own
        assert answer in [each.token_ids for each in completion.particles]
    [alone] = decoder.generate([list(PROMPTS[1])], **settings)
    assert alone.token_ids == found[1].token_ids
    [drafted] = compiled(f"base | particles({r})").generate(
        [list(PROMPTS[1])], draft="prompt", draft_length=3, **settings
    )
    assert drafted.token_ids == alone.token_ids
    assert drafted.log_weight == pytest.approx(alone.log_weight, abs=1e-4)


SIZE, LAST, LONGEST, START = 3, 2, 3, 0  # of the tables: tokens, EOS, the longest answer, a prompt
TABLES = {name: descant.TableModel.random(SIZE, seed) for name, seed in (("base", 3), ("arm", 8))}
RULE = {"rm": descant.RuleReward.random(SIZE, 5)}


def every_answer(answer: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    if len(answer) == LONGEST or LAST in answer:
        yield answer
    else:
        for token in range(SIZE):
            yield from every_answer((*answer, token))


def log_prob(name: str, answer: tuple[int, ...]) -> float:
    table = torch.log_softmax(TABLES[name].table.double(), dim=-1)
    return sum(table[u, v].item() for u, v in zip((START, *answer), answer, strict=False))


def judged(answer: tuple[int, ...]) -> float:
    before, last = (START, *answer)[-2:]
    return RULE["rm"].table[before, last].item()


ANSWERS = [*every_answer()]
BASE = {answer: math.exp(log_prob("base", answer)) for answer in ANSWERS}
R = {  # the tilt of each answer, by the formula's r
    "2*arm - 2*base": lambda a: 2 * (log_prob("arm", a) - log_prob("base", a)),
    "(p-1)*base": lambda a: 2 * log_prob("base", a),
    "0.7*rm + (arm - base)": lambda a: 0.7 * judged(a) + log_prob("arm", a) - log_prob("base", a),
}


def tilted(r: str) -> tuple[dict[tuple[int, ...], float], float]:
    """Every answer's probability under ``q·exp(r)``, and the sum of all weights."""
    weights = {answer: BASE[answer] * math.exp(R[r](answer)) for answer in ANSWERS}
    total = sum(weights.values())
    return {answer: weight / total for answer, weight in weights.items()}, total


def distance(one: dict, other: dict) -> float:
    return sum(abs(one[answer] - other[answer]) for answer in ANSWERS) / 2


def drawn(search: str, requests: int):
    decoder = descant.compile(f"base | {search}", models={**TABLES, **RULE}, params={"p": 3.0})
    found = decoder.generate(
        [[START]] * requests, max_new_tokens=LONGEST, seed=list(range(requests)),
        eos_token_id=LAST, batch_size=256,
    )  # fmt: skip
    counts = Counter(tuple(completion.token_ids) for completion in found)
    return {answer: counts[answer] / requests for answer in ANSWERS}, found


def sampling_error(requests: int, chance: float = 1e-6) -> float:
    """Total variation that a sample exceeds with that chance (Weissman et al. 2003)."""
    return math.sqrt((len(ANSWERS) * math.log(2) - math.log(chance)) / (2 * requests))


@pytest.mark.parametrize(("r", "length"), [("2*arm - 2*base", 1), ("(p-1)*base", 2)])
def test_what_is_drawn_approaches_the_target(r, length):
    """A bound on the sample's own error, which one particle, the untilted formula, exceeds."""
    target, total = tilted(r)
    one, _ = drawn(f"particles({r}, n=1, length={length})", 400)
    few, _ = drawn(f"particles({r}, n=4, length={length})", 400)
    many, found = drawn(f"particles({r}, n=40, length={length})", 500)
    assert distance(BASE, target) > sampling_error(500) + 0.1
    assert distance(one, BASE) < sampling_error(400)
    assert distance(many, target) < sampling_error(500) < distance(one, target)
    assert distance(many, target) < distance(few, target) < distance(one, target)
    estimates = torch.tensor([math.exp(each.log_normalizer) for each in found]).double()
    error = estimates.std().item() / len(estimates) ** 0.5
    assert abs(estimates.mean().item() - total) < 4 * error < total


@pytest.mark.parametrize("ess", [0, 0.5, 1])
def test_the_normaliser_is_unbiased_however_often_rows_are_resampled(ess):
    r = "2*arm - 2*base"
    _, found = drawn(f"particles({r}, n=4, length=1, ess={ess})", 1500)
    estimates = torch.tensor([math.exp(each.log_normalizer) for each in found]).double()
    error = estimates.std().item() / len(estimates) ** 0.5
    assert abs(estimates.mean().item() - tilted(r)[1]) < 4 * error < 0.25 * tilted(r)[1]


@pytest.mark.parametrize(("r", "beta"), [("2*arm - 2*base", 0.3), ("0.7*rm + (arm - base)", 1)])
def test_soft_best_of_n_is_drawn_in_proportion(r, beta):
    """By all triples of answers: of three, one is drawn by ``exp(beta*r)``.

    The second is guided speculative inference's tilt.
    """
    expected, hard = dict.fromkeys(ANSWERS, 0.0), dict.fromkeys(ANSWERS, 0.0)
    for triple in product(ANSWERS, repeat=3):
        weights = [math.exp(beta * R[r](each)) for each in triple]
        chance = math.prod(BASE[each] for each in triple)
        for each, weight in zip(triple, weights, strict=True):
            expected[each] += chance * weight / sum(weights)
        hard[max(triple, key=R[r])] += chance
    soft, _ = drawn(f"best_of({r}, n=3, beta={beta})", 1500)
    assert distance(soft, expected) < sampling_error(1500)
    assert 2 * sampling_error(1500) < min(distance(BASE, expected), distance(hard, expected))


def test_weights_of_zero():
    """r is -inf for some answers: these are never drawn; for all of them, an error."""
    table = torch.zeros(SIZE, SIZE)
    table[:, 1] = -torch.inf
    never = {**TABLES, "never": descant.TableModel(table)}
    decoder = descant.compile("base | particles(never, n=8, length=1)", models=never)
    found = decoder.generate([[START]] * 40, max_new_tokens=LONGEST, seed=[*range(40)])
    assert not any(1 in completion.token_ids for completion in found)
    opposite = torch.zeros(SIZE, SIZE)
    opposite[:, [0, 2]] = -torch.inf  # which draws nothing but the token 1
    apart = {"base": descant.TableModel(opposite), "never": descant.TableModel(table)}
    decoder = descant.compile("base | particles(never, n=4)", models=apart)
    with pytest.raises(FormulaError, match="all 4 particles have the weight 0") as raised:
        decoder.generate([[START]], max_new_tokens=LONGEST, seed=0)
    assert str(raised.value).splitlines()[2].index("^") == len("  base | particles(")


def test_what_particles_refuse():
    decoder = descant.compile("base | particles(arm, n=2)", models=TABLES)
    with pytest.raises(ValueError, match="at temperature 0 all of them are one text"):
        decoder.generate([START], temperature=0)
    with pytest.raises(ValueError, match="for a formula that ends in particles, and this is base"):
        descant.compile("base", models={"base": TABLES["base"]}).generate(
            [START], return_particles=True
        )
    with pytest.raises(FormulaError, match="no model here has a tokenizer") as raised:
        descant.compile('base | particles(arm, n=2, until="x")', models=TABLES)
    assert 'until="x"' in str(raised.value)
    [plain] = decoder.generate([START], max_new_tokens=2, seed=0)
    assert plain.particles is None
    [other] = descant.compile("base", models={"base": TABLES["base"]}).generate([START])
    assert (other.log_weight, other.log_normalizer, other.particles) == (None, None, None)
