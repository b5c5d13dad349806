"""Prompt sets: the same prompts from every kind of file, and rows that are not prompts."""

import csv
import json
import logging

import pytest

from descant.inputs.prompts import command_line_prompt, read_items
from descant.inputs.runfile import Data, RunFileError, validated

ROWS = [
    {"uid": "x1", "prompt": "How?\nAnd, why?", "n": 1},
    {"uid": "x2", "prompt": 'Say "no".', "n": 2},
    {"uid": "x3", "prompt": "日本語", "n": 3},
]
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How?"}]


def save(tmp_path, kind):
    file = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "json":
        file.write_text(json.dumps(ROWS, indent=2))
    elif kind == "csv":
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    elif kind == "parquet":
        import pandas

        pandas.DataFrame(ROWS).to_parquet(file)
    return file


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_kind_of_file_holds_the_same_prompts(tmp_path, kind):
    found = read_items(Data(path=str(save(tmp_path, kind)), id="uid"))
    assert [(item.id, item.prompt) for item in found] == [(r["uid"], r["prompt"]) for r in ROWS]
    assert [item.id for item in read_items(Data(path=str(save(tmp_path, kind))))] == [0, 1, 2]


def test_a_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    found = read_items(Data(name=str(folder), split="test", limit=2))
    assert [item.prompt for item in found] == [row["prompt"] for row in ROWS[:2]]
    with pytest.raises(RunFileError, match="cannot be read"):
        read_items(Data(name=str(tmp_path / "nothing")))


def test_messages_and_token_ids(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps({"prompt": CHAT}) + "\n" + json.dumps({"prompt": [1, 5, 7]}) + "\n")
    assert [item.prompt for item in read_items(Data(path=str(file)))] == [CHAT, [1, 5, 7]]


def test_a_text_is_one_user_message_where_that_is_asked(tmp_path):
    rows = [{"prompt": "How?"}, {"prompt": CHAT}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_items(Data(path=str(tmp_path / "data.jsonl"), chat=True))
    assert [item.prompt for item in found] == [[{"role": "user", "content": "How?"}], CHAT]
    (tmp_path / "data.txt").write_text("How?\nWhy?\n")
    found = read_items(Data(path=str(tmp_path / "data.txt"), chat=True))
    assert [item.prompt[0]["content"] for item in found] == ["How?", "Why?"]


def test_token_ids_are_no_chat(tmp_path, caplog):
    file = tmp_path / "data.jsonl"
    file.write_text('{"prompt": "How?"}\n{"prompt": [1, 5, 7]}\n')
    with pytest.raises(RunFileError) as caught:
        read_items(Data(path=str(file), chat=True))
    assert str(caught.value) == (
        f"{file}, line 2: the prompt is token ids, and they are no message of a chat; "
        "give text or messages, or leave chat out"
    )
    with caplog.at_level(logging.WARNING, "descant"):
        found = read_items(Data(path=str(file), chat=True, bad_rows="skip"))
    assert [item.id for item in found] == [0] and "line 2: the prompt is token ids" in caplog.text


@pytest.mark.parametrize(
    ("content", "chat", "expected"),
    [
        (None, False, "How?"),
        (None, True, [{"role": "user", "content": "How?"}]),
        (CHAT, False, CHAT),
        (CHAT, True, CHAT),
        ("How?", False, "How?"),
        ("How?", True, [{"role": "user", "content": "How?"}]),
        ([1, 5, 7], False, [1, 5, 7]),
    ],
)
def test_a_prompt_of_the_command_line(tmp_path, content, chat, expected):
    file = tmp_path / "prompt.json"
    file.write_text("\ufeff" + json.dumps(content), encoding="utf-8")  # as some editors save it
    assert command_line_prompt("How?" if content is None else str(file), chat) == expected


@pytest.mark.parametrize(
    ("content", "chat", "says"),
    [
        ("[1, 5]", True, "prompt.json: the prompt is token ids, and they are no message of a chat"),
        ('[{"role": "user"}]', False, "prompt.json: a message has a role and content, both text"),
        ("[]", True, "prompt.json: the prompt is empty"),
        ("3", False, "prompt.json: a prompt is text, messages or token ids, not 3"),
        ("{", False, "prompt.json, line 1, is not JSON"),
        ("9" * 5000, False, "is not JSON: Exceeds the limit"),
        ("[" * 100_000, False, "is not JSON"),
        (r'"\ud800"', False, "half of a character"),
    ],
)
def test_no_prompt_of_the_command_line(tmp_path, content, chat, says):
    file = tmp_path / "prompt.json"
    file.write_text(content)
    with pytest.raises(RunFileError) as caught:
        command_line_prompt(str(file), chat)
    assert says in str(caught.value)


def test_shuffled_rows_keep_their_numbers(tmp_path):
    file = tmp_path / "data.txt"
    file.write_text("".join(f"prompt {i}\n" for i in range(20)))
    some = read_items(Data(path=str(file), shuffle=3, limit=5))
    assert [item.prompt for item in some] == [f"prompt {item.id}" for item in some]
    assert [item.id for item in some] == [
        item.id for item in read_items(Data(path=str(file), shuffle=3, limit=9))
    ][:5]
    assert [item.id for item in some] != [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": [{"role": "user"}]}\n', "line 2: a message has"),
        ("a.jsonl", '{"prompt": 3}\n', "line 1: a prompt is text, messages or token ids, not 3"),
        ("a.jsonl", '{"prompt": "  "}\n', "line 1: the prompt is empty"),
        ("a.csv", "prompt,b\nx,1\ny\n", "line 3 has 1 cells, and the header 2"),
        ("a.csv", "", "holds no prompts"),
        ("a.json", "[1", "is not JSON"),
        ("a.parquet", "no", "is not Parquet"),
        ("a.txt", b"\xff\xfe\x00", "is not UTF-8"),
    ],
)
def test_what_is_no_prompt_is_named(tmp_path, name, text, says):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunFileError) as caught:
        read_items(Data(path=str(file)))
    assert says in str(caught.value)


def test_bad_rows_are_skipped_where_that_is_asked(tmp_path, caplog):
    file = tmp_path / "data.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt"\n{"prompt": ""}\n{"prompt": "d"}\n')
    with caplog.at_level(logging.WARNING, "descant"):
        found = read_items(Data(path=str(file), bad_rows="skip"))
    assert [(item.id, item.prompt) for item in found] == [(0, "a"), (3, "d")]
    assert "line 2 is not JSON" in caplog.text and "2 rows skipped, 2 read" in caplog.text


def test_ids_tell_rows_apart(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text('{"prompt": "a", "id": 7}\n{"prompt": "b", "id": 7}\n')
    with pytest.raises(RunFileError, match=r"line 2: the id 7 is there already, at .*line 1"):
        read_items(Data(path=str(file), id="id"))
    file.write_text('{"prompt": "a"}\n')
    with pytest.raises(RunFileError, match="line 1 has no field id for the id; it has prompt"):
        read_items(Data(path=str(file), id="id"))


@pytest.mark.parametrize("data", [{}, {"path": "a", "name": "b"}])
def test_one_source(data):
    with pytest.raises(RunFileError, match="give a path, or the name of a dataset"):
        validated({"formula": "base", "models": {"base": "x"}, "data": data}, "here")
