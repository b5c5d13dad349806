"""How far answers are in what they are to fit: a matcher after each of a request's texts.

A matcher goes along with a row, a token at a time; where the row goes back, it takes tokens back,
and a row that is copied gets a copy. A request's matchers are found by the answers that they have
read, so that a row which is rewritten, drafted, preempted or begun again meets the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

from ...formula.nodes import StageAddress

OF_REQUEST: StageAddress = (None, -1)  # of the constraint that a request brings, among its stages
# Why a row can neither go on nor end: no token of the vocabulary goes on with its answer; or what
# comes before excludes all that do.
SPELT, MASKED = "spelt", "masked"
OPEN, ENDED, LEFT = range(3)  # goes on; has an end in it; has a token in it that does not fit
Answer: TypeAlias = Sequence[int]
THOUGHT = "thought before the constraint"  # among a request's states


class Cursor:
    """A matcher, and the answer that it stands behind.

    Attributes:
        matcher: an ``llguidance.LLMatcher`` behind the ``read`` tokens of the answer.
        answer: may go on behind its end, or behind a token that does not fit: what follows is not
            read.
        state: of the answer.
    """

    def __init__(self, matcher: Any, read: list[int], answer: list[int], state: int) -> None:
        self.matcher, self._read, self.answer, self.state = matcher, read, answer, state

    @property
    def complete(self) -> bool:
        """Whether the answer may end here; not of one that has ended."""
        return self.state == OPEN and not self.failed and bool(self.matcher.is_accepting())

    @property
    def failed(self) -> str:
        """Why the matcher can go nowhere from here; "" while it can."""
        return str(self.matcher.get_error()) if self.matcher.is_error() else ""

    def copied(self) -> Cursor:
        return Cursor(self.matcher.deep_copy(), [*self._read], [*self.answer], self.state)

    def shared(self, answer: Answer) -> int:
        """Tokens with which both answers begin."""
        own, length = self.answer, len(self.answer)
        if own == answer[:length]:
            return length
        pairs = enumerate(zip(own, answer, strict=False))
        return next((i for i, (a, b) in pairs if a != b), min(length, len(answer)))

    def go(self, answer: Answer, ends: Collection[int]) -> None:
        """Stand behind another answer; ``ends`` are the ids that end one."""
        if self.answer == answer:
            return
        kept = min(self.shared(answer), len(self._read))
        if kept < len(self._read):
            self.matcher.rollback(len(self._read) - kept)
            del self._read[kept:]
        self.answer, self.state = list(answer), OPEN
        for token in answer[kept:]:
            if token in ends:
                self.state = ENDED if self.matcher.is_accepting() else LEFT
                return
            if not self.matcher.try_consume_tokens([token]):
                self.state = LEFT
                return
            self._read.append(token)


class AfterThought:
    """Where answers begin that follow a thought, which their prompt has opened.

    Args:
        thoughts: the marks, as ``models.text.thoughts`` has them.
        state: of the prompt among them.
    """

    def __init__(self, thoughts: Any, state: int) -> None:
        self._thoughts, self._first = thoughts, state
        self._restart()

    def _restart(self) -> None:
        self._read: list[int] = []
        self._state, self._begin = self._first, None if self._first >= self._thoughts.inside else 0

    def of(self, answer: Answer) -> Answer | None:
        """What follows the thought; None while that goes on."""
        if list(answer[: len(self._read)]) != self._read:
            self._restart()
        for token in answer[len(self._read) :]:
            self._read.append(token)
            if self._begin is None:
                self._state = self._thoughts.after([token], self._state)
                if self._state < self._thoughts.inside:
                    self._begin = len(self._read)
        return None if self._begin is None else answer[self._begin :]


class AnswerStates:
    """The matchers of one request's answers, for one constraint.

    Args:
        begin: makes a matcher at the beginning of an answer.
        ends: the ids that end one.
        thought: that comes before it, and is free; None for none.

    Attributes:
        why: what went wrong with a matcher, for an error.
    """

    def __init__(
        self, begin: Callable[[], Any], ends: Collection[int], thought: AfterThought | None = None
    ) -> None:
        self._begin, self.ends, self.why, self._thought = begin, ends, "", thought
        self._known: list[Cursor] = []

    def constrained(self, answer: Answer) -> Answer | None:
        """The part of an answer that is to fit; None while it is in the thought before that."""
        return answer if self._thought is None else self._thought.of(answer)

    def at(self, answer: Answer) -> Cursor:
        """A matcher behind an answer, whoever else stands there."""
        cursor = self._nearest(answer, self._known) or self._new()
        cursor.go(answer, self.ends)
        return cursor

    def own(self, answer: Answer, taken: list[Cursor]) -> Cursor:
        """A matcher that may go on to an answer, and is none of those ``taken``; it is then."""
        free = [each for each in self._known if not any(each is other for other in taken)]
        cursor = self._nearest(answer, free)
        if cursor is None:
            copied = self._nearest(answer, taken)
            cursor = self._new() if copied is None else copied.copied()
        taken.append(cursor)
        return cursor

    def keep(self, cursors: Sequence[Cursor]) -> None:
        """Forget all others, and those that can go nowhere."""
        self._known = [each for each in cursors if not each.failed]

    def _new(self) -> Cursor:
        cursor = Cursor(self._begin(), [], [], OPEN)
        self._known.append(cursor)
        return cursor

    @staticmethod
    def _nearest(answer: Answer, cursors: Sequence[Cursor]) -> Cursor | None:
        """The one with the least way to an answer."""
        for each in cursors:
            if each.answer == answer:
                return each
        before = answer[:-1]
        for each in cursors:
            if each.answer == before:
                return each
        return max(cursors, key=lambda each: each.shared(answer), default=None)
