"""Completions explained: against each model alone; searches, gates and refusals."""

from __future__ import annotations

import json

import pytest
import torch
from reference_rules.plain import logprobs, reward

from descant import FormulaError
from descant.runtime.scores.noise import gumbel, seed_key

PROMPT = [1, 17, 30, 9]


def total(candidate) -> float:
    return sum(one for one in candidate.contributions if one is not None)


@pytest.mark.pages
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_terms_rewards_and_the_base_alone(zoo, compiled, temperature) -> None:
    decoder = compiled("base + 0.5*arm - 0.25*arm2 | rerank(rm, k=5, w=1.5)")
    found = decoder.inspect(PROMPT, max_new_tokens=6, temperature=temperature, seed=7, n=5)
    assert found.base == "base" and found.terms == ("arm", "arm2", "base")
    assert [part.coefficient for part in found.parts] == [0.5, -0.25, 1, None]
    key, read = torch.tensor([seed_key(7)], dtype=torch.int32), [*PROMPT]
    for choice in found.tokens:
        said = {name: logprobs(zoo.model(name), read) for name in found.terms}
        noise = gumbel(key, torch.tensor([choice.step]), len(said["base"]))[0] * (temperature > 0)
        assert choice.base == int((said["base"] + noise).argmax())
        assert choice.changed == (choice.id != choice.base)
        kept = [one for one in choice.candidates if one.score is not None]
        assert len(kept) == 5
        for one in choice.candidates:
            expected = [said[name][one.id].item() for name in found.terms]
            assert one.logprobs == pytest.approx(expected, abs=1e-4)
            sums = [0.5 * expected[0], -0.25 * expected[1], expected[2]]
            assert one.contributions[:3] == pytest.approx(sums, abs=1e-4)
        for one in kept:
            liked = reward(zoo.model("rm"), [*read, one.id])
            assert one.rewards[0] == pytest.approx(liked, abs=1e-4)
            assert one.contributions[3] == pytest.approx(1.5 * liked, abs=1e-4)
            assert total(one) == pytest.approx(one.score, abs=1e-5)
            if temperature:
                assert one.noise == pytest.approx(noise[one.id].item(), abs=1e-5)
        if temperature:
            drawn = max(kept, key=lambda one: one.score + one.noise)
            assert choice.by_noise == (drawn is not kept[0])
        else:
            drawn = kept[0]
            assert not choice.by_noise and drawn.noise is None
        assert choice.id == drawn.id
        read.append(choice.id)


def test_what_stages_and_operators_exclude_is_said(compiled) -> None:
    decoder = compiled("plausible(base, 0.9) + arm | top_k(2) | temperature(2)")
    found = decoder.inspect(PROMPT, max_new_tokens=3, n=400)
    assert [part.name for part in found.parts] == [
        "arm", "plausible(base, 0.9)", "top_k(k=2)", "temperature(t=2)",
    ]  # fmt: skip
    assert found.parts[1].terms == ("base",)
    for choice in found.tokens:
        removed = {one.removed_by for one in choice.candidates}
        assert removed <= {None, "plausible(base, 0.9)", "top_k(k=2)"}
        for one in choice.candidates:
            if one.removed_by == "top_k(k=2)":
                assert one.contributions[0] is not None and one.contributions[2] is None


def test_a_gate_says_what_it_saw_and_the_side_that_was_not_taken_says_nothing(compiled) -> None:
    decoder = compiled("where(step < 2, base, base + 2*arm)")
    found = decoder.inspect(PROMPT, max_new_tokens=4)
    arm = found.terms.index("arm")
    for choice in found.tokens:
        [gate] = choice.conditions
        assert (gate.condition, gate.holds) == ("step < 2", choice.step < 2)
        assert gate.states == {"step": choice.step}
        for one in choice.candidates:
            assert (one.logprobs[arm] is None) == (choice.step < 2)
    assert [part.name for part in found.parts] == ["where(step < 2, base, 2*arm + base)"]


def test_the_base_may_be_a_term_that_some_steps_do_not_read(zoo, compiled) -> None:
    decoder = compiled("where(step < 2, base, arm)")
    found = decoder.inspect(PROMPT, max_new_tokens=4, base="arm")
    ids = found.completion.token_ids
    for choice in found.tokens:
        alone = logprobs(zoo.model("arm"), [*PROMPT, *ids[: choice.step]])
        assert choice.base == int(alone.argmax())
    assert ids == decoder.generate(PROMPT, max_new_tokens=4)[0].token_ids


@pytest.mark.parametrize(
    ("formula", "judge"),
    [
        ("base | best_of(rm, n=3)", "rm"),
        ('base | particles(rm, n=3, until="e")', "rm"),
        ("base | blockwise(arm - base, beams=2, samples=2, length=3)", "arm - base"),
        ("base | reject(rm, target=1, retries=2)", "rm"),
    ],
)
def test_a_search_is_explained_in_the_text_that_it_chose(zoo, compiled, formula, judge) -> None:
    decoder = compiled(formula)
    found = decoder.inspect(PROMPT, max_new_tokens=7, seed=3)
    [alone] = decoder.generate(PROMPT, max_new_tokens=7, seed=3)
    ids = found.completion.token_ids
    assert ids == alone.token_ids and found.search.startswith(formula[7:].split("(")[0])
    for choice in found.tokens:
        assert all(one.noise is None for one in choice.candidates)
        said = logprobs(zoo.model("base"), [*PROMPT, *ids[: choice.step]])
        [mine] = [one for one in choice.candidates if one.id == choice.id]
        assert mine.score == pytest.approx(said[choice.id].item(), abs=1e-4)
    if judge == "rm":
        assert found.search_score == pytest.approx(
            reward(zoo.model("rm"), [*PROMPT, *ids]), abs=1e-4
        )
        return
    each = []
    for i, token in enumerate(ids):
        arm, base = (logprobs(zoo.model(m), [*PROMPT, *ids[:i]])[token] for m in ("arm", "base"))
        each.append((arm - base).item())
    assert [choice.search_score for choice in found.tokens] == pytest.approx(each, abs=1e-4)
    assert found.search_score == pytest.approx(sum(each), abs=1e-3)


@pytest.mark.parametrize(
    "formula",
    ["base + 0.5*arm | rerank(rm, k=5)", "base | best_of(rm, n=3)"],
    ids=["rerank", "search"],
)
def test_a_completion_that_is_there_already_is_explained_as_it_is(compiled, formula) -> None:
    decoder = compiled(formula)
    asked = {"temperature": 1.0, "seed": 7, "n": 5}
    drawn = decoder.inspect(PROMPT, max_new_tokens=6, **asked)
    ids = drawn.completion.token_ids
    *steps, found = decoder.inspecting(PROMPT, token_ids=ids, **asked)
    assert steps == [None] * len(ids)
    assert found.tokens == drawn.tokens and found.search_score == drawn.search_score
    other = [(token + 1) % 100 + 3 for token in ids]
    told = decoder.inspect(PROMPT, token_ids=other, **asked)
    assert [choice.id for choice in told.tokens] == other == told.completion.token_ids
    assert told.tokens[0].candidates[:5] == drawn.tokens[0].candidates[:5]


def test_a_completion_that_no_model_can_read_is_refused(compiled) -> None:
    decoder = compiled("base")
    with pytest.raises(ValueError, match="the completion has the token id 100000"):
        decoder.inspecting(PROMPT, token_ids=[5, 100_000])
    with pytest.raises(ValueError, match="has 400 tokens, and there is room for 124"):
        decoder.inspecting(PROMPT, token_ids=[5] * 400)


def test_a_model_of_another_vocabulary(compiled) -> None:
    decoder = compiled("mix(0.5: base, 0.5: align(other)) + arm | top_p(0.9)")
    found = decoder.inspect("the river", max_new_tokens=5, n=20)
    rows = decoder.scores("the river", found.completion.token_ids)
    for choice, row in zip(found.tokens, rows, strict=False):
        for one in choice.candidates:
            if one.score is None:
                assert one.removed_by
            else:
                assert one.score == row[one.id].item()
                assert total(one) == pytest.approx(one.score, abs=1e-4)


def test_it_is_json_and_its_tokens_are_its_text(demo) -> None:
    found = demo.inspect("How do I boil eggs?", max_new_tokens=12, temperature=1, seed=2)
    said = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert said["schema"] == 2 and said["text"] == found.completion.text
    assert "".join(one["text"] for one in said["tokens"]) == said["text"]
    first = said["tokens"][0]["candidates"][0]
    kept = torch.tensor(found.tokens[0].candidates[0].score)
    assert torch.tensor(first["score"]).equal(kept), "nine digits are a float32's own"
    assert {one["name"] for one in said["rewards"]} == {"reward_help"}


@pytest.fixture(scope="module")
def demo():
    import descant
    from descant.demo import models

    formula = "base + (1-a)*arm_help + a*arm_harm | rerank(reward_help, k=10, w=1.5)"
    return descant.compile(formula, models(), params={"a": 0.5})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"base": "bse"}, "the formula has no term bse; did you mean base?"),
        ({"base": "arm_help", "params": {"a": 1}}, "is not 0 here; did you mean arm_harm?"),
        ({"n": 0}, "n is 0; it must be at least 1"),
        ({"num_return_sequences": 2}, "inspect takes one prompt, and this is 2 rows"),
        ({"params": {"a": [0, 1]}}, "inspect takes one prompt, and this is 2 rows"),
    ],
)
def test_what_cannot_be_explained_is_refused(demo, arguments, says) -> None:
    with pytest.raises(ValueError, match=says.replace("?", r"\?")):
        demo.inspect("How?", max_new_tokens=2, **arguments)


def test_nan_is_an_error_that_names_its_term() -> None:
    import descant

    bad = torch.zeros(5, 5)
    bad[3] = torch.nan
    models = {"base": descant.TableModel.random(5, 1), "arm": descant.TableModel(bad)}
    with pytest.raises(FormulaError, match="arm gave NaN"):
        descant.compile("base + arm", models).inspect([3], max_new_tokens=2)
