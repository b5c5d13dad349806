"""Search: best of n and block-level search against the plain rule, and rows against neighbours."""

from __future__ import annotations

import pytest
import torch
from reference_rules.plain import logprobs, reward
from reference_rules.search import blockwise, implicit

from descant.runtime.noise import gumbel, seed_key

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
    assert rows[0] == (1, len(PROMPTS[2]) - 1)
    assert set(rows[1:]) == {(6, 1)}


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
