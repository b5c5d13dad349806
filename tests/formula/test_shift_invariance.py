"""Which terms of a formula may be read without log-softmax."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from descant.formula import STAGES, Names, make_plan
from descant.formula.algebra.shift_invariance import unnormalised
from descant.formula.words.operators import OPERATORS
from descant.formula.words.signature import Shift
from descant.formula.words.stages import Stage

NAMES = Names(frozenset(("base", "arm", "tuned", "rm")), frozenset(("a",)))


def raw(formula: str) -> str:
    return " ".join(sorted(map(str, unnormalised(make_plan(formula, NAMES)))))


@pytest.mark.parametrize(
    ("formula", "terms"),
    [
        ("base", "base"),
        ("base + (1-a)*arm - tuned/2 + 3", "arm base tuned"),
        ("base - 0.5*base@none", "base base@none"),
        ("base | top_k(5) | top_p(0.9) | min_p(0.1) | temperature(0.7)", "base"),
        ("base | rerank(rm, k=4, norm=center, keep=all) | top_k(2)", "base"),
        ("base | rerank(rm, k=4, clamp=(0, 1))", "base"),
        ("base | best_of(rm, n=4)", "base"),
        ("base | blockwise(tuned - arm)", "base"),
        ("(base | top_k(3)) - 0.5*top_p(arm, 0.9)", "arm base"),
        ("plausible(base, 0.1) + arm", "arm base"),
        ("where(entropy(base) > 1, base + arm, base)", "arm base"),
        ("mix(0.5: base, 0.5: arm) + tuned", "arm base tuned"),
        ("pmean(-1; 0.5: base, 0.5: arm)", "arm base"),
        ("mean(base + arm) - temp(tuned, 2)", "arm base tuned"),
        # what compares scores of two terms, or asks for their signs
        ("max(base, arm) + tuned", "tuned"),
        ("min(base, 2*arm)", ""),
        ("debias(base, arm, 10) + tuned", "tuned"),
        ("base + arm | repetition_penalty(1.2)", ""),
        ("base | top_k(5) | repetition_penalty(1.2) | temperature(2)", ""),
        ("(base | repetition_penalty(1.2)) + arm", "arm"),
        # what stands under it
        ("max((base | top_k(3)), arm)", ""),
        ("max(where(step < 2, base, tuned), plausible(arm, 0.1))", ""),
        ("max(mix(0.5: base, 0.5: arm), temp(tuned, 2))", "arm base tuned"),
        ("max(mix(0.5: base, 0.5: arm), tuned)", "arm base"),
        ("mix(0.5: max(base, arm), 0.5: tuned)", "tuned"),
        ("where(entropy(arm) > 1, max(base, tuned), tuned)", "arm"),
        ("where(entropy(max(base, arm)) > 1, tuned, tuned + base)", "tuned"),
        ("max(where(entropy(base) > 1, tuned, tuned), tuned)", "base"),
        # a term that is read in two places
        ("base + max(base, arm)", ""),
        ("base - mix(0.5: base, 0.5: arm)", "arm base"),
        ("max(base, mix(0.5: base, 0.5: arm))", "arm"),
        ("base + max(base@none, arm)", "base"),
    ],
)
def test_terms_of_which_a_shift_counts_nowhere(formula, terms) -> None:
    assert raw(formula) == terms


def test_what_says_nothing_is_given_log_probabilities(monkeypatch) -> None:
    @dataclass(frozen=True)
    class Strange(Stage):
        name = "strange"

    monkeypatch.setitem(STAGES, "strange", Strange)
    assert Strange.on_shift is Shift.FELT
    assert raw("base | strange()") == "" and raw("(base | strange()) + arm") == "arm"


def test_each_declares_what_it_does() -> None:
    """A change of this table is a claim: the laws must hold it."""
    found = {name: cls.on_shift.name for name, cls in [*OPERATORS.items(), *STAGES.items()]}
    passed = {"plausible", "where", "rerank", "top_k", "top_p", "min_p", "temperature"}
    passed |= {"json", "regex", "grammar", "choice", "logit_bias", "min_tokens"}
    passed |= {"presence_penalty", "frequency_penalty", "no_repeat_ngram", "dry", "xtc"}
    passed |= {"typical_p", "epsilon_cutoff", "eta_cutoff", "top_n_sigma"}
    assert {name for name, shift in found.items() if shift == "PASSED"} - {"reject"} == passed | {
        "best_of", "blockwise", "particles",
    }  # fmt: skip
    assert {n for n, s in found.items() if s == "ABSORBED"} == {"mix", "pmean", "mean", "temp"}
