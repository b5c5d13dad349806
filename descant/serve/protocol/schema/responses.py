"""The body of ``/v1/responses``: text, which is answered as a chat is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from ....runtime.constraints.spec import constraint_of_format
from .chats import ChatRequest
from .fields import IGNORED, Body, NonEmpty, TakenFields, Text, refuse
from .generation import StreamOptions
from .prompts import Top

LOGPROBS = "message.output_text.logprobs"  # that a request may include
_NOT_STORED = refuse("nothing is stored here; send the messages before it as input")
_NO_TOOLS = refuse("tools are not called here; leave it out", [], "none", "auto")


class InputText(Body):
    """A part of a message: a client's, or of an answer that is sent back."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[Any, refuse("answers have none", [])] = None
    logprobs: Any = None


class InputImage(Body):
    """A part of a message."""

    type: Literal["input_image"]
    image_url: Annotated[str, Field(pattern=r"^(data:|https?://)")]
    detail: Annotated[Any, IGNORED] = None


_Part = Annotated[InputText | InputImage, Field(discriminator="type")]


class InputMessage(Body):
    """An item of the input; one that this server has answered is valid unchanged."""

    type: Literal["message"] = "message"
    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | Annotated[list[_Part], Field(fail_fast=True)]
    id: str | None = None
    status: str | None = None
    phase: str | None = None

    def chat_message(self) -> dict[str, Any]:
        """The same as a message of a chat."""
        if isinstance(self.content, str):
            return {"role": self.role, "content": self.content}
        parts = [
            {"type": "text", "text": part.text}
            if isinstance(part, InputText)
            else {"type": "image_url", "image_url": {"url": part.image_url}}
            for part in self.content
        ]
        return {"role": self.role, "content": parts}


def _as_chats_have_it(value: Any) -> Any:
    """A ``text.format`` as ``response_format``."""
    if isinstance(value, dict) and value.get("type") == "json_schema":
        rest = {name: of for name, of in value.items() if name != "type"}
        return {"type": "json_schema", "json_schema": rest}
    return value


def _checked_format(value: Any) -> Any:
    constraint_of_format(_as_chats_have_it(value))
    return value


class TextOptions(Body):
    """What the answer is."""

    format: Annotated[Any, AfterValidator(_checked_format)] = None
    verbosity: Annotated[Any, IGNORED] = None


class ResponsesRequest(TakenFields):
    """As OpenAI has it.

    Attributes:
        input: a user's text, or messages.
        instructions: a system message before them.
        max_output_tokens: left out, as many as fit.
        text: its ``format`` is what the answer is.
        include: ``message.output_text.logprobs`` for log-probabilities, with ``top_logprobs``.
        params, seed: as for chats.
    """

    model: str
    input: Text | NonEmpty[InputMessage]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    text: TextOptions | None = None
    top_logprobs: Top | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    params: dict[str, float] | None = None
    seed: int | None = None

    previous_response_id: Annotated[Any, _NOT_STORED] = None
    conversation: Annotated[Any, _NOT_STORED] = None
    prompt: Annotated[Any, _NOT_STORED] = None
    background: Annotated[Any, refuse("nothing is stored here; wait for the answer", False)] = None
    truncation: Annotated[Any, refuse("nothing is cut silently; leave it out", "disabled")] = None
    tools: Annotated[Any, _NO_TOOLS] = None
    tool_choice: Annotated[Any, _NO_TOOLS] = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Any = None
    reasoning: Annotated[Any, IGNORED] = None

    @model_validator(mode="after")
    def _check_chat(self) -> ResponsesRequest:
        try:
            self.chat()
        except ValidationError as error:
            problem = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
            raise ValueError(problem) from None
        return self

    def chat(self) -> ChatRequest:
        """The same as a chat."""
        messages = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            messages.append({"role": "user", "content": self.input})
        else:
            messages += [message.chat_message() for message in self.input]
        fields = {
            "max_completion_tokens": self.max_output_tokens, "temperature": self.temperature,
            "top_p": self.top_p, "stream": self.stream, "params": self.params, "seed": self.seed,
            "logprobs": self.with_logprobs or None,
            "top_logprobs": self.top_logprobs if self.with_logprobs else None,
            "response_format": _as_chats_have_it(self.text and self.text.format),
        }  # fmt: skip
        chosen = {name: value for name, value in fields.items() if value is not None}
        return ChatRequest.model_validate({"model": self.model, "messages": messages, **chosen})

    @property
    def with_logprobs(self) -> bool:
        """Whether the answer has the log-probabilities of its tokens."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)
