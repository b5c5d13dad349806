"""Rewards: read at the candidate's own place, several in one expression, one after another."""

from __future__ import annotations

import pytest
import torch
from checkpoints import EOS, tokenizer
from reference_rules import args, plain

PROMPTS = ["the river", "a", "def add(one, two): return"]


def ids(text: str) -> list[int]:
    return tokenizer()(text)["input_ids"]


def kept(row) -> dict[int, float]:
    return {token: row[token].item() for token in row.isfinite().nonzero()[:, 0].tolist()}


@pytest.mark.parametrize("name", ["rm", "rm_eos"])
def test_a_final_padding_token_is_scored_at_its_own_place(zoo, compiled, name) -> None:
    """transformers' head scores the position before a final token that is the padding token."""
    decoder, model = compiled(f"base | rerank({name}, k=300, w=1)"), zoo.model(name)
    found = kept(decoder.scores(PROMPTS[0], [])[0])
    text, special = ids(PROMPTS[0]), model.config.pad_token_id
    lm = plain.logprobs(zoo.model("base"), text)
    for token in (special, EOS, 50, 299):
        assert found[token] - lm[token].item() == pytest.approx(
            plain.reward(model, [*text, token]), abs=1e-4
        )
    import torch

    wrong = model(input_ids=torch.tensor([[*text, special]])).logits.item()
    assert found[special] - lm[special].item() != pytest.approx(wrong, abs=1e-2)


def test_several_rewards_in_one_expression(zoo, compiled) -> None:
    decoder = compiled("base | rerank(0.7*rm - 0.3*rm2 + 2, k=6, w=1.5)")
    for prompt in PROMPTS:
        text = ids(prompt)
        lm = plain.logprobs(zoo.model("base"), text)

        def judge(one: list[int]) -> float:
            return 0.7 * plain.reward(zoo.model("rm"), one) - 0.3 * plain.reward(
                zoo.model("rm2"), one
            ) + 2  # fmt: skip

        expected = args.candidates(lm, judge, text, 6, 1.5)
        assert kept(decoder.scores(prompt, [])[0]) == pytest.approx(expected, abs=1e-4)


def test_two_rerank_stages_follow_each_other(zoo, compiled) -> None:
    decoder = compiled("base | rerank(rm, k=8, w=1.5) | rerank(rm2, k=3, w=2) | top_k(2)")
    for prompt in PROMPTS:
        text = ids(prompt)
        lm = plain.logprobs(zoo.model("base"), text)
        first = args.candidates(lm, lambda one: plain.reward(zoo.model("rm"), one), text, 8, 1.5)
        best = sorted(first, key=lambda token: -first[token])[:3]
        second = {t: first[t] + 2 * plain.reward(zoo.model("rm2"), [*text, t]) for t in best}
        expected = dict(sorted(second.items(), key=lambda item: -item[1])[:2])
        assert kept(decoder.scores(prompt, [])[0]) == pytest.approx(expected, abs=1e-4)


def test_one_reward_model_in_two_stages(zoo, compiled) -> None:
    """Each stage asks about its own candidates: two lanes over one set of weights."""
    decoder = compiled("base | rerank(rm, k=8, w=1) | rerank(rm, k=4, w=1)")
    for prompt in PROMPTS:
        [found] = decoder.generate(prompt, max_new_tokens=6)
        made: list[int] = []
        for token in found.token_ids:
            text = [*ids(prompt), *made]
            lm = plain.logprobs(zoo.model("base"), text)
            judge = lambda one: plain.reward(zoo.model("rm"), one)  # noqa: E731
            first = args.candidates(lm, judge, text, 8, 1)
            best = sorted(first, key=lambda one: -first[one])[:4]
            second = {one: first[one] + judge([*text, one]) for one in best}
            assert token == max(second, key=lambda one: second[one])
            made.append(token)


@pytest.mark.parametrize(
    "formula",
    [
        "base | rerank(lora_rm, k=6, w=2)",
        "base | rerank(rm, k=9, w=0.5) | rerank(lora_rm, k=6, w=2)",
    ],
)
def test_a_reward_model_with_an_adapter(zoo, compiled, formula) -> None:
    adapted = zoo.model("lora_rm").base_model.model
    for prompt in PROMPTS:
        text = ids(prompt)
        lm = plain.logprobs(zoo.model("base"), text)
        before = lm
        if "0.5" in formula:
            first = args.candidates(
                lm, lambda one: plain.reward(zoo.model("rm"), one), text, 9, 0.5
            )
            before = lm.new_full(lm.shape, -1e9)
            for token, value in first.items():
                before[token] = value
        expected = args.candidates(before, lambda one: plain.reward(adapted, one), text, 6, 2)
        found = kept(compiled(formula).scores(prompt, [])[0])
        assert found == pytest.approx(expected, abs=1e-4)


def test_an_adapter_on_a_reward_model_in_two_stages(zoo, compiled) -> None:
    adapted = zoo.model("lora_rm").base_model.model
    decoder = compiled("base | rerank(lora_rm, k=8, w=1) | rerank(lora_rm, k=4, w=1)")
    text = ids(PROMPTS[0])
    lm = plain.logprobs(zoo.model("base"), text)
    judge = lambda one: plain.reward(adapted, one)  # noqa: E731
    first = args.candidates(lm, judge, text, 8, 1)
    best = sorted(first, key=lambda token: -first[token])[:4]
    expected = {token: first[token] + judge([*text, token]) for token in best}
    assert kept(decoder.scores(PROMPTS[0], [])[0]) == pytest.approx(expected, abs=1e-4)


def test_k_and_w_of_each_row(compiled) -> None:
    decoder = compiled("base | rerank(rm, k=k, w=w)", params={"k": 3, "w": 1})
    values = {"k": [1, 10, 4], "w": [3.0, 0.0, 1.5]}
    together = decoder.generate(PROMPTS, params=values, max_new_tokens=8)
    for i, prompt in enumerate(PROMPTS):
        k, w = values["k"][i], values["w"][i]
        [alone] = compiled(f"base | rerank(rm, k={k}, w={w})").generate(prompt, max_new_tokens=8)
        assert together[i].token_ids == alone.token_ids


def test_k_is_the_whole_vocabulary(zoo, compiled) -> None:
    row = compiled("base | rerank(rm, k=300, w=1)").scores(PROMPTS[0], [])[0]
    assert row.isfinite().all()


@pytest.mark.parametrize(
    "stage", ["best_of(rm, n=3)", "reject(rm, target=1, entropy=3, beta=0.2, retries=3, longest=5)"]
)
def test_a_search_by_a_reward_that_reads_text(zoo, compiled, stage) -> None:
    """Where text and tokens are one and the same, so are the judgements."""
    settings = {"max_new_tokens": 8, "seed": 3, "eos_token_id": []}
    tables = {"base": byte_table(), "rm": {"path": zoo.path("rm"), "read": "text"}}
    found = compiled(f"base | {stage}", models=tables).generate(["the", "a b"], **settings)
    tables["rm"] = zoo.path("rm")
    expected = compiled(f"base | {stage}", models=tables).generate(["the", "a b"], **settings)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert len({tuple(one.token_ids) for one in found}) == 2


def byte_table() -> dict:
    """A language model that says single letters which no merge of the tokenizer joins."""
    import descant

    ids = tokenizer().get_vocab()
    letters = [ids[letter] for letter in "qxzjk" if letter in ids]
    table = torch.full((300, 300), -50.0)
    generator = torch.Generator().manual_seed(4)
    table[:, letters] = torch.randn(300, len(letters), generator=generator)
    return {"model": descant.TableModel(table), "tokenizer": tokenizer()}
