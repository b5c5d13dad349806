"""``merge:`` of a run file: each name stands for its base with the sum in brackets."""

from __future__ import annotations

import pytest

import descant
from descant.inputs.expand import settings_of
from descant.inputs.runfile import RunFile, RunFileError
from descant.runs.run import compiled

MODELS = {
    "base": "org/base",
    "other": "org/other",
    "help": {"adapter": "org/help", "on": "base"},
    "harm": {"adapter": "org/harm", "on": "base"},
    "calm": {"vector": "org/calm", "on": "base"},
    "far": {"adapter": "org/far", "on": "other"},
    "own": {"adapter": "org/own", "on": "base", "merge": True},
}


def run_of(formula: str, soup: str = "(1-a)*help + a*harm", **more: object) -> RunFile:
    return RunFile(formula=formula, models=MODELS, params={"a": 0.5}, merge={"soup": soup}, **more)


@pytest.mark.parametrize(
    ("formula", "brackets"),
    [
        ("soup", "base[(1 - a)*help + a*harm]"),
        ('2*soup@"Be kind." - a*base', '2*base[(1 - a)*help + a*harm]@"Be kind." - a*base'),
        ("soup[2*calm]", "base[(1 - a)*help + a*harm + 2*calm]"),
        ("base[soup - calm] + other", "base[(1 - a)*help + a*harm - calm] + other"),
        ("where(entropy(soup) > 1, soup, base)",
         "where(entropy(base[(1 - a)*help + a*harm]) > 1, base[(1 - a)*help + a*harm], base)"),
        ("base | rerank(soup, k=3, norm=center)",
         "base | rerank(base[(1 - a)*help + a*harm], k=3, norm=center)"),
        ("mix(a: align(soup), 1-a: other)",
         "mix(a: align(base[(1 - a)*help + a*harm]), 1 - a: other)"),
        ("base + help", "base + help"),
    ],
)  # fmt: skip
def test_a_merged_name_is_a_sum_in_brackets(formula, brackets) -> None:
    assert run_of(formula).named == {"formula": brackets}


def test_a_draft_has_merged_names_too() -> None:
    run = run_of("base + soup", generate={"draft": "soup"})
    assert run.generate.draft == "base[(1 - a)*help + a*harm]"


def test_what_is_no_formula_keeps_its_own_error() -> None:
    with pytest.raises(descant.FormulaError, match=r"(?s)\+ is followed by \*.*soup \+ \* base"):
        settings_of(run_of("soup + * base"))


@pytest.mark.parametrize(
    ("soup", "problem"),
    [
        ("help + far", "merge.soup: only adapters and vectors on one model are merged"),
        ("help + base", "merge.soup: only adapters and vectors on one model are merged"),
        ("own + help", "leave out their merge: true"),
        ("help*harm", "merge.soup: a formula may scale a model, not multiply two models"),
        ("max(help, harm)", "merge.soup: .* is more than a sum of names with weights"),
        ("hlep", "did you mean help"),
    ],
)
def test_what_is_no_sum_of_adapters(soup, problem) -> None:
    with pytest.raises((RunFileError, ValueError), match=problem):
        run_of("soup", soup)


def test_one_decoder_for_all_weights(zoo) -> None:
    """What a sum gives at each weight is what its adapters give, each times a number."""
    models = {name: zoo.adapter(name) for name in ("lora4", "lora8")}
    models |= {"base": {"path": zoo.path("base"), "dtype": "float32"}}
    run = RunFile(
        formula="soup", models=models, params={"a": 0.5}, merge={"soup": "(1-a)*lora4 + a*lora8"}
    )
    decoder = compiled(run)
    found = decoder.generate([[1, 9, 40]], params={"a": [0, 1, 0.3]}, max_new_tokens=8)
    assert len(decoder.lanes) == 1
    for one, formula in zip(found, ("lora4", "lora8", "base[0.7*lora4 + 0.3*lora8]"), strict=True):
        [alone] = descant.compile(formula, models).generate([[1, 9, 40]], max_new_tokens=8)
        assert one.token_ids == alone.token_ids
