"""Formulas with operators, against a plain optimiser over their published rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from test_fit_sums import PROMPTS, drawn, logits


def debiased(every: Any, a: float) -> Any:
    x, y = every["base"], every["x"]
    return x + 10 * a * (x.exp() - y.exp()).clamp(max=0)


def entropy(lp: Any) -> Any:
    return -(lp.exp() * lp).sum(1, keepdim=True)


RULES = {  # METHODS' rules: language-model-arithmetic's sums, unions and mixtures; MOD; gates
    "mean(base + a*x)": lambda e, a: (e["base"] + a * e["x"]) / (1 + a),
    "max(base, a*x)": lambda e, a: torch.maximum(e["base"], a * e["x"]),
    "mix(a: base, 1-a: x)": lambda e, a: (a * e["base"].exp() + (1 - a) * e["x"].exp()).log(),
    "pmean(a; 0.5: base, 0.5: x)": lambda e, a: (
        (0.5 * (a * e["base"]).exp() + 0.5 * (a * e["x"]).exp()).log() / a
    ),
    "debias(base, x, 10*a)": debiased,
    "base + a*entropy(base)*x": lambda e, a: e["base"] + a * entropy(e["base"]) * e["x"],
    "where(entropy(base) > 3, base + a*x, base)": lambda e, a: (
        e["base"] + a * (entropy(e["base"]) > 3) * e["x"]
    ),
    "base + a*x | temperature(1 + a)": lambda e, a: (e["base"] + a * e["x"]) / (1 + a),
}


@pytest.mark.parametrize("formula", RULES)
def test_an_operator_is_fitted_as_by_its_own_rule(formula) -> None:
    decoder, completions = drawn(formula, {"a": 0.6})
    fit = decoder.fit(PROMPTS, completions, bounds={"a": (0.01, 0.99)})
    every, tokens = logits(completions)
    rows = torch.arange(len(tokens))

    def loss(a: float) -> float:
        return -float(RULES[formula](every, a).log_softmax(1)[rows, tokens].sum())

    plain = minimize_scalar(loss, bounds=(0.01, 0.99), method="bounded", options={"xatol": 1e-7})
    step = 1e-3
    bend = (loss(plain.x + step) - 2 * loss(plain.x) + loss(plain.x - step)) / step**2
    kinked = formula.startswith("max")  # its curvature jumps
    assert fit.loglikelihood == pytest.approx(-plain.fun, abs=0.1 if kinked else 0.02)
    assert abs(fit.params["a"] - plain.x) < (0.5 if kinked else 0.1) * fit.stderr["a"]
    assert fit.stderr["a"] == pytest.approx(bend**-0.5, rel=0.5 if kinked else 0.02)
    assert abs(fit.params["a"] - 0.6) < 3 * fit.stderr["a"]


def test_weights_of_an_ensemble_on_a_simplex_have_a_known_optimum() -> None:
    """PackLLM's ensemble: its weights minimise the perplexity of texts; here by a grid, too."""
    formula = "mix(u: base, v: x, w: y)"
    decoder, completions = drawn(formula, {"u": 0.5, "v": 0.5, "w": 1e-9})
    fit = decoder.fit(PROMPTS, completions, constraints=["simplex(u, v, w)"])
    every, tokens = logits(completions)
    rows = torch.arange(len(tokens))
    p = torch.stack([every[name].exp()[rows, tokens] for name in ("base", "x", "y")])
    grid = np.array([(i, j, 100 - i - j) for i in range(101) for j in range(101 - i)]) / 100
    best = (torch.tensor(grid) @ p).log().sum(1).max()
    assert sum(fit.params.values()) == pytest.approx(1)
    assert fit.loglikelihood >= float(best) - 0.01
    assert fit.perplexity == pytest.approx(float(torch.exp(-best / len(tokens))), rel=1e-3)


def test_names_order_and_scale_of_parameters_change_nothing_else() -> None:
    decoder, completions = drawn("base + a*x + b*y", {"a": 0.7, "b": -0.3})
    fit = decoder.fit(PROMPTS, completions)
    other = decoder.compile("y*(q - p) + 10*p*x + base", params={"p": 0.1, "q": 0.2})
    same = other.fit(PROMPTS, completions)
    a, b = 10 * same.params["p"], same.params["q"] - same.params["p"]
    assert (a, b) == pytest.approx(tuple(fit.params.values()), abs=1e-4)
    assert same.loglikelihood == pytest.approx(fit.loglikelihood, abs=0.01)
    assert 10 * same.stderr["p"] == pytest.approx(fit.stderr["a"], rel=1e-3)
    terms = {row["term"]: row for row in fit.table}
    for row in same.table:
        assert row["stderr"] == pytest.approx(terms[row["term"]]["stderr"], rel=1e-2, abs=1e-9)
        assert row["lost"] == pytest.approx(terms[row["term"]]["lost"], rel=1e-2)
    around = fit.ellipse("a", "b") - [fit.params["a"], fit.params["b"]]
    distances = np.einsum("ni,ij,nj->n", around, np.linalg.inv(fit.covariance), around)
    np.testing.assert_allclose(distances, 5.991, rtol=1e-3)
