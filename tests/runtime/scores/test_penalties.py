"""Biases and penalties against vLLM's rules, written plainly over one whole text at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch

import descant
from descant import FormulaError, TableModel

V, EOS = 13, 4
TABLE = torch.randn(V, V, generator=torch.Generator().manual_seed(3))
TABLE[:, 5] += 1.5  # so that tokens come again
ANSWER = [5, 5, 2, 7, 5, 2, 9]


def compiled(formula: str, **more):
    return descant.compile(formula, {"base": TableModel(TABLE, eos=EOS)}, **more)


def plain(answer: Sequence[int], prompt: Sequence[int], **rules) -> torch.Tensor:
    """What vLLM's sampler makes of a text's next log-probabilities, token by token."""
    logprobs = TABLE[[*prompt, *answer][-1]].log_softmax(-1)
    counts, scores = Counter(answer), []
    for token, z in enumerate(logprobs.tolist()):
        if token == EOS and len(answer) < rules.get("min_tokens", 0):
            z = -torch.inf
        z += rules.get("bias", {}).get(token, 0)
        if token in {*prompt, *answer}:
            z = z / rules.get("repetition", 1) if z > 0 else z * rules.get("repetition", 1)
        z -= rules.get("frequency", 0) * counts[token]
        z -= rules.get("presence", 0) * (counts[token] > 0)
        scores.append(z)
    return torch.tensor(scores)


RULES = [
    ("presence_penalty(0.7)", {"presence": 0.7}),
    ("frequency_penalty(-0.4)", {"frequency": -0.4}),
    ("min_tokens(3)", {"min_tokens": 3}),
    ("logit_bias({5: -100, 2: 0.25})", {"bias": {5: -100, 2: 0.25}}),
    (
        "min_tokens(2) | logit_bias({9: 9, 4: 1}) | repetition_penalty(1.3) "
        "| frequency_penalty(a) | presence_penalty(2*a)",
        {
            "min_tokens": 2, "bias": {9: 9, 4: 1}, "repetition": 1.3, "frequency": 0.5,
            "presence": 1.0,
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("stages", "rules"), RULES, ids=[stages for stages, _ in RULES])
def test_every_score_is_the_rules(stages, rules) -> None:
    """Along a text that is read at once, in the formula's chain and in parentheses."""
    expected = torch.stack([plain(ANSWER[:i], [5, 1], **rules) for i in range(len(ANSWER) + 1)])
    for formula in (f"base | {stages}", f"1*(base | {stages})"):
        scores = compiled(formula, params={"a": 0.5}).scores([5, 1], ANSWER)
        torch.testing.assert_close(scores, expected, atol=2e-5, rtol=2e-5)
    likelihood = [float(row.log_softmax(-1)[t]) for row, t in zip(expected, ANSWER, strict=False)]
    [found] = compiled(f"base | {stages}", params={"a": 0.5}).loglikelihood([[5, 1]], [ANSWER])
    assert found.logprobs == pytest.approx(likelihood, abs=1e-4)


@pytest.mark.parametrize("draft", [None, "prompt", "base", "auto", "base | frequency_penalty(0.4)"])
def test_drawn_tokens_are_counted(draft) -> None:
    """Token by token, with and without drafts, in slots that others had before."""
    rules = {"frequency": 0.4, "presence": 0.3, "min_tokens": 5, "bias": {5: 1.0}}
    formula = "base | min_tokens(5) | logit_bias({5: 1}) | frequency_penalty(0.4)"
    decoder = compiled(f"{formula} | presence_penalty(0.3)")
    prompts = [[5, i] for i in range(6)]
    found = decoder.generate(prompts, max_new_tokens=14, batch_size=2, draft=draft)
    for prompt, completion in zip(prompts, found, strict=True):
        answer: list[int] = []
        while len(answer) < 14 and answer[-1:] != [EOS]:
            answer.append(int(plain(answer, prompt, **rules).argmax()))
        assert completion.token_ids == answer
    assert any(len({*each.token_ids}) < len(each.token_ids) for each in found)


@pytest.mark.parametrize(
    "search",
    ["blockwise(2*base, beams=2, samples=2, length=3)", "particles(base, n=4, length=2)"],
)
def test_what_a_search_keeps_is_counted(search) -> None:
    """Of six tokens as likely as each other, a text draws none again before all have come."""
    bias = "{0: 100, 1: 100, 2: 100, 6: 100, 7: 100, 8: 100}"
    decoder = compiled(f"0.1*base | logit_bias({bias}) | frequency_penalty(40) | {search}")
    answers = decoder.generate([[5, 1], [3, 2]] * 2, max_new_tokens=12, seed=[1, 2, 3, 4])
    six = {0, 1, 2, 6, 7, 8}
    for answer in answers:
        assert {*answer.token_ids[:6]} == {*answer.token_ids[6:]} == six
    assert len({tuple(answer.token_ids) for answer in answers}) == 4


def test_a_bias_of_no_token_is_marked() -> None:
    with pytest.raises(FormulaError, match="no token 13: the vocabulary has 13 tokens") as info:
        compiled("base | logit_bias({1: 2, 13: 1})")
    assert str(info.value).splitlines()[2].index("^") == 2 + len("base | logit_bias({1: 2, ")


def test_expressions_say_the_same() -> None:
    from descant.lang import logit_bias, min_tokens, model, param, presence_penalty

    built = model("base") | logit_bias({5: -1, 7: param("a")}) | presence_penalty(1) | min_tokens(2)
    text = "base | logit_bias({5: -1, 7: a}) | presence_penalty(1) | min_tokens(2)"
    assert str(built) == text and built == text
    with pytest.raises(TypeError, match="'a' is not a token id"):
        logit_bias({"a": 1})
