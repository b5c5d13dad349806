"""``descant inspect``: its table, its page, its JSON, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from doc_pages import ROOT, descant


@pytest.fixture(autouse=True)
def here(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_table_a_page_and_json(tmp_path) -> None:
    found = descant(
        "inspect", "examples/steer.yaml", "How do I boil eggs?", "--set", "a=0.7",
        "--set", "generate.max_new_tokens=8", "--top", 4, "--output", tmp_path,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    said = json.loads((tmp_path / "inspect.json").read_text(encoding="utf-8"))
    assert said["prompt"] == "How do I boil eggs?" and said["params"] == {"a": 0.7}
    assert len(said["tokens"]) == 8 and len(said["tokens"][0]["candidates"]) >= 4
    for choice in said["tokens"]:
        for one in choice["candidates"]:
            added = sum(value for value in one["contributions"] if value is not None)
            assert one["score"] is None or added == pytest.approx(one["score"], abs=1e-5)
    page = (tmp_path / "inspect.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "Why each token" in page
    assert "base alone" in found.stdout and str(tmp_path / "inspect.html") in found.stdout


def test_a_chat(tmp_path) -> None:
    messages = [{"role": "user", "content": "How do I boil eggs?"}]
    (tmp_path / "chat.json").write_text(json.dumps(messages), encoding="utf-8")
    found = []
    for number, prompt in enumerate((["How do I boil eggs?", "--chat"], [tmp_path / "chat.json"])):
        done = descant(
            "inspect", "examples/steer.yaml", *prompt, "--set", "generate.max_new_tokens=3",
            "--output", tmp_path / str(number),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(json.loads((tmp_path / str(number) / "inspect.json").read_text("utf-8")))
        assert "boil eggs" in (tmp_path / str(number) / "inspect.html").read_text("utf-8")
    assert found[0]["prompt"] == found[1]["prompt"] == messages
    assert found[0]["token_ids"] == found[1]["token_ids"]


def test_one_formula_of_several(tmp_path) -> None:
    found = descant(
        "inspect", "examples/sweep.yaml", "Hi", "--formula", "soup", "--output", tmp_path,
        "--set", "generate.max_new_tokens=3",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    said = json.loads((tmp_path / "inspect.json").read_text(encoding="utf-8"))
    assert said["formula"] == "base[(1 - a)*arm_help + a*arm_harm]"
    assert said["terms"] == ["base[a*arm_harm + (1 - a)*arm_help]"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.yaml", "Hi"], "there is no run file"),
        (["examples/steer.yaml", "Hi", "--base", "bas"], "no term bas; did you mean base?"),
        (["examples/steer.yaml", ""], "the prompt is empty"),
        (["examples/steer.yaml", "", "--chat"], "the prompt is empty"),
        (["examples/steer.yaml", "none.json"], "there is no prompt file none.json"),
        (
            ["examples/sweep.yaml", "Hi"],
            "several formulas (arms, help_alone, harm_alone, soup, rerank, base); choose one",
        ),
    ],
)
def test_bad_input_exits_with_two(tmp_path, arguments, says) -> None:
    found = descant("inspect", *arguments, "--output", tmp_path / "out")
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr and says in found.stderr
    assert not list(tmp_path.iterdir())


def test_a_process_of_its_own_exits_as_this_one(tmp_path) -> None:
    arguments = ["inspect", "nowhere.yaml", "Hi", "--output", str(tmp_path / "out")]
    found = subprocess.run(
        [sys.executable, "-m", "descant", *arguments], capture_output=True, text=True, timeout=200
    )
    done = descant(*arguments)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.endswith(done.stderr)  # a package may warn while it is imported
