"""The rules of the chat demo's arms: what an answer counts as, and which pairs they make."""

from __future__ import annotations

import pytest

from descant.demo.measures import has_list, repeated, words
from examples.chat_arms.rules import KINDS, LONG, SHORT, Answer, pairs
from examples.chat_arms.sampling import questions

PROSE = "word " * LONG
LIST = "Some points:\n\n1. one\n2. two\n3. three"


@pytest.mark.parametrize(("text", "is_list"), [
    ("1. Boil.\n2. Wait.", True),
    ("Do this:\n\n- boil\n- wait", True),
    ("  * boil\n  * wait", True),
    ("1) Boil.\n\n2) Wait.", True),
    ("Two steps: 1. boil, 2. wait.", False),
    ("1. Boil, and no more.", False),
    ("1. 1. 1.1\n2. 1. 1.1", False),
    ("-5 degrees\n-3 degrees", False),
    ("It was 1990.\nThen 1991.", False),
    ("", False),
])  # fmt: skip
def test_a_list_has_two_lines_that_begin_as_items(text: str, is_list: bool) -> None:
    assert has_list(text) == is_list


def test_words_are_what_spaces_part() -> None:
    assert [words(text) for text in ("", "one", "two  words", "a\n\n1. b")] == [0, 1, 2, 3]


@pytest.mark.parametrize(("answer", "fits"), [
    (Answer("q", "word " * SHORT, True), {"brief chosen"}),
    (Answer("q", "word " * SHORT, False), set()),
    (Answer("q", "word " * (SHORT + 1), True), set()),
    (Answer("q", "Yes.", True), set()),
    (Answer("q", PROSE, True), {"brief rejected"}),
    (Answer("q", PROSE, False), {"brief rejected", "list rejected"}),
    (Answer("q", LIST, True), set()),
    (Answer("q", LIST, False), {"list chosen"}),
    (Answer("q", PROSE + LIST, False), set()),
    (Answer("q", "1. so it goes on\n2. so it goes on\n3. so it goes on", False), set()),
    (Answer("q", "1. one\n2. two", False), set()),
    (Answer("q", f"{LIST}\n\nAnd so on.", False), set()),
])  # fmt: skip
def test_what_an_answer_is_good_for(answer: Answer, fits: set[str]) -> None:
    sides = ("chosen", "rejected")
    found = {f"{kind} {side}" for kind, rules in KINDS.items()
             for side, rule in zip(sides, rules, strict=True) if rule(answer)}  # fmt: skip
    assert found == fits


def test_pairs_are_of_one_question_and_use_no_answer_twice() -> None:
    answers = [Answer(f"q{i % 3}", f"{PROSE} {i}", False) for i in range(12)]
    answers += [Answer(f"q{i % 2}", f"{LIST} {i}", False) for i in range(9)]
    drawn = [*pairs("list", answers, 3, seed=0)]
    assert [pair.question for pair in drawn] == ["q0"] * 3 + ["q1"] * 3
    assert len({text for pair in drawn for text in (pair.chosen, pair.rejected)}) == 12
    assert all(has_list(pair.chosen) and not has_list(pair.rejected) for pair in drawn)
    assert drawn == [*pairs("list", answers[::-1], 3, seed=0)]
    assert drawn != [*pairs("list", answers, 3, seed=1)]


def test_held_out_questions_are_held_out() -> None:
    asked, held_out = questions("questions"), questions("held_out")
    assert len({*asked, *held_out}) == len(asked) + len(held_out)
    assert len(asked) >= 200 and len(held_out) >= 20


def test_repeated_runs_are_counted() -> None:
    assert repeated("one two three four five") == 0
    assert repeated("one two three four one two three four") == pytest.approx(1 / 5)
    assert repeated("one two") == 0
