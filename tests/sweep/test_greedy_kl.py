"""A KL divergence is of answers that were drawn: those at temperature 0 have none."""

from __future__ import annotations

import logging

import pytest
from sweeps import run_of

from descant.inputs.runfile import RunFileError
from descant.results.frames import load
from descant.sweep import sweep

KL = {"score": {"kl": {"kl": "base"}}, "front": None}


def test_the_column_is_empty_at_temperature_0(tmp_path, caplog) -> None:
    swept = {"formula": "base", "sweep": {"temperature": [0, 1]}, "params": {}}
    with caplog.at_level(logging.WARNING):
        sweep(run_of(tmp_path, **swept, **KL), tmp_path / "out")
    assert "score.kl: at temperature 0 an answer is certain" in caplog.text
    table = load(tmp_path / "out").table
    greedy = table["param_temperature"] == 0
    assert table[greedy]["kl"].isna().all() and len(table[greedy])
    assert table[~greedy]["kl"].abs().max() < 1e-3  # base against itself


def test_a_sweep_that_draws_nothing_is_refused_at_once(tmp_path) -> None:
    with pytest.raises(RunFileError, match=r"score.kl: at temperature 0 .*temperature: 1.0"):
        sweep(run_of(tmp_path, generate={"temperature": 0.0, "max_new_tokens": 4}, **KL), tmp_path)
