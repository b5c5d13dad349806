"""``descant run``: a line per completion, none lost and none doubled."""

import json

import pytest

from descant.inputs.prompts import read_items
from descant.inputs.runfile import Data, RunFileError, validated
from descant.runs.run import compiled, run_to_folder

COMPLETIONS = "completions.jsonl"


@pytest.fixture
def run(tmp_path, demo_models):
    data = tmp_path / "prompts.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": f"How do I boil {n} eggs?"}) + "\n" for n in "12345")
    )
    return validated(
        {
            "formula": "base + a*arm_help",
            "models": {name: demo_models[name] for name in ("base", "arm_help")},
            "params": {"a": 0.5},
            "generate": {"max_new_tokens": 6, "temperature": 0.7, "batch_size": 2},
            "data": {"path": str(data)},
        },
        "here",
    )


def lines(folder):
    records = [json.loads(line) for line in (folder / COMPLETIONS).read_text().splitlines()]
    return sorted((record["id"], record["text"]) for record in records)


def test_resumed_equals_uninterrupted(run, tmp_path):
    decoder = compiled(run)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert len(list(run_to_folder(run, decoder, whole))) == 5
    steps = run_to_folder(run, decoder, broken)
    next(steps), next(steps)
    steps.close()
    with (broken / COMPLETIONS).open("a") as file:
        file.write('{"id": 4, "sample": 0, "te')  # killed in the middle of a line
    assert len(list(run_to_folder(run, decoder, broken))) == 3
    assert lines(broken) == lines(whole)
    assert list(run_to_folder(run, decoder, broken)) == []


def test_a_folder_of_another_run_is_left_alone(run, tmp_path):
    decoder = compiled(run)
    list(run_to_folder(run, decoder, tmp_path / "out"))
    before = (tmp_path / "out" / COMPLETIONS).read_bytes()
    other = run.model_copy(update={"params": {"a": 0.7}})
    with pytest.raises(RunFileError, match="another run"):
        list(run_to_folder(other, decoder, tmp_path / "out"))
    assert (tmp_path / "out" / COMPLETIONS).read_bytes() == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"prompt": "a"}\n{"promt": "b"}\n', "line 2 has no field prompt; it has promt"),
        ('{"prompt": "a"}\n{"prompt"\n', "line 2 is not JSON"),
        ('{"prompt": ""}\n', "line 1: the prompt is empty"),
        ("\n\n", "holds no prompts"),
        ('["a"]\n', "line 1 has no field prompt"),
    ],
)
def test_bad_data_is_named_by_line(tmp_path, content, says):
    file = tmp_path / "data.jsonl"
    file.write_text(content)
    with pytest.raises(RunFileError) as caught:
        read_items(Data(path=str(file)))
    assert says in str(caught.value)


def test_text_files_and_limits(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\ntwo\nthree\n")
    items = read_items(Data(path=str(file), limit=2))
    assert [item.prompt for item in items] == ["one", "two"]
