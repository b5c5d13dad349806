"""The benchmark on fake devices: a list, and nothing else, on the standard output."""

from __future__ import annotations

import json
import sys

import pytest

from bench import rehearsal


@pytest.fixture(scope="module")
def measured() -> list[dict]:
    """The lines, which are worked out once."""
    return list(rehearsal.measure(["tiny"], [1, 2], 1))


@pytest.fixture
def said(measured, monkeypatch, capsys):
    def run(*arguments: str) -> str:
        given = ["--shapes", "tiny", "--batches", "1", "2", "--processes", "1", *arguments]
        monkeypatch.setattr(sys, "argv", ["rehearsal", *given])
        asked = []
        monkeypatch.setattr(rehearsal, "measure", lambda *of: asked.append(of) or iter(measured))
        rehearsal.main()
        assert asked == [(["tiny"], [1, 2], 1)]
        return capsys.readouterr().out

    return run


def test_the_list(said) -> None:
    lines = json.loads(said("--json"))
    assert {line["formula"] for line in lines} == {"one", "three", "arms", "rerank", "ragged"}
    assert len(lines) == 4 * 2 + 1
    for line in lines:
        assert tuple(line) == rehearsal.COLUMNS
        assert (line["h2d"], line["d2h"], line["waits"]) == (0, 1, 0)
        assert line["floor_ms"] <= line["captured_ms"] <= line["eager_ms"]
        assert line["captured_ms"] >= 1.999e-3 * line["launches"]
        assert line["over_floor"] == pytest.approx(line["captured_ms"] / line["floor_ms"], rel=0.01)


def test_the_table(said) -> None:
    head, *lines = said().splitlines()
    assert head.split() == list(rehearsal.COLUMNS) and len(lines) == 9
