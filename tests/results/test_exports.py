"""What others' scripts read is what was written, under their own keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from doc_pages import descant

from descant.results.exports import Format, export

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]


def line(number: int, **more: object) -> str:
    said = {
        "id": number,
        "sample": 0,
        "prompt": f"q{number}",
        "text": f" a{number}",
        "elapsed": 0.5,
    }
    return json.dumps({**said, "params": {}, **more})


def read(file: Path) -> list[dict]:
    return json.loads(file.read_text(encoding="utf-8"))


def test_a_run_in_every_format(tmp_path) -> None:
    folder = tmp_path / "first"
    folder.mkdir()
    chat = [*CHAT, {"role": "user", "content": "Why?"}]
    lines = [line(10), line(2), line(1, prompt=chat), line(3, prompt=[5, 6])]
    (folder / "completions.jsonl").write_text("\n".join(lines) + "\n")
    alpaca, harmless, safe = (read(file) for file in export(folder, Format))
    assert alpaca[1] == {"instruction": "q2", "output": " a2", "generator": "first"}
    assert [one["output"] for one in alpaca] == [" a1", " a2", " a3", " a10"]
    assert alpaca[0]["instruction"] == "Why?"
    assert harmless[1] == {
        "prompt": "q2", "result": "q2 a2", "response": " a2", "elapsed": 0.5, "method": "first"
    }  # fmt: skip
    dialogue = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:"
    assert harmless[0]["result"] == dialogue + " a1"
    assert safe[3] == {
        "uid": "10", "prompt": "q10", "response": " a10", "model": "first", "elapsed": 0.5
    }  # fmt: skip
    assert safe[2]["prompt"] == "[5, 6]"


def test_a_sweep_has_a_file_per_point(tmp_path) -> None:
    lines = [line(0, formula="arms", point=point, params={"a": point / 2}) for point in (1, 0)] + [
        line(0, formula="base", point=0)
    ]
    (tmp_path / "completions.jsonl").write_text("\n".join(lines) + "\n")
    files = export(tmp_path, [Format.ALPACA_EVAL], by_point=True)
    assert sorted(str(file.relative_to(tmp_path)) for file in files) == [
        "alpaca_eval/arms-0.json", "alpaca_eval/arms-1.json", "alpaca_eval/base-0.json"
    ]  # fmt: skip
    assert read(tmp_path / "alpaca_eval/arms-1.json")[0]["generator"] == "arms a=0.5"


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_the_commands_write_them(tmp_path, monkeypatch, command) -> None:
    from descant.demo import WEIGHTS

    (tmp_path / "prompts.txt").write_text("How do I boil eggs?\n")
    (tmp_path / "run.yaml").write_text(
        f"formula: base\nmodels: {{base: {WEIGHTS}/small}}\ndata: {{path: prompts.txt}}\n"
        "generate: {max_new_tokens: 4}\noutput: out\n"
    )
    monkeypatch.chdir(tmp_path)
    done = descant(command, "run.yaml", "--format", "hh_rlhf")
    assert done.returncode == 0, done.stderr
    place = "hh_rlhf.json" if command == "run" else "hh_rlhf/formula-0.json"
    [one] = read(tmp_path / "out" / place)
    assert one["result"].startswith("How do I boil eggs?") and one["response"]
    assert descant(command, "run.yaml", "--format", "csv").returncode == 2
