"""What can be wrong with a checkpoint. The runtime adds the place in the formula."""

from __future__ import annotations

from typing import Literal

PAGE = "docs/how-do-i.md"
Topic = Literal[  # anchors of that page, for questions that an error may be the start of
    "vocabulary", "tokenizers", "chat-templates", "negative-prompts", "adapters", "gptq", "memory",
    "per-request-weights",
]  # fmt: skip


def answered(topic: Topic) -> str:
    """Where that page answers."""
    return f"{PAGE}#{topic}"


class ModelError(ValueError):
    """A model that cannot be loaded or cannot take part, and what to do about it.

    Args:
        problem: one line on what is wrong.
        cure: one line on what to do instead; empty where there is nothing to suggest.
        model: the declared name, where known.
        topic: which answer of the page of questions says more.
    """

    def __init__(
        self, problem: str, cure: str = "", model: str = "", topic: Topic | None = None
    ) -> None:
        self.problem, self.cure, self.model, self.topic = problem, cure, model, topic
        super().__init__(problem, cure, model, topic)

    def __str__(self) -> str:
        more = self.more and f"more: {self.more}"
        return "\n".join(part for part in (self.problem, self.cure, more) if part)

    @property
    def more(self) -> str:
        """Where the documents say more; empty where they do not."""
        return answered(self.topic) if self.topic else ""


def first_line(error: BaseException) -> str:
    """What another library said, without its traceback of causes."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
