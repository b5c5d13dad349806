"""A batch gives each row what it would have got alone, and that is what plain code computes.

Token for token, in float32: the program's first promise.
"""

from __future__ import annotations

import pytest
import torch
from checkpoints import EOS
from ragged import PROMPTS, VALUES
from reference_rules import args, genarm, plain, weak_to_strong

FORMULAS = [
    "base",
    "base + a*arm",
    "strong + a*(arm - arm2)",
    "gpt2 + a*opt",
    "mistral - a*qwen2",
    "base + a*lora4 - 0.25*lora8 + patterns",
    "gpt2 + a*lora_gpt2",
    "opt + a*lora_opt",
    'base + a*base@"be kind" - 0.3*base@none',
    "base | rerank(rm, k=5, w=a)",
    "gpt2 + arm | rerank(rm, k=3, w=a) | rerank(a*rm2 - rm, k=2, w=1)",
    "base + a*arm | repetition_penalty(1.3) | top_k(20) | top_p(0.9)",
]


def ids(text: str) -> list[int]:
    from checkpoints import tokenizer

    return tokenizer()(text)["input_ids"]


def given(formula: str, values: object) -> dict[str, object]:
    return {"a": values} if "a*" in formula or "=a" in formula else {}


@pytest.mark.pages(temperature=0.8)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("formula", FORMULAS)
def test_a_batch_gives_each_row_what_it_gets_alone(compiled, formula, temperature) -> None:
    decoder = compiled(formula, params=given(formula, 0.5) or None)
    settings = {"max_new_tokens": 12, "temperature": temperature}
    seeds = list(range(len(PROMPTS)))
    together = decoder.generate(PROMPTS, params=given(formula, VALUES), seed=seeds, **settings)
    for prompt, value, seed, found in zip(PROMPTS, VALUES, seeds, together, strict=True):
        one = given(formula, value)
        [alone] = decoder.generate(prompt, params=one, seed=seed, **settings)
        assert found.token_ids == alone.token_ids
        assert found.text == alone.text
        assert found.params == alone.params == one


@pytest.mark.pages(batch_size=2)
@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize(
    "formula", ["base + a*arm", "gpt2 + a*lora_gpt2", "base | rerank(rm, k=5, w=a)"]
)
def test_rows_that_end_and_rows_that_wait_change_nothing(compiled, formula, batch_size) -> None:
    decoder = compiled(formula, params={"a": 0.5})
    settings = {"max_new_tokens": 14, "params": {"a": VALUES}}
    free = decoder.generate(PROMPTS, **settings)
    ends = [free[0].token_ids[2], free[2].token_ids[5], free[4].token_ids[9], free[5].token_ids[0]]
    found = decoder.generate(PROMPTS, eos_token_id=ends, batch_size=batch_size, **settings)
    lengths = {len(one.token_ids) for one in found}
    assert len(lengths) > 2
    for one, whole in zip(found, free, strict=True):
        at = next((i for i, token in enumerate(whole.token_ids) if token in ends), None)
        assert one.token_ids == (whole.token_ids if at is None else whole.token_ids[: at + 1])
        assert one.finish_reason == ("length" if at is None else "eos")


@pytest.mark.pages
@pytest.mark.parametrize("formula", ["base + 0.5*gpt2 | rerank(rm, k=4, w=1)", "mistral - 0.5*opt"])
def test_a_prompt_read_in_pieces_is_the_same_prompt(compiled, monkeypatch, formula) -> None:
    decoder = compiled(formula)
    whole = decoder.generate(PROMPTS, max_new_tokens=8)
    monkeypatch.setattr("descant.models.lanes.prefill.CHUNK", 5)
    pieces = decoder.generate(PROMPTS, max_new_tokens=8)
    assert [one.token_ids for one in pieces] == [one.token_ids for one in whole]


@pytest.mark.parametrize("name", ["base", "strong", "gpt2", "opt", "mistral", "qwen2", "short"])
def test_a_formula_of_one_model_is_generate(zoo, compiled, name) -> None:
    decoder, model = compiled(name), zoo.model(name)
    prompts = PROMPTS if name != "short" else PROMPTS[:2]
    found = decoder.generate(prompts, max_new_tokens=20)
    for prompt, one in zip(prompts, found, strict=True):
        tokens = torch.tensor([ids(prompt)])
        room = min(20, model.config.max_position_embeddings - tokens.shape[1])
        whole = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=room, do_sample=False
        )
        assert one.token_ids == whole[0, tokens.shape[1] :].tolist()


def test_a_sliding_window_is_passed(zoo) -> None:
    """The prompts above are longer than the window, and what lies before it is not seen."""
    model, long = zoo.model("mistral"), ids(PROMPTS[4])
    window, layers = model.config.sliding_window, model.config.num_hidden_layers
    assert len(long) > 4 + window * layers
    other = [5 + token % 7 for token in long[:4]] + long[4:]
    assert torch.allclose(plain.logits(model, long), plain.logits(model, other), atol=1e-5)


@pytest.mark.parametrize("weights", [(1.0,), (0.5, -0.7), (0.0, 1.5)])
def test_genarm(zoo, compiled, weights) -> None:
    names = ["arm", "arm2"][: len(weights)]
    formula = " + ".join(["base", *(f"{w}*{n}" for w, n in zip(weights, names, strict=True))])
    found = compiled(formula.replace("+ -", "- ")).generate(PROMPTS, max_new_tokens=10)
    arms = [(zoo.model(name), weight) for name, weight in zip(names, weights, strict=True)]
    for prompt, one in zip(PROMPTS, found, strict=True):
        assert one.token_ids == genarm.greedy(zoo.model("base"), arms, ids(prompt), 10, EOS)


@pytest.mark.parametrize("k", [1, 5, 10])
@pytest.mark.parametrize("w", [0, 1.5, 3])
def test_args(zoo, compiled, k, w) -> None:
    found = compiled(f"base | rerank(rm, k={k}, w={w})").generate(PROMPTS[:4], max_new_tokens=8)
    models = zoo.model("base"), zoo.model("rm")
    for prompt, one in zip(PROMPTS[:4], found, strict=True):
        assert one.token_ids == args.greedy(*models, ids(prompt), k, w, 8, EOS)


def test_args_is_not_greedy(compiled) -> None:
    """The rewards of these checkpoints decide something."""
    plainly, guided = (
        [one.token_ids for one in compiled(formula).generate(PROMPTS, max_new_tokens=8)]
        for formula in ("base", "base | rerank(rm, k=5, w=1.5)")
    )
    assert all(one != other for one, other in zip(plainly, guided, strict=True))


@pytest.mark.parametrize("b", [0.5, 1.0, 2.0])
def test_weak_to_strong(zoo, compiled, b) -> None:
    found = compiled("strong + b*(arm - base)", params={"b": b}).generate(
        PROMPTS, max_new_tokens=10
    )
    models = [zoo.model(name) for name in ("strong", "arm", "base")]
    for prompt, one in zip(PROMPTS, found, strict=True):
        assert one.token_ids == weak_to_strong.greedy(*models, ids(prompt), b, 10, EOS)


@pytest.mark.parametrize(
    ("formula", "same"),
    [
        ("base + 0*arm", "base"),
        ("base | rerank(rm, k=5, w=0)", "base"),
        ("base + a*arm", "base"),
        ("base | rerank(rm, k=5, w=a)", "base"),
        ("base | rerank(a*rm, k=5)", "base"),
    ],
)
def test_a_weight_of_zero_is_greedy(compiled, formula, same) -> None:
    params = {"a": 0} if "a*" in formula or "=a" in formula else None
    found = compiled(formula, params=params).generate(PROMPTS, max_new_tokens=10)
    expected = compiled(same).generate(PROMPTS, max_new_tokens=10)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]


@pytest.mark.pages
@pytest.mark.parametrize("formula", FORMULAS)
def test_scores_are_what_generate_chose_from(compiled, formula) -> None:
    decoder = compiled(formula, params=given(formula, 0.5) or None)
    for prompt in PROMPTS[:3]:
        [found] = decoder.generate(prompt, max_new_tokens=8)
        scores = decoder.scores(prompt, found.token_ids)
        assert scores.shape == (len(found.token_ids) + 1, 300)
        assert scores.dtype == torch.float32
        assert not scores.isnan().any()
        assert scores[:-1].argmax(dim=-1).tolist() == found.token_ids


@pytest.mark.pages
def test_scores_equal_full_recompute(zoo, compiled) -> None:
    decoder = compiled("base + 0.5*arm - 0.25*lora4")
    made = [9, 200, 33, 4, 77]
    found = decoder.scores(PROMPTS[0], made)
    arms = [(zoo.model("arm"), 0.5), (zoo.model("lora4"), -0.25)]
    for i, row in enumerate(found):
        expected = genarm.scores(zoo.model("base"), arms, ids(PROMPTS[0]) + made[:i])
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)


def test_scores_of_a_token_that_no_candidate_is(zoo, compiled) -> None:
    """A given completion may leave the candidates; the reward model then reads it all the same."""
    decoder, made = compiled("base | rerank(rm, k=4, w=2)"), [9, 200, 33, 4]
    found = decoder.scores(PROMPTS[1], made)
    for i, row in enumerate(found):
        text = ids(PROMPTS[1]) + made[:i]
        lm = plain.logprobs(zoo.model("base"), text)
        judge = lambda ids: plain.reward(zoo.model("rm"), ids)  # noqa: E731
        expected = args.candidates(lm, judge, text, 4, 2)
        got = {token: row[token].item() for token in row.isfinite().nonzero()[:, 0].tolist()}
        assert got == pytest.approx(expected, abs=1e-4)
