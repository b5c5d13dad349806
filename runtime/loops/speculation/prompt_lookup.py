"""Prompt lookup: what followed the last tokens where they stood before, in prompt or answer.

A draft of no model: answers that quote, edit or repeat find their next tokens in what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

_Index: TypeAlias = dict[tuple[int, ...], int]  # an n-gram, and where it last ended
_COMPARED = 32  # tokens at the end of the answer by which a rewritten one is told


class PromptLookup:
    """The tokens of one request, by the n-grams that they follow.

    A call costs what is new since the last one. The n-gram at the end of the text is not in the
    index until another token follows it, so that no match is the end itself.

    Args:
        prompt_ids: in the formula's tokens.
        longest: tokens that are to match, and if they do not, one less, down to
        shortest: at least 1.
    """

    def __init__(self, prompt_ids: Sequence[int], longest: int = 4, shortest: int = 2) -> None:
        self._sizes = range(longest, shortest - 1, -1)
        self._ids, self._prompt = list(prompt_ids), len(prompt_ids)
        self._in_prompt: _Index = {}
        self._in_answer: _Index = {}  # those that reach into the answer
        for end in range(shortest, self._prompt):
            self._add(self._in_prompt, end)

    def propose(self, answer_ids: Sequence[int], most: int) -> list[int]:
        """The tokens that may follow, at most so many; none where nothing matches.

        Where what is copied runs into the end of the text, it goes on with its own beginning:
        a text that repeats is continued as it repeats.

        Args:
            answer_ids: so far. They are those of the last call and more, or others: a search may
                have rewritten them. Others that agree with the last ones in the 32 tokens before
                their end pass for the same, which costs accepted tokens and changes none.
        """
        self._read(answer_ids)
        end = len(self._ids)
        for size in self._sizes:
            if size > end:
                continue
            gram = tuple(self._ids[end - size :])
            start = self._in_answer.get(gram) or self._in_prompt.get(gram)
            if start is not None:
                copied = self._ids[start : start + most]
                return [copied[i % len(copied)] for i in range(most)]
        return []

    def _read(self, answer_ids: Sequence[int]) -> None:
        """Have the text end in this answer, and index what is new."""
        known = len(self._ids) - self._prompt
        last = self._ids[max(self._prompt, len(self._ids) - _COMPARED) :]
        if list(answer_ids[max(0, known - _COMPARED) : known]) != last:
            del self._ids[self._prompt :]
            self._in_answer.clear()
            known = 0
        for token in answer_ids[known:]:
            self._add(self._in_answer, len(self._ids))
            self._ids.append(token)

    def _add(self, index: _Index, end: int) -> None:
        """Index the n-grams that end before this position."""
        for size in self._sizes:
            if size <= end:
                index[tuple(self._ids[end - size : end])] = end
