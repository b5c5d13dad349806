"""The body of ``/v1/score``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from .fields import Body, NonEmpty, Text
from .messages import ChatMessage

_Chat = Annotated[list[ChatMessage], Field(min_length=2, fail_fast=True)]


class ScoreRequest(Body):
    """The body of ``/v1/score``, as vLLM has it, or chats that end in the answer.

    Attributes:
        model: a reward model of the run file.
        text_1: the prompt of every answer, or one for each.
        text_2: the answers.
        messages: instead of both, a chat or several; the last message of each is the answer.
    """

    model: str
    text_1: Text | NonEmpty[Text] | None = None
    text_2: str | NonEmpty[str] | None = None
    messages: _Chat | NonEmpty[_Chat] | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _check_pairs(self) -> ScoreRequest:
        texts = (self.text_1 is None, self.text_2 is None)
        if texts != ((self.messages is not None),) * 2:
            raise ValueError("give text_1 and text_2, or messages")
        prompts, answers = self.pairs
        if len(prompts) != len(answers):
            raise ValueError(
                f"there are {len(prompts)} prompts in text_1 and {len(answers)} answers in text_2; "
                "give one prompt, or as many"
            )
        if self.messages is not None and any(chat[-1].role != "assistant" for chat in self._chats):
            raise ValueError("the last message of a chat that is scored is the assistant's")
        return self

    @property
    def pairs(self) -> tuple[list[Any], list[str]]:
        """Prompts and their answers."""
        if self.messages is not None:
            plain = [[message.plain() for message in chat] for chat in self._chats]
            return [chat[:-1] for chat in plain], [chat[-1]["content"] for chat in plain]
        assert self.text_1 is not None and self.text_2 is not None
        prompts, answers = _listed(self.text_1), _listed(self.text_2)
        return prompts * len(answers) if len(prompts) == 1 else prompts, answers

    @property
    def _chats(self) -> list[list[ChatMessage]]:
        chats: Any = self.messages
        return chats if isinstance(chats[0], list) else [chats]


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts
