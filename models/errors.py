"""What can be wrong with a checkpoint. The runtime adds the place in the formula."""

from __future__ import annotations


class ModelError(ValueError):
    """A model that cannot be loaded or cannot take part, and what to do about it.

    Args:
        problem: one line on what is wrong.
        cure: one line on what to do instead; empty where there is nothing to suggest.
        model: the declared name, where known.
    """

    def __init__(self, problem: str, cure: str = "", model: str = "") -> None:
        self.problem, self.cure, self.model = problem, cure, model
        super().__init__(problem, cure, model)

    def __str__(self) -> str:
        return "\n".join(part for part in (self.problem, self.cure) if part)


def first_line(error: BaseException) -> str:
    """What another library said, without its traceback of causes."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
