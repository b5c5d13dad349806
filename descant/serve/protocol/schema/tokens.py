"""The bodies of ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from .chats import ChatRequest
from .fields import Body, NonEmpty, refuse
from .messages import ImageMessage


class TokenizeRequest(Body):
    """As vLLM has it: a text, or messages.

    Attributes:
        model: a formula's name; left out, the first of the run file.
        prompt: a text, encoded as it is.
        messages: a chat, through the template of the term whose text an answer continues.
        add_special_tokens: whether a text gets the tokens that begin one.
        return_token_strs: whether each token's name is told, too.
    """

    model: str | None = None
    prompt: str | None = None
    messages: NonEmpty[ImageMessage] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: Annotated[Any, refuse("a template is declared with its model")] = None

    @model_validator(mode="after")
    def _check_input(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages")
        if self.messages is not None and self.add_special_tokens:
            raise ValueError("a template writes the special tokens; leave add_special_tokens out")
        return self

    def chat(self, model: str) -> ChatRequest:
        """The chat whose messages are told as tokens."""
        names = ("add_generation_prompt", "continue_final_message")
        fields = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return ChatRequest.model_construct(model=model, messages=self.messages, **fields)


class DetokenizeRequest(Body):
    """As vLLM has it: token ids.

    Attributes:
        model: a formula's name; left out, the first of the run file.
    """

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]
