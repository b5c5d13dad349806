"""The body of ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from .fields import IGNORED, NonEmpty, refuse
from .generation import GenerationRequest, Top
from .messages import ImageMessage

_NO_TOOLS = refuse("tools are not called here; leave it out", [], {}, "none", "auto")


class ChatRequest(GenerationRequest):
    """The body of ``/v1/chat/completions``."""

    messages: NonEmpty[ImageMessage]
    max_completion_tokens: int | None = Field(default=None, ge=1)
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

    @model_validator(mode="after")
    def _check_max_tokens(self) -> ChatRequest:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        self.max_tokens = self.max_completion_tokens or self.max_tokens
        return self

    @property
    def prompts(self) -> list[Any]:
        """The one prompt: messages."""
        return [[message.plain() for message in self.messages]]
