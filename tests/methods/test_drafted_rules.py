"""A draft changes no token of any published rule: with and without, a call gives the same."""

from __future__ import annotations

import re

import pytest
from checkpoints import tokenizer
from test_rules import BIAS, METHODS, NEGATIVE, PROMPTS, SEEDS, clf, far  # noqa: F401  fixtures

SEARCHES = {
    "best of n": ("base + a*arm | best_of(rm, n=3)", [{"a": a} for a in (1.0, 0.3, 0.0)]),
    "chunked search": (
        "base | blockwise(a*(arm - arm2), beams=2, samples=2, length=4)",
        [{"a": a} for a in (1.0, 0.3, 2.0)],
    ),
    "segment rejection": (
        "base + a*arm | reject(rm, samples=2, entropy=3.0, shortest=2, longest=5, retries=3)",
        [{"a": a} for a in (1.0, 0.3, 0.0)],
    ),
}
RULES = {name: (row.formula, row.values) for name, row in METHODS.items()} | SEARCHES
FIRST = re.compile(r"\b(?:base|strong)\b")


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("name", RULES)
def test_no_token_of_a_published_rule_changes(
    zoo,
    compiled,
    clf,  # noqa: F811
    far,  # noqa: F811
    name,
    temperature,
) -> None:
    formula, rows = RULES[name]
    rows = rows or [{}] * len(PROMPTS)
    loaded = {role: zoo.model(one) for role, one in SEEDS[0].items()} | {"clf": clf}
    models = {role: {"model": one, "tokenizer": tokenizer()} for role, one in loaded.items()}
    models["far"] = {"model": far, "tokenizer": far.tokenizer}
    models["early"] = {"head": "own", "on": "base", "layer": 0}
    decoder = compiled(
        formula, models=models, params=rows[0], prompts={"bias": BIAS, "neg": NEGATIVE}
    )
    settings = {
        "params": {parameter: [row[parameter] for row in rows] for parameter in rows[0]},
        "max_new_tokens": 10, "temperature": temperature, "seed": [3, 1, 2], "batch_size": 2,
    }  # fmt: skip
    plain = decoder.generate(PROMPTS, **settings)
    first = FIRST.search(formula)
    assert first is not None
    for draft in (first.group(), "prompt"):
        found = decoder.generate(PROMPTS, draft=draft, draft_length=3, **settings)
        assert [one.token_ids for one in found] == [one.token_ids for one in plain]
        assert [one.finish_reason for one in found] == [one.finish_reason for one in plain]


@pytest.mark.pages
@pytest.mark.parametrize("name", SEARCHES)
def test_no_token_of_a_search_changes(zoo, compiled, clf, far, name) -> None:  # noqa: F811
    test_no_token_of_a_published_rule_changes(zoo, compiled, clf, far, name, 0.9)
