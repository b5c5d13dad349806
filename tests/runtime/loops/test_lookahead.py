"""``rerank`` with ``ahead``: candidates judged by greedy continuations, against the plain rule."""

from __future__ import annotations

import pytest
import torch
from reference_rules.plain import logprobs, reward

from descant.errors import ArgumentError
from descant.runtime.scores.noise import gumbel, seed_key

PROMPTS = ([1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13])
SEED, MOST, EOS = 11, 7, 2


def greedy(model, text: list[int], most: int) -> list[int]:
    """A greedy continuation, up to the end of the text."""
    added: list[int] = []
    while len(added) < most and (not added or added[-1] != EOS):
        added.append(int(logprobs(model, [*text, *added]).argmax()))
    return added


def looked_ahead(model, judge, prompt, k, w, ahead, temperature=0.0, norm="none", clamp=None):
    """The rule: each token by all k candidates, every continuation recomputed from nothing."""
    answer: list[int] = []
    while len(answer) < MOST and EOS not in answer:
        text = [*prompt, *answer]
        scores = logprobs(model, text)
        best = scores.topk(k).indices.tolist()
        texts = [[*text, v, *(greedy(model, [*text, v], ahead) if v != EOS else [])] for v in best]
        rewards = torch.tensor([judge(each) for each in texts])
        if norm == "center":
            rewards = rewards - rewards.mean()
        if norm == "minmax":
            rewards = (rewards - rewards.min()) / (rewards.max() - rewards.min())
        if clamp is not None:
            rewards = rewards.clamp(*clamp)
        values = scores[best] + w * rewards
        if temperature:
            key = torch.tensor([seed_key(SEED)], dtype=torch.int32)
            noise = gumbel(key, torch.tensor([len(answer)]), len(scores))[0]
            values = values / temperature + noise[best]
        answer.append(best[int(values.argmax())])
    return answer


CASES = [
    ("k=4, w=1.5, ahead=3", {"k": 4, "w": 1.5, "ahead": 3}),
    ("k=3, w=4, ahead=2, norm=center, clamp=(-0.2, 0.3)",
     {"k": 3, "w": 4, "ahead": 2, "norm": "center", "clamp": (-0.2, 0.3)}),
    ("k=5, w=3, ahead=1, norm=minmax", {"k": 5, "w": 3, "ahead": 1, "norm": "minmax"}),
]  # fmt: skip


@pytest.mark.pages
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("arguments", "rule"), CASES)
def test_the_plain_rule(zoo, compiled, arguments, rule, temperature) -> None:
    decoder = compiled(f"base | rerank(rm, {arguments})")
    base, rm = zoo.model("base"), zoo.model("rm")
    answers = decoder.generate(
        [list(p) for p in PROMPTS], max_new_tokens=MOST, seed=SEED, eos_token_id=EOS,
        temperature=temperature,
    )  # fmt: skip
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        judge = lambda text: reward(rm, text)  # noqa: E731
        expected = looked_ahead(base, judge, prompt, **rule, temperature=temperature)
        assert answer.token_ids == expected


def test_a_parameter_says_how_far_and_0_is_rerank(compiled) -> None:
    decoder = compiled("base | rerank(rm, k=4, w=2, ahead=a)", params={"a": 0})
    plain = compiled("base | rerank(rm, k=4, w=2)")
    for temperature in (0.0, 1.0):
        options = {"max_new_tokens": 12, "temperature": temperature, "seed": 3}
        [own, far] = decoder.generate([1, 17, 30], params={"a": [0, 4]}, **options)
        [expected] = plain.generate([[1, 17, 30]], **options)
        assert own.token_ids == expected.token_ids
        [alone] = decoder.generate([[1, 17, 30]], params={"a": 4}, **options)
        assert far.token_ids == alone.token_ids


def test_masked_candidates_are_none(compiled) -> None:
    """Fewer tokens than candidates are left: the rows of the others change nothing."""
    decoder = compiled("base | top_k(2) | rerank(rm, k=6, w=3, ahead=2)")
    narrow = compiled("base | rerank(rm, k=2, w=3, ahead=2)")
    options = {"max_new_tokens": 6, "temperature": 0.0}
    prompts = [list(prompt) for prompt in PROMPTS]
    expected = narrow.generate(prompts, **options)
    answers = decoder.generate(prompts, **options)
    assert [each.token_ids for each in answers] == [each.token_ids for each in expected]


def test_more_tokens_begin_alike(compiled) -> None:
    decoder = compiled("base | rerank(rm, k=3, w=2, ahead=5)")
    [short] = decoder.generate([list(PROMPTS[0])], max_new_tokens=3, temperature=0.0)
    [long] = decoder.generate([list(PROMPTS[0])], max_new_tokens=9, temperature=0.0)
    assert long.token_ids[: len(short.token_ids)] == short.token_ids
    assert short.finish_reason == "length"


def test_without_a_weight_it_is_greedy(compiled, zoo) -> None:
    decoder = compiled("base | rerank(rm, k=4, w=a, ahead=3)", params={"a": 0})
    [idle, weighed] = decoder.generate([1, 5, 9], params={"a": [0, 3]}, max_new_tokens=6)
    assert idle.token_ids == greedy(zoo.model("base"), [1, 5, 9], 6)
    [alone] = decoder.generate([[1, 5, 9]], params={"a": 3}, max_new_tokens=6)
    assert weighed.token_ids == alone.token_ids


def test_no_drafts(compiled) -> None:
    decoder = compiled("base | rerank(rm, k=4, ahead=3)")
    with pytest.raises(ArgumentError, match="draft is not for rerank with ahead"):
        decoder.generate([[1, 2]], draft="base", max_new_tokens=4)
