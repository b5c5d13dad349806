"""What a compat module refuses: an error that names it and says what to write instead."""

from __future__ import annotations


class Untranslatable(NotImplementedError):
    """Something of another repository that no formula does.

    Args:
        problem: one line on what it is.
        cure: one line on what to write instead.
    """

    def __init__(self, problem: str, cure: str) -> None:
        self.problem, self.cure = problem, cure
        super().__init__(problem, cure)

    def __str__(self) -> str:
        return f"{self.problem}\n{self.cure}"
