"""``thinking`` in every verb, against a plain rule: read the whole text again for each token."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import descant
from descant import FormulaError, RuleReward, TableModel

VOCABULARY, START, END = 7, [3, 4], [5, 5]
PROMPTS = [[0], [1, 3, 4], [3, 4, 5, 5, 2], [3, 3, 4, 5], [2, 4, 3], [6, 5, 3, 4, 1, 3]]
TABLES = {name: TableModel.random(VOCABULARY, seed) for seed, name in enumerate(("base", "arm"))}
MODELS: dict[str, Any] = {
    "base": {"model": TABLES["base"], "reasoning": {"start": START, "end": END}},
    "arm": TABLES["arm"],
    "rm": RuleReward.random(VOCABULARY, 5),
}
FORMULAS = {
    "where(thinking > 0, base, base + 2*arm)": lambda thinking: (1.0, 0.0 if thinking else 2.0),
    "base + (1 - thinking)*arm - 0.5*thinking*arm": lambda t: (1.0, -0.5 if t else 1.0),
    "temp(base, 1 + thinking) | temperature(1 + thinking)": lambda t: (0.25 if t else 1.0, 0.0),
}


def thinks(text: list[int]) -> bool:
    """Whether a text is in a thought: marks are looked for from left to right."""
    inside, place = False, 0
    while place < len(text):
        mark = END if inside else START
        if text[place : place + len(mark)] == mark:
            inside, place = not inside, place + len(mark)
        else:
            place += 1
    return inside


def plain(formula: str, text: list[int]) -> torch.Tensor:
    """``(V,)`` log-probabilities of the next token."""
    base, arm = (TABLES[name].table[text[-1]].log_softmax(-1) for name in ("base", "arm"))
    first, second = FORMULAS[formula](thinks(text))
    return (first * base + second * arm).log_softmax(-1)


@pytest.fixture(scope="module", params=FORMULAS)
def decoder(request: pytest.FixtureRequest) -> Any:
    made = descant.compile(request.param, MODELS)
    made.rule = lambda text: plain(request.param, text)
    return made


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 2}, {"draft": "arm", "draft_length": 3}, {"draft": "prompt"}]
)
def test_a_token_is_drawn_by_the_rule_of_its_text(decoder, temperature, options) -> None:
    seeds = [*range(len(PROMPTS))]
    rows = decoder.generate(
        PROMPTS, max_new_tokens=30, temperature=temperature, seed=seeds, logprobs=True,
        eos_token_id=(), **options,
    )  # fmt: skip
    states = set()
    for prompt, seed, row in zip(PROMPTS, seeds, rows, strict=True):
        for place, (token, logprob) in enumerate(zip(row.token_ids, row.logprobs, strict=True)):
            text = [*prompt, *row.token_ids[:place]]
            expected = decoder.rule(text)
            assert logprob == pytest.approx(float(expected[token]), abs=1e-5)
            if temperature == 0:
                assert float(expected[token]) == pytest.approx(float(expected.max()), abs=1e-5)
            states.add(thinks(text))
        [alone] = decoder.generate(
            prompt, max_new_tokens=30, temperature=temperature, seed=seed, eos_token_id=()
        )
        assert alone.token_ids == row.token_ids
    assert states == {True, False}


def test_given_answers_are_scored_by_it(decoder) -> None:
    generator = torch.Generator().manual_seed(1)
    answers = [torch.randint(VOCABULARY, (40,), generator=generator).tolist() for _ in PROMPTS]
    answers[0][:12] = [3, 4, 3, 4, 5, 0, 5, 5, 5, 3, 4, 5]
    found = decoder.loglikelihood(PROMPTS, answers)
    for prompt, answer, own in zip(PROMPTS, answers, found, strict=True):
        texts = [[*prompt, *answer[:place]] for place in range(len(answer) + 1)]
        expected = torch.stack([decoder.rule(text) for text in texts])
        drawn = expected[:-1].gather(1, torch.tensor(answer)[:, None])[:, 0]
        assert own.logprobs == pytest.approx(drawn.tolist(), abs=1e-5)
        scores = decoder.scores(prompt, answer)
        assert torch.allclose(scores.log_softmax(-1), expected, atol=1e-5)


def outside_of_thoughts(x: descant.Scores, y: descant.Scores, *, ids: Any) -> Any:
    """x, and y too where the text is in no thought: reads all of it each time."""
    counts = torch.tensor([[0.0 if thinks(text.tolist()) else 1.0] for text in ids])
    return x + counts * y


@pytest.mark.parametrize(
    "search", ["best_of(rm, n=3, keep=0.5, every=4)", "blockwise(rm, beams=2, samples=2, length=5)",
               "reject(rm, target=1, samples=2)", "particles(rm, n=3, length=4)",
               "rerank(rm, k=3, ahead=2)", "rerank(rm, k=3)"],
)  # fmt: skip
def test_a_search_draws_by_it(search) -> None:
    """Its rows are copied, cut back and dropped; an operator reads their texts instead."""
    descant.operator(outside_of_thoughts)
    found, expected = (
        descant.compile(f"{formula} | {search}", MODELS).generate(
            PROMPTS[:3], max_new_tokens=24, seed=4, eos_token_id=()
        )
        for formula in ("base + (1 - thinking)*arm", "outside_of_thoughts(base, arm)")
    )
    assert [row.token_ids for row in found] == [row.token_ids for row in expected]
    texts = [[*PROMPTS[i], *row.token_ids] for i, row in enumerate(found)]
    assert any(thinks(text[:end]) for text in texts for end in range(10, len(text)))


def test_an_inspection_shows_the_sums_of_each_state() -> None:
    inspection = descant.compile("base + (1 - thinking)*arm", MODELS).inspect(
        PROMPTS[1], max_new_tokens=30, temperature=1.0, seed=2, eos_token_id=()
    )
    text, states = [*PROMPTS[1]], set()
    for choice in inspection.tokens:
        arm = TABLES["arm"].table[text[-1]].log_softmax(-1)
        [chosen] = [each for each in choice.candidates if each.id == choice.id]
        expected = 0.0 if thinks(text) else float(arm[choice.id])
        assert chosen.contributions[0] == pytest.approx(expected, abs=1e-5)
        assert choice.numbers[0] == {"1 - thinking": 0.0 if thinks(text) else 1.0}
        states.add(thinks(text))
        text.append(choice.id)
    assert states == {True, False}


def test_a_formula_without_marks_is_refused_where_it_says_thinking() -> None:
    models = {**MODELS, "base": TABLES["base"]}
    with pytest.raises(FormulaError, match="no term has any") as error:
        descant.compile("base + (1-thinking)*arm", models)
    assert "\n            ^^^^^^^^\n" in str(error.value)
    with pytest.raises(FormulaError, match="no term has any"):
        descant.compile("base", models).generate([0], draft="base + thinking*arm")
