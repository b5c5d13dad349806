"""The method section of a run: what its folder records, in Markdown and in LaTeX."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from command_line import command
from sweeps import SPECS, run_of, written

from descant.inputs.runfile import RunFileError
from descant.methods import section
from descant.report import write as report
from descant.results import load
from descant.runs.origins import origins
from descant.sweep import sweep

FORMULAS = {
    "base": "base",
    "arms": "base + (1-a)*arm_help + a*arm_harm",
    "search": "base | rerank(reward_help, k=3, w=a)",
}


def sha256(file) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("methods")
    run = run_of(
        tmp_path,
        formula=None,
        formulas=FORMULAS,
        prompts={"kind": "Be 100% kind & {brief}_"},
        score={"help": "reward_help", "worst": "min(reward_help, reward_harm)"},
        front=None,
    )
    sweep(run, tmp_path / "out")
    report(load(tmp_path / "out"), tmp_path / "out")
    return tmp_path / "out"


def test_it_says_what_the_folder_records(folder) -> None:
    text = section(folder)
    meta = json.loads((folder / "meta.json").read_text())
    for name in ("base", "arm_help", "arm_harm", "reward_help", "reward_harm"):
        source = SPECS[name].get("path") or SPECS[name]["adapter"]
        [weights] = Path(source).glob("*.safetensors")
        assert meta["models"][name] == {"sha256": {weights.name: sha256(weights)}}
        [line] = [line for line in text.splitlines() if line.startswith(f"| `{name}` ")]
        assert str(source) in line and sha256(weights)[:16] in line
    assert "| `large` " not in text  # declared, and nothing reads it
    assert "| `arm_help` | " in text and "adapter on base" in text
    data = folder.parent / "prompts.jsonl"
    assert f"4 prompts from `{data}` (SHA-256 `{sha256(data)}`)" in text
    for part in (*FORMULAS.values(), "max_new_tokens = 12", "seed = 0", "temperature = 1.0",
                 "num_return_sequences = 2", "a = 0, 0.5, 1", f"torch {meta['torch']}",
                 "min(reward_help, reward_harm)", "base:0"):  # fmt: skip
        assert part in text, part
    assert "![Differences of means over prompts from base:0" in text
    assert "arms has the form of a base with autoregressive reward models (GenARM)" in text
    cited, entries = (
        set(re.findall(r"\[@(\w+)\]", text)),
        set(re.findall(r"^@\w+\{(\w+),", text, re.M)),
    )
    assert cited == entries == {
        "xu2025genarm", "khanov2024args", "efron1993bootstrap", "holm1979simple",
    }  # fmt: skip


def test_latex_is_escaped_and_balanced(folder) -> None:
    text = section(folder, as_latex=True)
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    bare = "\n".join(lines).replace("\\\\", "")
    assert not re.search(
        r"(?<!\\)[%#_$^~]", re.sub(r"\\(?:cite|includegraphics\S*)\{.*?\}", "", bare)
    )
    assert r"Be 100\% kind \& \{brief\}\_" in bare
    depth = 0
    for char in re.sub(r"\\[{}]", "", bare):
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    begun, ended = (re.findall(rf"\\{word}\{{(\w+)\}}", text) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended) and {"table", "tabular", "figure"} <= set(begun)
    for row in bare.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines():
        assert len(re.findall(r"(?<!\\)&", row)) == 3


def test_the_command_and_a_run_of_one_formula(tmp_path) -> None:
    file = written(tmp_path, sweep=None, score=None, front=None)
    done = command("run", file, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    done = command("methods", tmp_path / "out", "--output", tmp_path / "m.tex", "--format", "latex")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "m.tex").read_text()
    assert "The formula has the form of a base with autoregressive reward models" in text
    assert r"Parameters: \texttt{a = 0.5}" in text and "Points were compared" not in text
    assert sha256(Path(SPECS["base"]["path"]) / "model.safetensors")[:16] in text
    with pytest.raises(RunFileError, match="holds no run"):
        section(tmp_path)  # it has the run file, and no completions


def test_commits_of_the_hub_are_those_in_the_cache(tmp_path, monkeypatch) -> None:
    """A cache as the hub's own library lays it out; nothing is asked of a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, file in (("base", "config.json"), ("arm", "adapter_config.json")):
        place = tmp_path / f"models--org--{name}"
        for revision, commit in (("main", "a" * 40), ("v2", "b" * 40)):
            (place / "refs").mkdir(parents=True, exist_ok=True)
            (place / "refs" / revision).write_text(commit)
            (place / "snapshots" / commit).mkdir(parents=True)
            (place / "snapshots" / commit / file).write_text("{}")
    models = {
        "base": {"path": "org/base"}, "old": {"path": "org/base", "revision": "v2"},
        "arm": {"adapter": "org/arm", "on": "base"}, "absent": {"path": "org/absent"},
    }  # fmt: skip
    run = run_of(tmp_path, models=models, formula="base", score=None, front=None, sweep=None)
    assert origins(run, 4)["models"] == {
        "base": {"commit": "a" * 40}, "old": {"commit": "b" * 40}, "arm": {"commit": "a" * 40},
    }  # fmt: skip
