"""What a constraint allows, at every step, against all texts that fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import product
from typing import Any

import jsonschema
import pytest
from constrained import LETTERS, tables

import descant

SIGNS = ("{", "}", '"', "1", ":", "a", '{"', '":', "1}")
SCHEMA = {
    "type": "object", "properties": {"a": {"enum": [1, 11]}, "aa": {"type": "boolean"}},
    "required": ["a"], "additionalProperties": False,
}  # fmt: skip
SUMS = """start: pair | "c"
pair: "a" pair? "b"
"""


def balanced(text: str) -> bool:
    half = len(text) // 2
    return text == "c" or (text != "" and text == "a" * half + "b" * half)


def documents() -> set[str]:
    """All that fit the schema, of those with one key that these signs can spell."""
    inner = [1, 11, 111, "a", "1", {}, {"a": 1}]
    found = [{key: value} for key in ("", "a", "aa", "1") for value in inner]
    check = jsonschema.Draft202012Validator(SCHEMA).is_valid
    return {json.dumps(each, separators=(",", ":")) for each in found if check(each)}


def spelt(letters: str, longest: int, fits: Callable[[str], Any]) -> set[str]:
    """All texts of these letters that fit, up to a length."""
    texts = ("".join(each) for n in range(longest + 1) for each in product(letters, repeat=n))
    return {text for text in texts if fits(text)}


def matching(expression: str, longest: int) -> set[str]:
    return spelt("abc1", longest, lambda text: re.fullmatch(expression, text))


# Per stage: the tokens, texts that fit, and the longest text all of whose continuations are there.
CASES = {
    'regex("ab+c?")': (LETTERS, matching("ab+c?", 7), 4),
    'regex("(ab|c1){2}|b*1")': (LETTERS, matching("(ab|c1){2}|b*1", 7), 4),
    'regex("[^b]*(bc)?")': (LETTERS, matching("[^b]*(bc)?", 6), 3),
    'choice("abc", "ab", "c1c", "")': (LETTERS, {"abc", "ab", "c1c", ""}, 9),
    "grammar(sums)": (LETTERS, spelt("abc", 10, balanced), 3),
    "json(pair)": (SIGNS, documents(), 9),
}


@pytest.mark.parametrize("stage", CASES)
def test_a_token_is_allowed_where_some_text_that_fits_goes_on_with_it(stage) -> None:
    """And an end where the text fits; special tokens and rows without a token never are."""
    tokens, fitting, longest = CASES[stage]
    begun = {text[:end] for text in fitting for end in range(len(text) + 1)}
    models = tables(tokens, base=1)
    end = len(tokens) + 1
    decoder = descant.compile(
        f"base | {stage}", models=models, schemas={"pair": SCHEMA}, grammars={"sums": SUMS}
    )
    todo: list[tuple[int, ...]] = [()]
    seen = 0
    while todo and seen < 60:
        answer = todo.pop(0)
        text = "".join(tokens[token] for token in answer)
        if len(text) > longest:
            continue
        seen += 1
        allowed = {i for i, token in enumerate(tokens) if text + token in begun}
        ends = {end} if text in fitting else set()
        scores = decoder.scores([0], list(answer))[-1]
        assert {i for i, score in enumerate(scores) if score > -float("inf")} == allowed | ends
        todo += [(*answer, token) for token in sorted(allowed)]
    assert seen > 4


def test_what_left_the_language_has_no_token_left_and_no_error() -> None:
    decoder = descant.compile('base | regex("ab*")', models=tables())
    assert (decoder.scores([0], [0, 2, 1])[2:] == -float("inf")).all()
    [of_another] = decoder.loglikelihood([[0]], [[0, 2, 1]])
    assert of_another.logprobs[1:] == [-float("inf")] * 2
