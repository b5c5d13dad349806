"""The benchmark of lm-evaluation-harness: both models answer alike, and a difference is seen."""

from __future__ import annotations

import pytest

pytest.importorskip("lm_eval")
from bench import harness


def test_both_answer_the_same(monkeypatch, capsys):
    monkeypatch.setattr(harness, "RUNS", 1)
    found = harness.measure("tiny")
    assert len(found) == 5 and all(one["same answers"] for one in found)
    assert all(len(one["ours"]) == len(one["hf"]) == 1 for one in found)
    assert capsys.readouterr().out.count("other answers") == 0


def test_other_answers_are_seen():
    many = "loglikelihood"
    assert harness.alike(many, [(-2.0, True)], [(-2.001, True)])
    assert not harness.alike(many, [(-2.0, True)], [(-2.01, True)])
    assert not harness.alike("loglikelihood_rolling", [-2.0], [-3.0])
    assert not harness.alike("generate_until", ["a"], ["b"])
