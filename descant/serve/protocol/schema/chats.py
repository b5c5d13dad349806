"""The body of ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import model_validator

from .fields import IGNORED, NonEmpty, refuse
from .generation import GenerationRequest
from .messages import ImageMessage
from .prompts import Top

_NO_TOOLS = refuse("tools are not called here; leave it out", [], {}, "none", "auto")


class ChatRequest(GenerationRequest):
    """The body of ``/v1/chat/completions``."""

    messages: NonEmpty[ImageMessage]
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    tools: Annotated[Any, _NO_TOOLS] = None
    tool_choice: Annotated[Any, _NO_TOOLS] = None
    parallel_tool_calls: Annotated[Any, refuse("tools are not called here", True, False)] = None
    functions: Annotated[Any, _NO_TOOLS] = None
    function_call: Annotated[Any, _NO_TOOLS] = None
    modalities: Annotated[Any, refuse("answers are text; leave it out", ["text"])] = None
    audio: Annotated[Any, refuse("answers are text; leave it out")] = None
    reasoning_effort: Annotated[Any, IGNORED] = None
    verbosity: Annotated[Any, IGNORED] = None
    prediction: Annotated[Any, IGNORED] = None
    web_search_options: Annotated[Any, IGNORED] = None

    @model_validator(mode="after")
    def _check_ending(self) -> ChatRequest:
        """An assistant's last message is continued, and any other is answered."""
        last = self.messages[-1]
        if [message.role for message in self.messages[-2:]] == ["assistant"] * 2:
            raise ValueError("the last two messages are the assistant's; make them one")
        continues = last.role == "assistant" and bool(last.plain()["content"])
        ends = "the last message is the assistant's, and is continued"
        if not continues:
            ends = "the last message is not the assistant's, and is answered"
        if self.continue_final_message not in (None, continues):
            raise ValueError(f"{ends}; leave continue_final_message out")
        if self.add_generation_prompt not in (None, not continues):
            raise ValueError(f"{ends}; leave add_generation_prompt out")
        return self

    @model_validator(mode="after")
    def _check_top_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs come with logprobs: true")
        return self

    @property
    def best(self) -> int:
        return self.top_logprobs or 0

    @property
    def prompts(self) -> list[Any]:
        """The one prompt: messages."""
        return [[message.plain() for message in self.messages]]

    @property
    def echoed(self) -> list[str | None] | None:
        """What the answer is echoed with: the message that it continues."""
        last = self.messages[-1].plain()
        return [last["content"] if last["role"] == "assistant" else ""] if self.echo else None
