"""The printed plan, to the letter: it is the debugger, and the documentation quotes it.

To accept a change, run this file with DESCANT_GOLDEN=write and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import descant

FOLDER = Path(__file__).parent / "plans"
V = 8
TABLES = {
    "base": descant.TableModel.random(V, seed=1, eos=2),
    "arm": descant.TableModel.random(V, seed=2, eos=2),
    "rm": descant.RuleReward.random(V, seed=3),
    "rm2": descant.RuleReward.random(V, seed=4),
}
CASES = {
    "one_model": ("base", {}),
    "two_models": ("base + (1-a)*arm - base/4", {"params": {"a": 0.25}}),
    "a_dropped_term": ("base + arm - arm | top_k(5) | temperature(0.7)", {}),
    "rewards": (
        "base + arm | rerank(0.7*rm + b*rm2, k=4, w=1.5) | top_p(0.9)", {"params": {"b": 0.3}},
    ),
    "a_reward_expression": (
        "base | rerank(min(rm, b*rm2)/answer_length + 0.5*rm2, k=4) "
        "| best_of(rm + 0.1*(arm - base) - c*answer_length, n=3)", {"params": {"b": 2, "c": 0.01}},
    ),
    "two_stages_of_rewards": ("base | rerank(rm, k=6, w=1) | rerank(rm, k=2, w=a)",
                              {"params": {"a": 1}}),
    "prompts": ('base@"You are kind." + 0.5*base@old - 0.2*base@none',
                {"prompts": {"old": "You are old."}}),
    "a_condition": ("where(step < 2, mix(0.4: base, a: arm), base)", {"params": {"a": 0.6}}),
    "a_condition_on_scores": (
        "base + 0.5*where(entropy(base) > e, arm, where(step < 3, base@none, base))",
        {"params": {"e": 1}},
    ),
    "operators": ("plausible(base, 0.1) - c*temp(arm, 0.5) + 2*max(base, arm)",
                  {"params": {"c": 0.5}}),
    "stages_inside": (
        "(base | rerank(rm, k=4, norm=prefix) | top_p(0.9)) + max((arm | rerank(rm, k=w)), base) "
        "| rerank(rm2, k=2, clamp=(0, 1), keep=all)", {"params": {"w": 3}},
    ),
}  # fmt: skip
CHECKPOINTS = {
    "checkpoints": ("base + 0.5*arm - 0.2*gpt2", {}),
    "adapters": ("base + h*lora4 + s*lora8 | rerank(rm, k=10, w=1.5)",
                 {"params": {"h": 0.5, "s": 0.25}}),
    "padding": ("padded + base", {}),
    "two_vocabularies": ("mix(0.5: base, 0.5: align(other)) - 0.1*align(other@none)", {}),
}  # fmt: skip


def check(name: str, said: str, folder: Path = FOLDER) -> None:
    file = folder / f"{name}.txt"
    if os.environ.get("DESCANT_GOLDEN") == "write":
        folder.mkdir(exist_ok=True)
        file.write_text(said + "\n", encoding="utf-8")
    assert said + "\n" == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_over_tables(name) -> None:
    formula, more = CASES[name]
    check(name, descant.compile(formula, TABLES, device="cpu", **more).plan.text(bandwidth=1e9))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_over_checkpoints(compiled, name) -> None:
    formula, more = CHECKPOINTS[name]
    plan = compiled(formula, dtype="float32", device="cpu", **more).plan
    check(name, plan.text(bandwidth=1e9))


def test_the_check_can_fail(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("DESCANT_GOLDEN", raising=False)
    (tmp_path / "x.txt").write_text("this\n", encoding="utf-8")
    check("x", "this", tmp_path)
    with pytest.raises(AssertionError):
        check("x", "that", tmp_path)


def test_every_plan_on_file_is_of_a_case() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(CASES) | set(CHECKPOINTS)


def test_print_measures_the_bandwidth(compiled) -> None:
    plan = descant.compile("base", TABLES, device="cpu").plan
    assert "measured copy bandwidth" in str(plan) and str(plan) == repr(plan)
