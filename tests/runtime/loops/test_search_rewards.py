"""Reward expressions in searches: worked out in plain Python from plain, full forwards.

A reward model gives its reward of a text, a language model the log-probability of the answer.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from reference_rules.plain import logprobs, reward
from reference_rules.search import Cards, blockwise, cards
from test_search import EOS, MOST, PROMPTS, SEED, drawn

from descant.grammar import FormulaError
from descant.models import make_spec
from descant.models.tables import RuleReward, TableModel
from descant.runtime.scores.noise import coin, gumbel, seed_key
from descant.runtime.service import Service

NAMES = ("base", "arm", "rm", "rm2")


class Plain:
    """What every model says of an answer, each text read from its beginning."""

    def __init__(self, zoo) -> None:
        self.models = {name: zoo.model(name) for name in NAMES}
        self.known = cache(self._known)

    def _known(self, name: str, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
        ids = [*prompt, *answer]
        if name.startswith("rm"):
            return reward(self.models[name], ids)
        steps = (logprobs(self.models[name], [*prompt, *answer[:i]])[token].item()
                 for i, token in enumerate(answer))  # fmt: skip
        return math.fsum(steps)

    def value(self, expression: str, prompt, answer, **params: float) -> float:
        """The expression in Python's own arithmetic."""
        texts = tuple(prompt), tuple(answer)
        said = {name: self.known(name, *texts) for name in NAMES if name in expression}
        functions = {"min": min, "max": max, "abs": abs, "exp": math.exp, "log": math.log,
                     "sqrt": math.sqrt, "sigmoid": lambda x: 1 / (1 + math.exp(-x))}  # fmt: skip
        length = max(len(answer), 1)
        return eval(expression, {**functions, **said, **params, "answer_length": length})


@pytest.fixture(scope="module")
def plain(zoo) -> Plain:
    return Plain(zoo)


# The stage, its beams, samples and length, and the expression, in which a is 0.7 and b 0.
CASES = [
    ("best_of({}, n=4)", 1, 4, MOST, "rm - 0.05*answer_length"),
    ("best_of({}, n=4)", 1, 4, MOST, "a*rm + 0.1*(arm - base) + b*rm2"),
    ("best_of({}, n=4)", 1, 4, MOST, "(arm - base)/answer_length"),
    ("blockwise({}, beams=1, samples=4, length=3)", 1, 4, 3, "min(rm, rm2)"),
    ("blockwise({}, beams=2, samples=2, length=4)", 2, 2, 4,
     "sigmoid(rm)*exp(arm/answer_length) - max(a*rm2, -0.5)"),
]  # fmt: skip


def judge_of(plain: Plain, expression: str, prompt):
    return lambda answer: plain.value(expression, prompt, answer, a=0.7, b=0.0)


@pytest.mark.parametrize(("stage", "beams", "samples", "length", "expression"), CASES)
def test_the_plain_rule(plain, compiled, stage, beams, samples, length, expression) -> None:
    formula = f"base | {stage.format(expression)}"
    decoder = compiled(formula, params={"a": 0.7, "b": 0.0})
    prompts = [list(prompt) for prompt in PROMPTS]
    settings = {"max_new_tokens": MOST, "seed": SEED, "eos_token_id": EOS}
    found = decoder.generate(prompts, **settings)
    for prompt, completion in zip(PROMPTS, found, strict=True):
        draw = drawn(plain.models["base"], prompt)
        judge = judge_of(plain, expression, prompt)
        expected = blockwise(draw, judge, beams, samples, length, MOST, EOS)
        assert completion.token_ids == expected
    drafted = decoder.generate(prompts, draft="base@none", draft_length=3, **settings)
    assert [each.token_ids for each in drafted] == [each.token_ids for each in found]


@pytest.mark.parametrize("samples", [1, 3])
def test_segments_are_accepted_by_the_expression(plain, compiled, samples) -> None:
    """A row that goes back to what was accepted has its log-probabilities, not its value."""
    expression = "2*rm + 0.05*(arm - base) - 0.02*answer_length"
    rule = Cards(target=1.0, entropy=5.2, beta=0.4, shortest=2, longest=4, retries=3)
    numbers = ", ".join(f"{name}={value}" for name, value in vars(rule).items())
    decoder = compiled(f"base | reject({expression}, {numbers}, samples={samples})")
    settings = {"max_new_tokens": MOST, "seed": SEED, "eos_token_id": EOS}
    base, retried = plain.models["base"], 0
    for prompt in PROMPTS:
        seed = (seed_key(SEED)[0] << 32) ^ seed_key(SEED)[1]
        tries = []

        def draw(start, candidate, answer, prompt=prompt, seed=seed, tries=tries):
            tries.append(candidate)
            key = torch.tensor([seed_key(seed, (start << 16) + candidate)], dtype=torch.int32)
            scores = logprobs(base, [*prompt, *answer])
            return int((scores + gumbel(key, torch.tensor([len(answer)]), len(scores))[0]).argmax())

        def unsure(answer, prompt=prompt):
            row = logprobs(base, [*prompt, *answer])
            return -(row.exp() * row).sum().item()

        def luck(start, candidate, seed=seed):
            return coin(seed, (start << 16) + candidate)

        judge = judge_of(plain, expression, prompt)
        expected = cards(draw, unsure, judge, luck, rule, MOST, EOS)
        [found] = decoder.generate([list(prompt)], **settings)
        assert found.token_ids == expected
        retried += max(tries)
    assert retried


def test_rows_weigh_what_they_weigh(plain, compiled) -> None:
    """One batch, a coefficient of each row: models that no row weighs are not asked."""
    expression = "a*rm + (1 - a)*(arm - base)"
    decoder = compiled(f"base | best_of({expression}, n=3)", params={"a": 0.5})
    values = [0.0, 1.0, 0.5]
    prompts = [list(PROMPTS[0])] * 3
    together = decoder.generate(prompts, params={"a": values}, max_new_tokens=6, seed=SEED)
    for value, completion in zip(values, together, strict=True):
        [alone] = decoder.generate(prompts[:1], params={"a": value}, max_new_tokens=6, seed=SEED)
        assert alone.token_ids == completion.token_ids
        settings = {"params": {"a": value}, "max_new_tokens": 6, "seed": SEED}
        found = decoder.inspect(prompts[0], **settings)
        expected = plain.value(expression, PROMPTS[0], alone.token_ids, a=value)
        assert found.search_score == pytest.approx(expected, abs=1e-3)


def test_inspect_shows_what_each_model_says(plain, compiled) -> None:
    expression = "min(rm, rm2) + 0.1*arm"
    decoder = compiled(f"base | best_of({expression}, n=3)")
    found = decoder.inspect(list(PROMPTS[0]), max_new_tokens=6, seed=SEED)
    prompt, ids = tuple(PROMPTS[0]), tuple(found.completion.token_ids)
    assert found.search_terms.keys() == {"arm", "rm", "rm2"}
    for name, said in found.search_terms.items():
        assert said == pytest.approx(plain.known(name, prompt, ids), abs=1e-3)
    assert found.search_score == pytest.approx(plain.value(expression, PROMPTS[0], ids), abs=1e-3)
    before = [plain.known("arm", prompt, ids[:i]) for i in range(len(ids) + 1)]
    added = [0.1 * (after - one) for one, after in pairwise(before)]
    assert [each.search_score for each in found.tokens] == pytest.approx(added, abs=1e-3)


def test_a_value_that_is_no_number_fails_its_request_alone() -> None:
    likes = torch.full((6, 6), 2.0)
    likes[4] = -1.0  # after the second prompt's only token
    table = torch.zeros(6, 6)
    table[3, 5], table[4, 5] = 99, 99
    models = {"base": TableModel(table), "rm": RuleReward(likes)}
    specs = {name: make_spec(name, model) for name, model in models.items()}
    service = Service(specs, slots=6, max_model_len=64)
    decoder = service.decoder("base | best_of(1 + log(rm)/answer_length, n=2)")
    settings = {"max_new_tokens": 1, "eos_token_id": []}
    requests = [service.submit(decoder, [prompt], **settings)[0] for prompt in (3, 4, 3)]
    ended = {}
    while service.busy:
        ended |= {id(answer.request): answer for answer in service.step()}
    good, bad, other = (ended[id(request)] for request in requests)
    assert good.tokens == other.tokens == [5] and good.error is None
    error = bad.error
    assert isinstance(error, FormulaError) and bad.finish_reason == "error"
    assert error.problem.endswith("log(rm)/answer_length + 1, is not a finite number for row 0")
    assert error.text[slice(*error.span)] == "1 + log(rm)/answer_length"


def test_both_kinds_are_planned_together(compiled) -> None:
    """Language models share the lanes that are there: one forward where the formula has one."""
    decoder = compiled("base | best_of(rm + 0.1*(arm - base), n=2)")
    alone = compiled("base | best_of(rm, n=2)")
    assert decoder.plan.forwards == alone.plan.forwards + ("arm" not in str(alone.plan))
    lines = str(decoder.plan).splitlines()
    assert any(line.split()[:2] == ["arm", "0.1"] for line in lines)
    assert any(line.split()[:2] == ["base", "-0.1"] for line in lines)
    worst = str(compiled("base | rerank(min(rm, rm2) + 2*rm2, k=3)").plan)
    assert "in min(rm, rm2)" in worst and "in 2*rm2 + min(rm, rm2)" in worst
