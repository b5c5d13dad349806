"""A journal of results: what is torn is cut, and what is no line of ours is named."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from sweeps import lines, run_of

from descant.disk import DiskError, append
from descant.inputs.runfile import RunFileError
from descant.results.folder import COMPLETIONS, SCORES, Journal
from descant.sweep import sweep

RECORD = {"formula": "f", "point": 0, "id": 0, "sample": 0, "prompt": "a", "text": "b",
          "token_ids": [1], "elapsed": 0.1, "params": {}, "seed": 0}  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_half_a_line_is_cut_by_whoever_appends(tmp_path: Path, size: int) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 1}\n' + b"x" * size)
    append(file, b'{"a": 2}\n')
    assert file.read_bytes() == b'{"a": 1}\n{"a": 2}\n'
    file.write_bytes(b"x" * size)
    append(file, b'{"a": 2}\n')
    assert file.read_bytes() == b'{"a": 2}\n'


@pytest.mark.parametrize("key", sorted(RECORD))
@pytest.mark.parametrize("value", [None, {"a": [1]}, [], 1.5, "x"])
def test_a_line_of_another_type_is_named(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "completions.jsonl").write_text(json.dumps({**RECORD, key: value}) + "\n")
    journal = Journal(tmp_path, COMPLETIONS)
    try:
        [record] = journal.records()
    except RunFileError as error:
        said = f"completions.jsonl, line 1 has another type of {key}; remove the line"
        assert str(error) == f"{tmp_path}/{said}"
    else:
        assert record[key] == value and isinstance(value, type(RECORD[key]) | str | None | list)


@pytest.mark.parametrize("line", ["[" * 100_000, "\0\0", '{"a": 1', "\ud800"])
def test_what_is_no_json_is_named(tmp_path: Path, line: str) -> None:
    data = line.encode("utf-8", "surrogatepass") + b"\n"
    (tmp_path / "scores.jsonl").write_bytes(data)
    with pytest.raises(RunFileError, match=r"scores\.jsonl, line 1 is not JSON; remove the line"):
        Journal(tmp_path, SCORES).records()


@pytest.mark.timeout(10)
def test_a_pipe_or_a_folder_is_no_journal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "completions.jsonl")
    (tmp_path / "scores.jsonl").mkdir()
    for stem in (COMPLETIONS, SCORES):
        journal = Journal(tmp_path, stem)
        for act in (journal.records, lambda journal=journal: journal.add([RECORD])):
            with pytest.raises(DiskError, match=f"{stem}.jsonl is no file; remove it"):
                act()


def test_lines_of_other_processes_are_synced_before_they_go(tmp_path: Path) -> None:
    for rank in range(2):
        Journal(tmp_path, COMPLETIONS, rank, 2).add([{**RECORD, "id": rank}])
    journal = Journal(tmp_path, COMPLETIONS)
    journal.gather(lambda record: record["id"])
    assert [record["id"] for record in journal.records()] == [0, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["completions.jsonl"]


def test_a_torn_record_of_costs_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, out = run_of(tmp_path, score=None, front=None, sweep=None), tmp_path / "out"
    sweep(run, out)
    done = lines(out)
    for text in ("{", "[1]", '{"seconds": "x"}', '{"plan": 3}'):
        caplog.clear()
        (out / "meta.json").write_text(text)
        with caplog.at_level(logging.WARNING):
            sweep(run, out)
        assert "meta.json cannot be read: what the run has cost is counted anew" in caplog.text
        assert lines(out) == done and "finished" in json.loads((out / "meta.json").read_text())
