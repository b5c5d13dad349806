"""Search: best of n and block-level search against the plain rule, and rows against neighbours."""

from __future__ import annotations

import pytest
import torch
from reference_rules.plain import logprobs, reward
from reference_rules.search import Cards, blockwise, cards, implicit

from descant.grammar import FormulaError
from descant.runtime.loops.search.segments import Rule
from descant.runtime.scores.noise import coin, gumbel, seed_key

PROMPTS = ([1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13])
SEED, MOST, EOS = 11, 12, 2


def drawn(model, prompt, seed=SEED):
    """Draws as a request with this seed does: sample i has noise of its own."""
    high, low = seed_key(seed)

    def draw(sample: int, answer: list[int]) -> int:
        scores = logprobs(model, [*prompt, *answer])
        key = torch.tensor([seed_key((high << 32) ^ low, sample)], dtype=torch.int32)
        return int((scores + gumbel(key, torch.tensor([len(answer)]), len(scores))[0]).argmax())

    return draw


CASES = [
    ("base | best_of(rm, n=5)", 1, 5, MOST),
    ("base | blockwise(rm, beams=1, samples=4, length=3)", 1, 4, 3),
    ("base | blockwise(rm, beams=3, samples=2, length=4)", 3, 2, 4),
    ("base | blockwise(rm, beams=2, samples=2, length=5)", 2, 2, 5),
    ("base | blockwise(arm - base, beams=2, samples=3, length=4)", 2, 3, 4),
    ("base | best_of(arm - base, n=3)", 1, 3, MOST),
]


@pytest.mark.pages
@pytest.mark.parametrize(("formula", "beams", "samples", "length"), CASES)
def test_the_plain_rule(zoo, compiled, formula, beams, samples, length):
    decoder = compiled(formula)
    base, arm, rm = (zoo.model(name) for name in ("base", "arm", "rm"))
    found = decoder.generate(
        [list(p) for p in PROMPTS], max_new_tokens=MOST, seed=SEED, eos_token_id=EOS
    )
    for prompt, completion in zip(PROMPTS, found, strict=True):

        def judge(answer, prompt=prompt):
            if "rm" in formula.replace("arm", ""):
                return reward(rm, [*prompt, *answer])
            return implicit(arm, base, prompt, answer)

        draw = drawn(base, prompt)
        expected = blockwise(draw, judge, beams, samples, length, MOST, EOS)
        assert completion.token_ids == expected


CARDS = [
    ("rm", "target=1, entropy=4, beta=0.1, alpha=0.9, retries=4",
     Cards(1, 4, 0.1, 0.9, retries=4)),
    ("rm", "target=0.3, entropy=3.5, beta=0.2, shortest=2, longest=5, retries=6",
     Cards(0.3, 3.5, 0.2, shortest=2, longest=5, retries=6)),
    ("rm", "target=0.5, entropy=0, beta=0.05, shortest=1, retries=3",
     Cards(0.5, 0, 0.05, shortest=1, retries=3)),
    ("2*arm - 2*base", "target=3, entropy=4, beta=1, retries=5", Cards(3, 4, 1, retries=5)),
    ("rm", "target=9, beta=0.5, retries=0, longest=3", Cards(9, beta=0.5, retries=0, longest=3)),
]  # fmt: skip


def judge_of(zoo, r: str, prompt):
    base, arm, rm = (zoo.model(name) for name in ("base", "arm", "rm"))
    if r == "rm":
        return lambda answer: reward(rm, [*prompt, *answer])
    return lambda answer: 2 * implicit(arm, base, prompt, answer)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("r", "settings", "rule"), CARDS)
def test_segments_are_rejected_by_the_plain_rule(zoo, compiled, r, settings, rule, samples):
    decoder = compiled(f"base | reject({r}, {settings}, samples={samples})")
    base = zoo.model("base")
    found = decoder.generate(
        [list(p) for p in PROMPTS], max_new_tokens=MOST, seed=SEED, eos_token_id=EOS, batch_size=4
    )
    high, low = seed_key(SEED)
    own = (high << 32) ^ low
    asked = 0
    for prompt, completion in zip(PROMPTS, found, strict=True):

        def draw(start, candidate, answer, prompt=prompt):
            scores = logprobs(base, [*prompt, *answer])
            key = torch.tensor([seed_key(own, start * 65536 + candidate)], dtype=torch.int32)
            noise = gumbel(key, torch.tensor([len(answer)]), len(scores))[0]
            return int((scores + noise).argmax())

        def unsure(answer, prompt=prompt):
            scores = logprobs(base, [*prompt, *answer])
            return -(scores.exp() * scores).sum().item()

        def luck(start, candidate):
            nonlocal asked
            asked += 1
            return coin(own, start * 65536 + candidate)

        judge = judge_of(zoo, r, prompt)
        expected = cards(draw, unsure, judge, luck, rule, MOST, EOS)
        assert completion.token_ids == expected
    assert asked >= len(PROMPTS) or rule.retries == 0


def test_a_segment_is_accepted_as_often_as_the_rule_says():
    rule = Rule(target=1.0, beta=0.5, alpha=0.0, retries=1)
    flips = [coin(5, i) for i in range(4000)]
    for value, share, chance in (
        (1.0, 1, 1.0),
        (0.5, 1, 0.3679),
        (0.5, 0.5, 1.0),
        (0.0, 0.5, 0.3679),
    ):
        accepted = sum(rule.accepts(value, 0.0, share, luck) for luck in flips) / len(flips)
        assert accepted == pytest.approx(chance, abs=0.03)


@pytest.mark.pages
def test_what_is_rejected_leaves_no_trace(compiled):
    """Stages that look at the text, reranking and sides of a condition go back as well."""
    for head in (
        "base | repetition_penalty(3)",
        "base | rerank(rm2, k=4, w=2)",
        "(base | rerank(rm2, k=5, w=1, keep=all)) + arm",
        "where(step < 5, base, arm)",
    ):
        prompts = [list(p) for p in PROMPTS]
        formula = f"{head} | reject(rm, target=3, entropy=3.5, beta=0.2, retries=3, samples={{}})"
        settings = {"max_new_tokens": 14, "seed": 4}
        together = compiled(formula.format(1)).generate(prompts, batch_size=3, **settings)
        aside = compiled(formula.format(4)).generate(prompts, batch_size=8, **settings)
        assert [c.token_ids for c in together] == [c.token_ids for c in aside]
        wider = compiled(formula.format(2)).generate(prompts[1], **settings)
        assert wider[0].token_ids == together[1].token_ids


def test_better_answers_the_higher_the_target(zoo, compiled):
    rm = zoo.model("rm")
    prompts = [list(p) for p in PROMPTS] * 4
    seeds = list(range(len(prompts)))

    def mean(target: float) -> float:
        decoder = compiled("base | reject(rm, target=t, beta=0.02)", params={"t": target})
        found = decoder.generate(prompts, max_new_tokens=MOST, seed=seeds)
        values = [reward(rm, [*p, *c.token_ids]) for p, c in zip(prompts, found, strict=True)]
        return sum(values) / len(values)

    assert mean(1.0) > mean(-5.0) + 0.1


def test_a_judge_that_gives_nan_is_named(zoo, compiled):
    import copy

    broken = copy.deepcopy(zoo.model("rm"))
    with torch.no_grad():
        broken.score.weight.fill_(torch.nan)
    for stage in ("best_of(bad, n=2)", "blockwise(bad, length=2)", "reject(bad)"):
        decoder = compiled(f"base | {stage}", models={"base": zoo.model("base"), "bad": broken})
        with pytest.raises(FormulaError, match="bad gave NaN"):
            decoder.generate([1, 5], max_new_tokens=6, seed=0)


def test_scores_with_nan_in_a_search_are_named(zoo, compiled):
    import copy

    broken = copy.deepcopy(zoo.model("arm"))
    with torch.no_grad():
        broken.get_output_embeddings().weight[5].fill_(torch.nan)
    models = {"base": zoo.model("base"), "bad": broken, "rm": zoo.model("rm")}
    for formula in ("base + bad | best_of(rm, n=2)", "base | best_of(bad - base, n=2)"):
        with pytest.raises(FormulaError, match="bad gave NaN for row 0, token 0"):
            compiled(formula, models=models).generate([1, 5], max_new_tokens=6, seed=0)


@pytest.mark.pages
@pytest.mark.parametrize("formula", [formula for formula, *_ in CASES])
def test_neighbours_do_not_matter(compiled, formula):
    decoder = compiled(formula)
    settings = {"max_new_tokens": MOST, "seed": SEED}
    prompts = [list(p) for p in PROMPTS] * 2
    together = decoder.generate(prompts, batch_size=13, **settings)
    for prompt, completion in zip(prompts, together, strict=True):
        [alone] = decoder.generate([prompt], **settings)
        assert alone.token_ids == completion.token_ids


def test_the_best_of_more_is_no_worse(zoo, compiled):
    rm = zoo.model("rm")
    settings = {"max_new_tokens": 8, "seed": 3}

    def best(n: int) -> float:
        [out] = compiled(f"base | best_of(rm, n={n})").generate([list(PROMPTS[0])], **settings)
        return reward(rm, [*PROMPTS[0], *out.token_ids])

    rewards = [best(n) for n in (1, 2, 4, 8, 16)]
    assert rewards == sorted(rewards)
    assert rewards[-1] > rewards[0]


def test_a_prompt_is_read_once(zoo, compiled):
    decoder = compiled("base | best_of(rm, n=6)", models={"base": zoo.model("base")})
    rows: list[tuple[int, ...]] = []
    hook = zoo.model("base").base_model.register_forward_hook(
        lambda module, args, kwargs, out: rows.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    try:
        decoder.generate([list(PROMPTS[2])], max_new_tokens=4, seed=0)
    finally:
        hook.remove()
    assert rows == [(1, len(PROMPTS[2])), *[(6, 1)] * 3]  # which gave the first of four tokens


def test_what_a_search_is_not_for(compiled):
    decoder = compiled("base | best_of(rm, n=2)")
    with pytest.raises(ValueError, match="stream is not for a formula that ends in best_of"):
        next(decoder.stream([1, 5]))
    with pytest.raises(ValueError, match="scores is not for a formula that ends in best_of"):
        decoder.scores([1, 5], [3])


def test_a_search_with_a_reranking_stage_before_it(compiled):
    decoder = compiled("base | rerank(rm, k=4, w=1) | best_of(rm, n=3)")
    prompts = [list(p) for p in PROMPTS]
    together = decoder.generate(prompts, max_new_tokens=6, seed=1)
    alone = [decoder.generate([p], max_new_tokens=6, seed=1)[0] for p in prompts]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]


def test_more_samples_than_tokens():
    import descant

    base = descant.TableModel.random(6, seed=1)
    decoder = descant.compile("base | best_of(2*base, n=9)", models={"base": base})
    assert len(decoder.generate([3], max_new_tokens=3, seed=0)[0].token_ids) == 3
