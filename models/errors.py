"""What can be wrong with a checkpoint. The runtime adds where in the formula it stands."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from ..errors import QUOTED, DescantError, short_message, shortened

PAGE = "descant docs how-do-i"  # the command that shows it
Topic = Literal[  # anchors of that page, for questions that an error may be the start of
    "vocabulary", "tokenizers", "chat-templates", "negative-prompts", "adapters", "gptq", "memory",
    "per-request-weights",
]  # fmt: skip


def page_link(topic: Topic) -> str:
    """The command that shows the answer to a topic's question."""
    return f"{PAGE}#{topic}"


class ModelError(DescantError, ValueError):
    """A model that cannot be loaded or cannot take part, and what to do about it.

    Args:
        problem: one line on what is wrong.
        cure: one line on what to do instead; empty where there is nothing to suggest.
        model: the declared name, where known.
        topic: where the documentation says more.
    """

    def __init__(
        self, problem: str, cure: str = "", model: str = "", topic: Topic | None = None
    ) -> None:
        self.problem, self.cure, self.model, self.topic = problem, cure, model, topic
        super().__init__(problem, cure, model, topic)

    def __str__(self) -> str:
        more = self.more and f"more: {self.more}"
        return short_message("\n".join(part for part in (self.problem, self.cure, more) if part))

    @property
    def more(self) -> str:
        """Where the documentation says more; empty where it does not."""
        return page_link(self.topic) if self.topic else ""


class OutOfPages(ModelError):
    """There is no room for the keys and values of a text now; there may be when others leave."""


def first_line(error: BaseException) -> str:
    """The first line of another library's message, shortened."""
    return shortened((str(error).strip().splitlines() or [type(error).__name__])[0], 2 * QUOTED)


@contextmanager
def read_by_a_library(unreadable: Callable[[BaseException], DescantError]) -> Iterator[None]:
    """Around a library that reads a stranger's file: whatever it raises is about that file.

    Too little memory is none of the file's faults, and our own errors say more.

    Args:
        unreadable: makes our error of the library's.
    """
    try:
        yield
    except (DescantError, MemoryError):
        raise
    except BaseException as error:
        # A library in Rust panics with a BaseException.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise unreadable(error) from error


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is nearest, upper and lower case alike; "" where none is near."""
    names = {name.lower(): name for name in known if max(len(name), len(word)) <= QUOTED}
    return next((names[n] for n in difflib.get_close_matches(word.lower(), names, n=1)), "")


def suggestion(word: str, known: Iterable[str]) -> str:
    """The known word that is nearest, or all of them."""
    near = nearest(word, known)
    return f"did you mean {near}?" if near else f"known here: {', '.join(sorted(known))}"
