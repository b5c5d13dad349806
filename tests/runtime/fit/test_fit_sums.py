"""Parameters recovered from texts drawn at known ones, and what a plain optimiser finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import descant
from descant import FormulaError, TableModel
from descant.errors import ArgumentError
from descant.runtime.fit import text_fit

VOCABULARY = 40
TABLES = {name: TableModel.random(VOCABULARY, seed) for seed, name in enumerate(("base", "x", "y"))}
PROMPTS = [[i % VOCABULARY] for i in range(60)]


def drawn(formula: str, truth: dict[str, float], **more: Any) -> tuple[Any, list[list[int]]]:
    """A decoder that begins elsewhere, and texts drawn at the truth."""
    models = {name: table for name, table in TABLES.items() if name in formula}
    decoder = descant.compile(formula, models=models, params=dict.fromkeys(truth, 0.4))
    completions = decoder.generate(
        PROMPTS, max_new_tokens=30, temperature=1.0, seed=[*range(60)], params=truth
    )
    return decoder, [completion.token_ids for completion in completions]


def logits(completions: list[list[int]]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Each table's ``(N, V)`` log-probabilities before every token, float64; and the tokens."""
    before = [i for p, ids in zip(PROMPTS, completions, strict=True) for i in (*p, *ids[:-1])]
    every = {name: t.table.double().log_softmax(1)[before] for name, t in TABLES.items()}
    return every, torch.tensor([token for ids in completions for token in ids])


def test_coefficients_errors_and_likelihood_are_those_of_a_plain_optimiser() -> None:
    decoder, completions = drawn("base + a*x + (1-b)*y", {"a": 0.7, "b": 0.3})
    before = dict(decoder._params)
    fit = decoder.fit(PROMPTS, completions, bounds={"a": (0, 2), "b": None})
    every, tokens = logits(completions)

    def loss(at: Any) -> torch.Tensor:
        a, b = at
        scores = every["base"] + a * every["x"] + (1 - b) * every["y"]
        return -scores.log_softmax(1)[torch.arange(len(tokens)), tokens].sum()

    plain = minimize(lambda at: float(loss(at)), [0.4, 0.4], method="Nelder-Mead",
                     options={"xatol": 1e-6, "fatol": 1e-6})  # fmt: skip
    curvature = torch.autograd.functional.hessian(loss, torch.tensor(plain.x))
    covariance = torch.linalg.inv(curvature).numpy()
    np.testing.assert_allclose([*fit.params.values()], plain.x, atol=1e-4)
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-3)
    assert fit.loglikelihood == pytest.approx(-plain.fun, abs=0.01)
    for name, true in (("a", 0.7), ("b", 0.3)):
        assert abs(fit.params[name] - true) < 3 * fit.stderr[name]
    [base, x, y] = fit.table
    assert (base["term"], x["term"], y["term"]) == ("base", "x", "y")
    assert (base["stderr"], x["stderr"]) == (0, pytest.approx(fit.stderr["a"]))
    assert y["coefficient"] == pytest.approx(1 - fit.params["b"])
    without = float(loss((0.0, fit.params["b"]))) - plain.fun
    assert x["lost"] == pytest.approx(without, rel=1e-3)
    assert decoder._params == before and decoder.generate([1], max_new_tokens=3)
    read = decoder.loglikelihood(PROMPTS, completions, params=fit.params)
    assert fit.loglikelihood == pytest.approx(sum(each.total for each in read), abs=0.01)


def test_what_no_text_decides_and_what_no_term_uses_are_errors() -> None:
    decoder, completions = drawn("base + a*x + b*x", {"a": 0.7, "b": 0.0})
    with pytest.raises(ArgumentError, match=r"no text decides .*a.*b|no text decides .*b.*a"):
        decoder.fit(PROMPTS, completions)
    fit = decoder.fit(PROMPTS, completions, bounds={"a": (0, 2)}, params={"b": 0.0})
    assert abs(fit.params["a"] - 0.7) < 3 * fit.stderr["a"]
    with pytest.raises(ArgumentError, match="no term uses the parameter c"):
        decoder.fit(PROMPTS, completions, bounds={"c": (0, 1)})
    with pytest.raises(ArgumentError, match="__import__"):
        decoder.fit(PROMPTS, completions, constraints=["__import__('os').getcwd()"])
    hit = decoder.fit(PROMPTS, completions, bounds={"a": (0, 0.5)}, params={"b": 0.0})
    assert hit.at_bounds == ("a",) and hit.params["a"] == 0.5 and "hits its bound" in hit.notes[0]


@pytest.mark.parametrize(
    ("formula", "place"),
    [
        ("base + a*x | top_k(5)", "top_k"),
        ("base + x | best_of(a*y, n=2)", "best_of"),
        ("plausible(base + a*x, 0.1)", "a"),
    ],
)
def test_what_has_no_derivative_is_refused_where_it_stands(formula, place) -> None:
    decoder = descant.compile(
        formula, models={n: t for n, t in TABLES.items() if n in formula}, params={"a": 0.5}
    )
    with pytest.raises(FormulaError) as error:
        decoder.fit([[1]], [[2, 3]])
    span = error.value.span
    assert formula[span.start : span.end] == place


@pytest.mark.parametrize("formula", ["base + a*x", "mix(a: base, 1-a: x)"])
def test_what_no_disk_holds_is_read_again(formula, monkeypatch) -> None:
    decoder, completions = drawn(formula, {"a": 0.7})
    kept = decoder.fit(PROMPTS, completions, bounds={"a": (0, 1)}, holdout=0.2)
    monkeypatch.setattr(text_fit, "dtype_that_fits", lambda count, width: None)
    again = decoder.fit(PROMPTS, completions, bounds={"a": (0, 1)}, holdout=0.2)
    assert again.params["a"] == pytest.approx(kept.params["a"], abs=1e-5)
    assert again.stderr["a"] == pytest.approx(kept.stderr["a"], rel=1e-3)
    assert again.loglikelihood == pytest.approx(kept.loglikelihood, abs=1e-2)
    assert again.holdout["loglikelihood"] == pytest.approx(kept.holdout["loglikelihood"], abs=1e-2)
    assert "no disk holds the scores" in again.notes[0] and not kept.notes
