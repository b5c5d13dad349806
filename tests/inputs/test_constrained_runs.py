"""Run files with schemas and grammars: read from files, written out, resumed, explained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from command_line import command

from descant.inputs.runfile import RunFile, RunFileError, read_run_file

pytest.importorskip("llguidance")
WEIGHTS = Path(__file__).parents[2] / "descant" / "demo" / "weights"
PERSON = {"type": "object", "properties": {"name": {"type": "string", "pattern": "^[A-Z][a-z]{2}$"},
                                           "age": {"type": "integer", "maximum": 9, "minimum": 0}},
          "required": ["name", "age"], "additionalProperties": False,
          "x-guidance": {"whitespace_flexible": False}}  # fmt: skip
SMILE = "\N{GRINNING FACE}"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "person.json").write_text(json.dumps(PERSON))
    (tmp_path / "mood.json").write_text(json.dumps({"enum": [SMILE, "no"]}))  # \ud83d\ude00
    (tmp_path / "answer.lark").write_text('start: "yes" | "no"\n')
    (tmp_path / "prompts.txt").write_text("How are you?\nHello\n")
    monkeypatch.chdir(tmp_path.parent)
    return tmp_path


def written(folder: Path, **changes: object) -> Path:
    run = {
        "formula": "base + 0.5*arm | json(person)",
        "models": {"base": str(WEIGHTS / "base"),
                   "arm": {"adapter": str(WEIGHTS / "arm_help"), "on": "base"}},
        "schemas": {"person": "person.json", "mood": "mood.json", "n": {"type": "integer"}},
        "grammars": {"answer": "answer.lark", "letter": 'start: "a" | "b"'},
        "generate": {"max_new_tokens": 60, "temperature": 1.0},
        "data": {"path": "prompts.txt"}, "output": str(folder / "out"),
    }  # fmt: skip
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**run, **changes}))
    return path


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "out/completions.jsonl").open()]


def test_files_are_read_and_the_resolved_run_needs_them_no_more(folder) -> None:
    path = written(folder)
    run = read_run_file(path)
    assert run.schemas == {"person": PERSON, "mood": {"enum": [SMILE, "no"]},
                           "n": {"type": "integer"}}  # fmt: skip
    assert run.grammars == {"answer": 'start: "yes" | "no"\n', "letter": 'start: "a" | "b"'}
    assert command("run", str(path)).returncode == 0
    for line in lines(folder):
        answer = json.loads(str(line["text"]))
        assert re.fullmatch("[A-Z][a-z]{2}", answer["name"]) and 0 <= answer["age"] <= 9
        assert line["finish_reason"] == "stop"
    again = command("run", str(path))
    assert again.returncode == 0 and "0 completions written" in again.stderr + again.stdout
    (folder / "person.json").write_text(json.dumps({"type": "integer"}))
    changed = command("run", str(path))
    assert changed.returncode == 2 and "schemas.person" in changed.stderr


def test_a_request_of_a_run_names_what_is_declared(folder) -> None:
    generate = {"max_new_tokens": 9, "structured_outputs": {"grammar": "answer"}}
    path = written(folder, formula="base + 0.5*arm", generate=generate)
    assert read_run_file(path).generate.structured_outputs == {"grammar": 'start: "yes" | "no"\n'}
    assert command("run", str(path)).returncode == 0
    assert {line["text"] for line in lines(folder)} <= {"yes", "no"}
    inline = {"structured_outputs": {"json": {"enum": ["x"]}}}
    assert read_run_file(written(folder, generate=inline)).generate.structured_outputs == {
        "json": {"enum": ["x"]}
    }


def test_a_sweep_and_an_inspection_keep_to_it(folder) -> None:
    path = written(folder, formula="base + a*arm | grammar(answer)", params={"a": 0.5},
                   sweep={"a": [0, 1]})  # fmt: skip
    assert command("sweep", str(path)).returncode == 0
    assert {line["text"] for line in lines(folder)} <= {"yes", "no"} and len(lines(folder)) == 4
    explained = command("explain", str(path))
    assert explained.returncode == 0 and "grammar(answer)" in explained.stdout
    inspected = command("inspect", str(path), "Hello", "--output", str(folder / "why"))
    assert inspected.returncode == 0, inspected.stderr
    chosen = json.loads((folder / "why/inspect.json").read_text())
    assert chosen["text"] in ("yes", "no")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schemas": {"person": "nobody.json"}}, "schemas.person: there is no file 'nobody.json'"),
        ({"schemas": {"person": '{"type"'}}, "schemas.person is no JSON"),
        ({"schemas": {"person": ["a"]}}, "schemas.person is .*a schema is a mapping"),
        ({"grammars": {"g": "none.lark"}}, "grammars.g: there is no file"),
        ({"grammars": {"g": 3}}, "grammars"),
        ({"generate": {"structured_outputs": {"json": "persn"}}}, "did you mean person"),
        ({"generate": {"structured_outputs": {"jsn": "person"}}}, "did you mean json"),
        ({"generate": {"structured_outputs": {"regex": "a", "choice": ["b"]}}}, "are given"),
        ({"generate": {"structured_outputs": {"json": {"$ref": "http://x"}}}}, "nothing is fetch"),
    ],
)
def test_what_is_wrong_is_named(folder, changes, message) -> None:
    with pytest.raises(RunFileError, match=message):
        read_run_file(written(folder, **changes))


def test_a_formula_that_names_no_schema_is_marked(folder) -> None:
    found = command("explain", str(written(folder, formula="base | json(persn)")))
    assert found.returncode == 2 and "did you mean person?" in found.stderr
    assert "^^^^^" in found.stderr


def test_a_run_made_in_python_has_the_same_checks() -> None:
    run = RunFile(formula="base", models={"base": "x"}, schemas={"s": json.dumps(PERSON)})
    assert run.schemas == {"s": PERSON} == RunFile(**run.model_dump()).schemas
