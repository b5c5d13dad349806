"""NaN in drafted texts: what is not reached does not count, and what is reached is named."""

from __future__ import annotations

import pytest
import torch

import descant
from descant import FormulaError
from descant.runtime.engine.launch import _warn_of_nan

V = 17


def successors(by: int, nan: int | None = None, first: int = 0) -> descant.TableModel:
    """After each token comes the one ``by`` further; after one of them, nothing is known."""
    table = 30 * torch.eye(V).roll(by, 1)
    if nan is not None:
        table[nan, first:] = float("nan")
    return descant.TableModel(table)


CALL = {"max_new_tokens": 8, "eos_token_id": (), "batch_size": 3}


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_what_follows_a_rejected_token_does_not_count(length, temperature) -> None:
    """The draft says 9 after 3, and the formula says 4; after 9 it would be NaN."""
    models = {"x": successors(1, nan=1), "y": successors(6), "z": successors(12, nan=1)}
    call = {**CALL, "temperature": temperature, "seed": 1}
    for formula in ("x", "x + 0*z", "where(step < 100, x, z)"):
        decoder = descant.compile(formula, models)
        plain = decoder.generate([[3], [4], [12]], **{**call, "max_new_tokens": 4})
        found = decoder.generate(
            [[3], [4], [12]], draft="y", draft_length=length, **{**call, "max_new_tokens": 4}
        )
        assert [one.token_ids for one in found] == [one.token_ids for one in plain]
        assert 1 not in found[0].token_ids


@pytest.mark.parametrize("draft", ["x", "y", "x + z", "prompt"])
@pytest.mark.parametrize("first", [0, 9])
def test_what_is_reached_is_named(draft, first) -> None:
    """The model, the row and the token are those of the call without a draft."""
    models = {"x": successors(1), "y": successors(2), "z": successors(1, nan=9, first=first)}
    decoder = descant.compile("x + z", models)
    prompts = [[3, 4, 5, 3], [11], [6, 7, 8, 9, 4]]
    problems = []
    for options in ({}, {"draft": draft, "draft_length": 3}, {"draft": draft, "draft_length": 8}):
        with pytest.raises(FormulaError) as caught:
            decoder.generate(prompts, **CALL, **options)
        problems.append((caught.value.problem, caught.value.span))
    assert problems[0][0] == "z gave NaN for row 2, token 5"
    assert problems == problems[:1] * 3


def test_a_text_that_ends_before_it_is_reached() -> None:
    models = {"x": successors(1, nan=9)}
    decoder = descant.compile("x", models)
    [found] = decoder.generate([3], draft="x", draft_length=8, max_new_tokens=12, eos_token_id=8)
    assert (found.token_ids, found.finish_reason) == ([4, 5, 6, 7, 8], "eos")


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("draft", ["y", "y | top_k(5) | top_p(0.9)", "x + y", "top_k(y, 2)"])
def test_a_draft_that_is_nan_changes_no_token(draft, temperature) -> None:
    models = {"x": descant.TableModel.random(V, seed=1), "y": successors(1, nan=4)}
    models["y"].table[7] = float("inf")
    models["y"].table[8] = -float("inf")
    decoder = descant.compile("x", models)
    call = {**CALL, "max_new_tokens": 30, "temperature": temperature, "seed": 7}
    plain = decoder.generate([[4], [7], [8]], **call)
    found = decoder.generate([[4], [7], [8]], draft=draft, draft_length=3, **call)
    assert [one.token_ids for one in found] == [one.token_ids for one in plain]


def test_a_draft_by_a_broken_checkpoint(compiled) -> None:
    decoder = compiled("base", draft="broken")
    prompts = ["the river", "a"]
    plain = decoder.generate(prompts, max_new_tokens=9)
    found = decoder.generate(prompts, max_new_tokens=9, draft="broken", draft_length=3)
    assert [one.token_ids for one in found] == [one.token_ids for one in plain]


def test_a_draft_that_is_nan_is_named_once(caplog) -> None:
    _warn_of_nan.cache_clear()
    models = {"x": descant.TableModel.random(V, seed=1), "broken": successors(1, nan=0, first=0)}
    models["broken"].table.fill_(float("nan"))
    decoder = descant.compile("x", models)
    for _ in range(2):
        decoder.generate([[1], [2]], max_new_tokens=8, draft="broken", draft_length=3)
    said = [each.getMessage() for each in caplog.records if "NaN" in each.getMessage()]
    assert said == ["draft='broken' gives NaN: none of its tokens is kept; check its weights"]
    caplog.clear()
    decoder.generate([[1], [2]], max_new_tokens=8, draft="x", draft_length=3)
    assert not [each for each in caplog.records if "NaN" in each.getMessage()]
