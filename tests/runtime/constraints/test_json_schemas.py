"""200 schemas under guided formulas: most answers end, and what has ended parses and fits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from json_schemas import FAMILIES, SCHEMAS

import descant
from descant.demo import models

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")
FORMATS = jsonschema.FormatChecker(["ipv4", "ipv6", "uuid"])  # of the others, jsonschema is laxer
FAIR = 300  # tokens
GUIDED = [
    ("base + 0.5*arm_help", {"temperature": 1.0}),
    ("base + 0.5*arm_help | rerank(reward_help, k=5, w=0.5)", {"temperature": 1.0}),
]


def fits(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether a text is JSON, and what the schema says."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return jsonschema.Draft202012Validator(schema, format_checker=FORMATS).is_valid(value)


@pytest.fixture(scope="module")
def decoder() -> Callable[[str], Any]:
    def compiled(formula: str) -> Any:
        return descant.compile(formula, {k: v for k, v in models().items() if k in formula})

    return compiled


def finished(decoder: Any, names: list[str], **options: Any) -> dict[str, str]:
    """The answers that ended before their length did, all of which fit."""
    completions = decoder.generate(
        ["Write an example.\n"] * len(names),
        structured_outputs=[{"json": SCHEMAS[name]} for name in names],
        max_new_tokens=FAIR, seed=0, batch_size=64, progress=False, **options,
    )  # fmt: skip
    ended = {n: c.text for n, c in zip(names, completions, strict=True)
             if c.finish_reason in ("stop", "eos")}  # fmt: skip
    assert [(n, text) for n, text in ended.items() if not fits(text, SCHEMAS[n])] == []
    return ended


def test_there_are_200_schemas_which_are_schemas() -> None:
    assert len(SCHEMAS) == 200 and len(set(map(str, SCHEMAS.values()))) == 200
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_a_text_that_does_not_fit_is_found() -> None:
    schema = {"type": "object", "required": ["a"]}
    assert fits('{"a": 1}', schema)
    assert not any(fits(text, schema) for text in ('{"b": 1}', '{"a": 1', "[]", ""))
    assert not fits('"1.2.3.400"', {"type": "string", "format": "ipv4"})


@pytest.mark.parametrize(
    ("formula", "options"), [("base + 0.5*arm_help", {}), ("base | best_of(reward_help, n=2)", {})]
)
def test_one_of_each_family_ends_and_fits(decoder, formula, options) -> None:
    names = [f"{family}-6" for family in FAMILIES]
    assert len(finished(decoder(formula), names, **options)) >= 0.9 * len(names)


@pytest.mark.slow
@pytest.mark.parametrize(("formula", "options"), GUIDED)
def test_all_of_them_end_and_fit(decoder, formula, options) -> None:
    ended = finished(decoder(formula), list(SCHEMAS), **options)
    assert len(ended) >= 0.9 * len(SCHEMAS)
