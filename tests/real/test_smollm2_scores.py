"""SmolLM2 in formulas: several prompts at once, and log-likelihoods, against plain transformers."""

from __future__ import annotations

import pytest
import torch
from plain_transformers import assert_best

PIRATE = "You are a pirate. You answer as a pirate does."
QUESTIONS = ["What is the sea?", "How do I bake bread? Be brief."]


def chat(text: str, system: str | None = None) -> list[dict[str, str]]:
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": text}]


@pytest.mark.parametrize("formula", ["smol + 2*(smol@pirate - smol)", "1.5*smol - 0.5*smol@none"])
def test_prompt_variants_are_their_sum(smol, plain_smol, formula) -> None:
    """Every token is the best of log-probabilities that are read anew, each prompt alone."""
    decoder = smol(formula)
    assert decoder.plan.forwards == 1
    found = decoder.generate([chat(text) for text in QUESTIONS], max_new_tokens=12)
    for text, one in zip(QUESTIONS, found, strict=True):
        own = plain_smol.along(plain_smol.ids(chat(text)), one.token_ids)
        if "pirate" in formula:
            other = plain_smol.along(plain_smol.ids(chat(text, PIRATE)), one.token_ids)
            expected = own + 2 * (other - own)
        else:
            other = plain_smol.along([plain_smol.tokenizer.bos_token_id], one.token_ids)
            expected = 1.5 * own - 0.5 * other
        assert_best(expected, one.token_ids)
        with pytest.raises(AssertionError):
            assert_best(own, one.token_ids)


def test_a_system_prompt_of_the_users_is_replaced(smol, plain_smol) -> None:
    ours = chat(QUESTIONS[0], "You are a judge.")
    found = smol("smol@pirate").scores(ours, [])
    expected = plain_smol.along(plain_smol.ids(chat(QUESTIONS[0], PIRATE)), [])
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-4)


ANSWERS = [
    (chat("What is the capital of Italy?"), "The capital of Italy is Rome."),
    (chat("What is the capital of Italy?"), "In 1945, the 7th of May: 🏴‍☠️ 你好 é"),
    ("def add(one, two):", "\n    return one + two\n"),
    ("Once upon a time", ", there was"),
    ("Once upon a time", " zebra quantum"),
]


def test_loglikelihoods(smol, plain_smol) -> None:
    prompts, answers = zip(*ANSWERS, strict=True)
    found = smol("smol").loglikelihood(list(prompts), list(answers), batch_size=3)
    for prompt, answer, one in zip(prompts, answers, found, strict=True):
        ids = plain_smol.tokenizer(answer, add_special_tokens=False)["input_ids"]
        scores = plain_smol.along(plain_smol.ids(prompt), ids)[:-1]
        expected = scores.gather(1, torch.tensor(ids)[:, None])[:, 0]
        assert one.logprobs == pytest.approx(expected.tolist(), abs=1e-3, rel=1e-5)
        assert one.greedy == [int(row.argmax()) == t for row, t in zip(scores, ids, strict=True)]
    assert found[0].total > found[1].total and found[3].total > found[4].total


def test_logprobs_of_drawn_tokens(smol, plain_smol) -> None:
    prompt = chat("Tell me a story.")
    settings = {"max_new_tokens": 10, "temperature": 1.0, "seed": 5, "logprobs": True}
    [found] = smol("smol").generate([prompt], **settings)
    scores = plain_smol.along(plain_smol.ids(prompt), found.token_ids)
    expected = [float(row[t]) for row, t in zip(scores, found.token_ids, strict=False)]
    assert found.logprobs == pytest.approx(expected, abs=1e-3, rel=1e-5)
