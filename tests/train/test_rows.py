"""Every format of data, and what is said of rows that cannot be used."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from descant.inputs.formats import Fault
from descant.train import Data, TrainFileError
from descant.train.examples import Example, example_of, read_examples

USER = {"role": "user", "content": "Hi?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


HH = "\n\nHuman: Hi?\n\nAssistant: Hello.\n\nHuman: Well?\n\nAssistant:"
PKU = {
    "prompt": "Hi?", "response_0": "zero", "response_1": "one", "is_response_0_safe": True,
    "is_response_1_safe": False, "better_response_id": 1, "safer_response_id": 0,
}  # fmt: skip
FORMATS: list[tuple[str, dict[str, Any], str, Any, str, str | None]] = [
    ("arm", {"prompt": "Hi?", "chosen": "a", "rejected": "b", "id": 3}, "", "Hi?", "a", "b"),
    ("dpo", {"prompt": "Hi?", "chosen": "", "rejected": "b"}, "", "Hi?", "", "b"),
    ("arm", {"prompt": [USER], "chosen": "a", "rejected": "b"}, "", [USER], "a", "b"),
    ("arm", {"prompt": [SYSTEM, USER], "chosen": [said("a")], "rejected": [said("b")]}, "",
     [SYSTEM, USER], "a", "b"),
    ("arm", {"chosen": [USER, said("a")], "rejected": [USER, said("b")]}, "", [USER], "a", "b"),
    ("arm", {"prompt": "Hi?", "chosen": [USER, said("a")], "rejected": [USER, said("b")]}, "",
     [USER], "a", "b"),
    ("arm", {"prompt": "Hi?", "chosen": [said("a")], "rejected": [said("b")]}, "", [USER], "a",
     "b"),
    ("arm", {"chosen": HH + " Yes.", "rejected": HH + " No."}, "", HH, " Yes.", " No."),
    # What they share after the last turn's beginning is part of the responses.
    ("arm", {"chosen": HH + " I do.", "rejected": HH + " I don't.\n\nHuman: Oh"}, "", HH, " I do.",
     " I don't.\n\nHuman: Oh"),
    ("arm", PKU, "better", "Hi?", "one", "zero"),
    ("arm", PKU, "safer", "Hi?", "zero", "one"),
    ("sft", PKU, "safer", "Hi?", "zero", None),
    ("sft", {"prompt": "Hi?", "chosen": "a", "rejected": "b"}, "", "Hi?", "a", None),
    ("sft", {"prompt": "Hi?", "completion": "a"}, "", "Hi?", "a", None),
    ("sft", {"prompt": [USER], "completion": [said("a")]}, "", [USER], "a", None),
    ("sft", {"messages": [USER, said("b"), USER, said("a")]}, "", [USER, said("b"), USER], "a",
     None),
    ("sft", {"text": "All of it."}, "", None, "All of it.", None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "row", "dimension", "prompt", "chosen", "rejected"), FORMATS)
def test_format(
    method: str, row: Any, dimension: str, prompt: Any, chosen: str, rejected: str | None
) -> None:
    found = example_of(row, "here", dimension or None, method)
    assert found == Example(prompt, chosen, rejected, "here")


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": HH + " Yes.", "rejected": HH + " No."},
        {"prompt": HH, "chosen": " Yes.", "rejected": " No."},
    ],
)
def test_dialogues_of_hh_are_messages_where_a_template_renders_them(row: Any) -> None:
    found = example_of(row, "here", None, "arm", chat=True)
    turns = [USER, said("Hello."), {"role": "user", "content": "Well?"}]
    assert found == Example(turns, "Yes.", "No.", "here")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "chosen": "b"}, "has no chosen and rejected; it has prompt, chosen"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "the same"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt is empty"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "prompt is neither text nor chat"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "chosen is neither text nor chat"),
        ({"chosen": "Yes", "rejected": "No"}, "do not begin alike"),
        ({"chosen": [USER, said("a")], "rejected": [SYSTEM, said("b")]}, "the same messages"),
        ({"chosen": [USER, said("a")], "rejected": [USER]}, "the same messages"),
        ({"chosen": [USER, {"role": "assistant"}], "rejected": [USER]}, "a role and a content"),
        (PKU | {"better_response_id": 2}, "better_response_id is 2, neither 0 nor 1"),
        (PKU | {"better_response_id": None}, "better_response_id is None"),
        (PKU | {"response_1": None}, "response_1 is missing"),
        ([1, 2], "not a mapping"),
        ({}, "it has nothing"),
    ],
)
def test_a_row_that_cannot_be_used(row: Any, says: str) -> None:
    with pytest.raises(Fault) as caught:
        example_of(row, "here", "better", "arm")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a"}, "neither prompt and completion, nor messages, nor text"),
        ({"messages": [USER]}, "must end with the assistant's answer"),
        ({"text": ""}, "text is empty"),
        ({"prompt": "", "completion": "a"}, "prompt is empty"),
    ],
)
def test_a_row_that_cannot_be_learnt(row: Any, says: str) -> None:
    with pytest.raises(Fault) as caught:
        example_of(row, "here", None, "sft")
    assert says in str(caught.value)


def test_two_verdicts_need_a_dimension() -> None:
    with pytest.raises(TrainFileError, match=r"say data\.dimension: better"):
        example_of(PKU, "here", None, "arm")


GOOD = {"prompt": "Hi?", "chosen": "a", "rejected": "b"}
LINES = [json.dumps(GOOD), "", "{oops", json.dumps({"prompt": "a"}), json.dumps(GOOD)]


def test_a_bad_line_is_named_or_counted(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(LINES), "utf-8")
    with pytest.raises(TrainFileError, match=r"pairs\.jsonl, line 3: is not JSON"):
        read_examples(Data(path=str(file)), "arm")
    found, skipped = read_examples(Data(path=str(file), bad_rows="skip"), "arm")
    assert ([example.where for example in found], skipped) == (
        [f"{file}, line 1", f"{file}, line 5"],
        2,
    )
    assert len(read_examples(Data(path=str(file), limit=1), "arm")[0]) == 1


def write_csv(file: Path) -> None:
    pytest.importorskip("datasets")
    file.write_text("prompt,chosen,rejected\nHi?,a,b\n", "utf-8")


def write_parquet(file: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([GOOD]).to_parquet(str(file))


WRITERS: dict[str, Any] = {
    "x.jsonl": lambda file: file.write_text(json.dumps(GOOD) + "\n", "utf-8"),
    "x.json": lambda file: file.write_text(json.dumps([GOOD], indent=1), "utf-8"),
    "x.jsonl.gz": lambda file: file.write_bytes(gzip.compress(json.dumps(GOOD).encode())),
    "x.csv": write_csv,
    "x.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_kinds_of_files(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](tmp_path / name)
    found, skipped = read_examples(Data(path=str(tmp_path / name)), "arm")
    assert [(e.prompt, e.chosen, e.rejected) for e in found] == [("Hi?", "a", "b")]
    assert skipped == 0


def test_a_table_is_text_and_adds_up(tmp_path: Path) -> None:
    """Numbers and NA are what was written, and no cell slips into another column."""
    file = tmp_path / "x.csv"
    file.write_text("prompt,chosen,rejected\n1,NA,2\n", "utf-8")
    [found], _ = read_examples(Data(path=str(file)), "arm")
    assert (found.prompt, found.chosen, found.rejected) == ("1", "NA", "2")
    file.write_text("prompt,response_0,response_1,better_response_id\na,b,c,1\n", "utf-8")
    [found], _ = read_examples(Data(path=str(file), dimension="better"), "arm")
    assert (found.chosen, found.rejected) == ("c", "b")
    file.write_text("prompt,chosen,rejected\na,b,c,d\na,b,c\n", "utf-8")
    with pytest.raises(TrainFileError, match=r"line 2: has 4 cells, and the header 3"):
        read_examples(Data(path=str(file)), "arm")
    assert read_examples(Data(path=str(file), bad_rows="skip"), "arm")[1] == 1


def test_a_folder_is_a_dataset(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000.parquet")
    assert len(read_examples(Data(path=str(tmp_path)), "arm")[0]) == 1
    with pytest.raises(TrainFileError, match="org/none-of-that-name cannot be read"):
        read_examples(Data(path="org/none-of-that-name"), "arm")
    with pytest.raises(TrainFileError, match="cannot be read"):
        read_examples(Data(path=str(tmp_path), split="nowhere"), "arm")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.jsonl", None, "there is no data file"),
        ("x.txt", "a", "none of .jsonl"),
        ("x.jsonl", "", "holds no rows"),
        ("x.json", "[{]", "line 1, is not JSON"),
        ("x.jsonl.gz", "plain", "cannot be read"),
        ("./nowhere", None, "there is no data file"),
    ],
)
def test_data_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | None, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_text(content, "utf-8")
    with pytest.raises(TrainFileError) as caught:
        read_examples(Data(path=name), "arm")
    assert says in str(caught.value)
