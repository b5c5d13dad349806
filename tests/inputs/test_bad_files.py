"""Files as people have them: other encodings, half characters, tables that do not add up, bombs."""

from __future__ import annotations

import gzip
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from sweeps import content, run_of

from descant.inputs.prompts import read_items
from descant.inputs.runfile import Data, RunFileError, read_run_file
from descant.inputs.settings import SettingsError
from descant.inputs.yaml import DEPTH, dump_yaml, load_yaml
from descant.runs.resume import differences

ROW = '{"prompt": "How?"}\n'
LAUGH = "\n".join(
    ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
)


@pytest.mark.parametrize(
    ("name", "said", "prompts"),
    [
        ("a.jsonl", "\ufeff" + ROW, ["How?"]),
        ("a.json", "\ufeff[" + ROW + "]", ["How?"]),
        ("a.csv", "\ufeffprompt,b\nHow?,1\n", ["How?"]),
        ("a.txt", "\ufeffHow?\r\nWhy?", ["How?", "Why?"]),
        ("a.jsonl.gz", gzip.compress(ROW.encode(), mtime=0), ["How?"]),
        ("a.jsonl", '{"prompt": "a\u2028b\u0085c"}\n', ["a\u2028b\u0085c"]),
        ("a.txt", "a\u2028b\nc\n", ["a\u2028b", "c"]),
        ("a.tsv", 'prompt\tb\nsay "no"\t1\n', ['say "no"']),
    ],
)
def test_what_is_read(tmp_path: Path, name: str, said: Any, prompts: list[str]) -> None:
    file = tmp_path / name
    file.write_bytes(said if isinstance(said, bytes) else said.encode())
    assert [item.prompt for item in read_items(Data(path=str(file)))] == prompts


@pytest.mark.parametrize(
    ("name", "said", "says"),
    [
        ("a.jsonl", ROW.encode("utf-16"), "is not UTF-8 text but UTF-16; save it as UTF-8"),
        ("a.jsonl", ROW.encode() + b'{"prompt": "\xe9"}\n', "line 2 is not UTF-8 text"),
        ("a.csv", b"prompt\nHow?\n\xe9\n", "line 3 is not UTF-8 text"),
        ("a.csv", "prompt,prompt\na,b\n", "two columns with the name prompt"),
        ("a.csv", "question,b\na,b\n", "line 2 has no field prompt; it has question, b"),
        ("a.csv", 'prompt\n"a\nb\n', "line 3: unexpected end of data; see to its quotes"),
        ("a.csv", "prompt\n" + "x" * 200_000, "line 2: field larger than field limit"),
        ("a.json", '{\n "prompt": "a"\n}', "a .json file is one list of rows, or a row per line"),
        ("a.json", '[\n{"prompt": 1,}]', "line 2, is not JSON"),
        ("a.jsonl", '{"prompt": ' + "[" * 100_000, "line 1 is not JSON: too deep"),
        ("a.jsonl", '{"prompt": [' + "9" * 5000 + "]}", "line 1 is not JSON: Exceeds the limit"),
        ("a.jsonl", ROW + '{"prompt": "a\\ud800b"}', r"line 2 holds '\ud800', half of a character"),
        (
            "a.jsonl.gz",
            gzip.compress(ROW.encode(), mtime=0)[:-9],
            "cannot be read: Compressed file ended",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, said: Any, says: str) -> None:
    file = tmp_path / name
    file.write_bytes(said if isinstance(said, bytes) else said.encode())
    with pytest.raises(RunFileError) as caught:
        read_items(Data(path=str(file)))
    assert says in str(caught.value) and str(file) in str(caught.value)


def test_columns_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = tmp_path / "a.parquet"
    for column, says in (
        ({"prompt": [1, 2]}, "row 1: a prompt is text, messages or token ids, not 1"),
        ({"prompt": ["a", None]}, "row 2: the prompt is empty"),
        ({"question": ["a"]}, "row 1 has no field prompt; it has question"),
    ):
        parquet.write_table(pyarrow.table(column), file)
        with pytest.raises(RunFileError) as caught:
            read_items(Data(path=str(file)))
        assert says in str(caught.value)


def test_what_is_skipped_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "a.jsonl"
    rows = [{"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}, {"id": 2, "prompt": "c"}, {"id": 3}]
    said = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file.write_bytes(said + b'{"id": 4, "prompt": "\xe9"}\n')
    with caplog.at_level(logging.WARNING, "descant"):
        found = read_items(Data(path=str(file), id="id", bad_rows="skip"))
    assert [(item.id, item.prompt) for item in found] == [(1, "a"), (2, "c")]
    for part in ("the id 1 is there already, at", "line 4 has no field prompt",
                 "line 5 is not UTF-8", "3 rows skipped, 2 read"):  # fmt: skip
        assert part in caplog.text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGH, "run.yaml holds more than 50000 values, counted as often"),
        ("a: &a [*a]", "holds itself at line 1, column 4"),
        ("a0: &a0 1\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 900)), "50 deep"),
        ("a: [" + "1," * 2**20 + "]", "holds more than 50000 values"),
        ("a: !!bool maybe", "is not YAML: line 1, column 4: 'maybe' is no bool"),
        ("a: !!int ''", "is not YAML: line 1, column 4: '' is no int"),
        ("a: !!float ''", "is not YAML: line 1, column 4: '' is no float"),
        ("a: " + "[" * 100_000, f"more than {DEPTH} deep"),
        ("a: " + "[" * (DEPTH + 2) + "]" * (DEPTH + 2), f"more than {DEPTH} deep"),
        ("a: 1\nb: 2\na: 3", 'is not YAML: line 3, column 1: found duplicate key "a"'),
        ("a: 1\n? - {b: 2}\n: 3", "a key that is a list or a mapping at line 2, column 3"),
        ("a: &a {b: 1}\n? *a\n: 2", "a key that is a list or a mapping at line 1, column 4"),
        ("<<: [{? [[1]] : 2}]", "a key that is a list or a mapping at line 1, column 9"),
        ("a: " + "x" * 2**25, "larger than"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
    ],
)
def test_a_run_file_has_limits(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    start = time.perf_counter()
    with pytest.raises(RunFileError) as caught:
        read_run_file(file)
    assert says in str(caught.value)
    assert time.perf_counter() - start < 20


def test_yaml_is_that_of_version_1_2() -> None:
    said = "{a: 1:30, b: 2020-01-01, c: 007, d: yes, e: -.inf, f: 0x10, g: '1', h: null, i: 1_0}"
    assert load_yaml(said) == {
        "a": "1:30", "b": "2020-01-01", "c": 7, "d": "yes", "e": float("-inf"), "f": 16,
        "g": "1", "h": None, "i": 10,
    }  # fmt: skip
    shared = load_yaml("{a: &x {b: 1}, c: {<<: *x, d: 2}}")
    assert shared == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"params": {"a": float("nan")}}, "params.a must be a finite number"),
        ({"params": {"a": float("-inf")}}, "params.a must be a finite number"),
        ({"generate": {"temperature": float("inf")}}, "temperature must be a finite"),
        ({"front": {"reference": {"help": float("nan"), "harm": 0}}}, "finite number"),
        ({"front": {"reference": {"hlp": 1, "harm": 0}}}, "a number for each of harm, help"),
        ({"score": {"length": "reward_help"}}, "score.length: results have such a column"),
        ({"formula": None, "formulas": {"a/b": "base"}}, "formulas: 'a/b' is no name"),
        ({"parallel": "rows"}, "parallel must be 'terms'"),
    ],
)
def test_what_a_run_file_may_not_say(tmp_path: Path, change: Any, says: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(content(tmp_path, **change)))
    with pytest.raises(RunFileError) as caught:
        read_run_file(file)
    assert says in str(caught.value)


def test_overrides_open_what_is_written_short(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("formula: base\nmodels: {base: org/base}\n")
    found = read_run_file(file, ["models.base.dtype=bfloat16"]).models["base"]
    assert (found.path, found.dtype) == ("org/base", "bfloat16")
    with pytest.raises(SettingsError, match="formula holds no keys"):
        read_run_file(file, ["formula.x=1"])


def test_differences_are_by_dotted_keys(tmp_path: Path) -> None:
    one = run_of(tmp_path).model_dump(mode="json")
    two = run_of(tmp_path, params={"a": 0.7}).model_dump(mode="json")
    assert differences(one, one) == ""
    assert differences(one, two) == "params.a is 0.5 there and 0.7 here"
    many = {str(i): i for i in range(5)}
    assert differences(many, {}).endswith("2 is 2 there and not set here, and 2 more")
