"""Prompt lookup, against a search of the text from its end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descant.runtime.loops.speculation.prompt_lookup import PromptLookup

IDS = st.lists(st.integers(0, 3), max_size=30)


def searched(text: list[int], most: int, longest: int = 4, shortest: int = 2) -> list[int]:
    """The definition, read off the text."""
    for size in range(longest, shortest - 1, -1):
        for end in range(len(text) - 1, size - 1, -1):
            if size < len(text) and text[end - size : end] == text[-size:]:
                longer = list(text)
                for at in range(end, end + most):  # what is copied is there to be copied
                    longer.append(longer[at])
                return longer[len(text) :]
    return []


@given(IDS, st.lists(IDS, max_size=8), st.integers(0, 9))
def test_it_proposes_what_a_search_finds(prompt, pieces, most) -> None:
    lookup, answer = PromptLookup(prompt), list[int]()
    for piece in [[], *pieces]:
        answer = answer + piece
        assert lookup.propose(answer, most) == searched(prompt + answer, most)


@given(IDS, st.lists(IDS, max_size=8), st.integers(1, 3), st.integers(0, 2))
def test_an_answer_may_be_another_one(prompt, answers, shortest, more) -> None:
    longest = shortest + more
    lookup = PromptLookup(prompt, longest, shortest)
    for answer in answers:
        assert lookup.propose(answer, 5) == searched(prompt + answer, 5, longest, shortest)


@pytest.mark.parametrize(
    ("prompt", "answer", "proposed"),
    [
        ([1, 2, 3, 4, 5], [9, 2, 3], [4, 5, 9, 2]),  # in the prompt, and on into the answer
        ([1, 2, 3], [1, 2, 4, 1, 2], [4, 1, 2, 4]),  # the most recent one
        ([5, 1, 2, 7, 1, 2], [8, 5, 1, 2], [7, 1, 2, 8]),  # but the longest before it
        ([6, 7, 6, 7, 6], [], [7, 6, 7, 6]),  # a text that repeats goes on
        ([3, 3, 3], [], [3, 3, 3, 3]),
        ([1, 2], [], []),  # the end is no match of itself
        ([1, 2, 3], [4], []),
        ([], [], []),
    ],
)
def test_what_is_proposed(prompt, answer, proposed) -> None:
    assert PromptLookup(prompt).propose(answer, 4) == proposed
    assert PromptLookup(prompt).propose(answer, 2) == proposed[:2]
    assert PromptLookup(prompt).propose(answer, 0) == []


def test_a_shorter_answer_forgets_what_was_cut() -> None:
    lookup = PromptLookup([1, 2, 3])
    assert lookup.propose([7, 8, 9, 7, 8], 2) == [9, 7]
    assert lookup.propose([7, 8], 2) == []
    assert lookup.propose([7, 8, 5, 7, 8], 2) == [5, 7]


def test_a_call_indexes_only_new_tokens() -> None:
    added: list[int] = []

    class Counting(PromptLookup):
        def _add(self, index: dict[tuple[int, ...], int], end: int) -> None:
            added.append(end)
            super()._add(index, end)

    lookup = Counting(range(100))
    assert added == [*range(2, 100)]
    lookup.propose([1, 2, 3], 4)
    added.clear()
    lookup.propose([1, 2, 3, 4, 5], 4)
    assert added == [103, 104]
    added.clear()
    lookup.propose([1, 2, 4], 4)  # the prompt stays
    assert added == [100, 101, 102]
