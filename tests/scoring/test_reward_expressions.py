"""Reward expressions over texts: of ``descant.score``, of a sweep's ``score:``, and of compare."""

from __future__ import annotations

import math

import pytest
from sweeps import SPECS, lines, run_of
from transformers import AutoTokenizer

import descant
from descant import FormulaError, ModelError
from descant.compare.compare import by_reward, side_of
from descant.demo import PROMPTS
from descant.inputs.expand import key_of
from descant.inputs.runfile import RunFileError
from descant.results.frames import load
from descant.scoring.rewards import RewardScorer
from descant.sweep import sweep

TEXTS = ["Boil them for ten minutes.", "No. Ask a doctor.", ""]
MODELS = {**SPECS, "short": descant.reward(lambda completions: [-len(c) for c in completions])}
SCORES = {
    "help": "reward_help",
    "worst": "min(reward_help, reward_harm)",
    "brief": "reward_help - 0.01*answer_length + a*sigmoid(reward_harm)",
}


@pytest.fixture
def read(monkeypatch) -> list[tuple[str, int]]:
    """The models that have scored texts, and how many."""
    seen: list[tuple[str, int]] = []
    scores = RewardScorer.scores

    def counted(self, prompts, texts):
        seen.append((self.name, len(texts)))
        return scores(self, prompts, texts)

    monkeypatch.setattr(RewardScorer, "scores", counted)
    return seen


def test_texts_by_an_expression_over_models_and_functions(read) -> None:
    prompts = list(PROMPTS[:3])
    help_, harm = (
        descant.score(SPECS[f"reward_{each}"], prompts, TEXTS) for each in ("help", "harm")
    )
    read.clear()
    text = "w*max(reward_help, reward_harm) + exp(0.01*short) - reward_help*0.5"
    found = descant.score(text, prompts, TEXTS, models=MODELS, params={"w": 2})
    rows = zip(help_, harm, TEXTS, strict=True)
    expected = [2 * max(a, b) + math.exp(-0.01 * len(t)) - a / 2 for a, b, t in rows]
    assert found == pytest.approx(expected, abs=1e-9)
    assert sorted(read) == [("reward_harm", 3), ("reward_help", 3)], "each model once"
    tokenizer = AutoTokenizer.from_pretrained(SPECS["base"]["path"])
    lengths = [max(1, len(tokenizer(t, add_special_tokens=False)["input_ids"])) for t in TEXTS]
    found = descant.score(
        "reward_help/answer_length", prompts, TEXTS, models=MODELS, tokenizer=tokenizer
    )
    assert found == pytest.approx([a / n for a, n in zip(help_, lengths, strict=True)])


@pytest.mark.parametrize(
    ("text", "message", "mark"),
    [
        ("min(reward_help, nobody)", "nobody is not declared", "nobody"),
        ("reward_help@none + 1", "as they are declared, and not by reward_help@none",
         "reward_help@none"),
        ("reward_help + base", "base is a language model", "base"),
        ("0.5*2 + 1", "a reward expression takes a reward model", "0.5*2 + 1"),
    ],
)  # fmt: skip
def test_wrong_expressions_are_marked(text, message, mark, tmp_path) -> None:
    with pytest.raises(FormulaError, match=message) as raised:
        descant.score(text, [PROMPTS[0]], ["a"], models=MODELS)
    span = raised.value.span
    assert text[span.start : span.end] == mark
    with pytest.raises((FormulaError, RunFileError), match=rf"score\.own: .*{message}") as raised:
        sweep(run_of(tmp_path, score={"own": text}, front=None), tmp_path / "run")
    assert "\n  " + text in str(raised.value) and "^" in str(raised.value)
    assert not (tmp_path / "run" / "completions.jsonl").exists()


def test_answer_length_needs_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="answer_length counts tokens; give tokenizer="):
        descant.score("reward_help - answer_length", ["a"], ["b"], models=MODELS)
    with pytest.raises(ModelError, match="org/nothing cannot be found"):
        descant.score("org/nothing", ["a"], ["b"], models=MODELS)


def test_a_sweep_scores_by_expressions_and_reads_each_answer_once(tmp_path, read) -> None:
    """Their points, objectives and comparisons are those of any score."""
    run, folder = run_of(tmp_path, score=SCORES, front=None), tmp_path / "run"
    sweep(run, folder)
    records = {key_of(each): each for each in lines(folder)}
    assert len(records) == 24
    totals = {name: sum(n for each, n in read if each == name) for name, _ in read}
    assert totals == {"reward_help": 24, "reward_harm": 24}
    scores: dict = {}
    for each in lines(folder, "scores"):
        scores.setdefault(key_of(each), {}).update(each["scores"])
    prompts, texts = zip(*((r["prompt"], r["text"]) for r in records.values()), strict=True)
    rewards = [descant.score(SPECS[f"reward_{each}"], prompts, texts) for each in ("help", "harm")]
    for (key, record), a, b in zip(records.items(), *rewards, strict=True):
        a_value = record["params"]["a"]
        brief = a - 0.01 * len(record["token_ids"]) + a_value / (1 + math.exp(-b))
        expected = {"help": a, "worst": min(a, b), "brief": brief}
        assert {n: scores[key][n] for n in SCORES} == pytest.approx(expected, abs=1e-4)
    assert run.objectives == ["help", "worst", "brief"]
    points = load(folder).points
    assert {"help", "worst", "brief", "worst_low"} <= set(points.columns)
    read.clear()
    more = run_of(tmp_path, score={**SCORES, "best": "max(reward_help, reward_harm)"}, front=None)
    sweep(more, folder)
    assert totals == {name: sum(n for each, n in read if each == name) for name, _ in read}
    read.clear()
    sweep(more, folder)
    assert read == [], "what is scored is kept"
    sides = side_of(f"{folder}#formula:0"), side_of(f"{folder}#formula:2")
    verdict = by_reward(*sides, "min(reward_help, reward_harm) + 0*answer_length")
    again = by_reward(*sides, "min(reward_help, reward_harm)")
    assert verdict == again and verdict.ahead is not None
    first, second = (
        [scores[k]["worst"] for k in records if k[1] == point] for point in (0, 2)
    )  # the keys are in the same order
    assert verdict.ahead.mean == pytest.approx(
        sum(first) / len(first) - sum(second) / len(second), abs=1e-3
    )
    with pytest.raises(FormulaError, match="nobody is not declared"):
        by_reward(*sides, "min(reward_help, nobody)")
