"""The messages of chats."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .fields import IGNORED, Body, refuse
from .tools import Calls

_TEXT_ONLY = refuse("messages are text; leave it out", [])


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ImageUrl(Body):
    """Where an image is: a data URL, or an address that the server's owner allows."""

    url: Annotated[str, Field(pattern=r"^(data:|https?://)")]
    detail: Annotated[Any, IGNORED] = None


class ImagePart(Body):
    """A part of a message's content."""

    type: Literal["image_url"]
    image_url: ImageUrl


_Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(Body):
    """One message of a chat; a message that this server has answered is valid unchanged."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    refusal: Annotated[Any, _TEXT_ONLY] = None
    tool_calls: Calls | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    function_call: Annotated[Any, _TEXT_ONLY] = None
    audio: Annotated[Any, _TEXT_ONLY] = None
    annotations: Annotated[Any, _TEXT_ONLY] = None

    @model_validator(mode="after")
    def _check_content(self) -> ChatMessage:
        if self.content is None and not (self.role == "assistant" and self._has_more):
            raise ValueError("content is missing; a message without tool_calls has one")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls are in messages of the assistant")
        if self.name is not None and self.role != "tool":
            raise ValueError("models are not told the names of speakers; leave name out")
        return self

    @property
    def _has_more(self) -> bool:
        return bool(self.tool_calls) or self.thought is not None

    @property
    def thought(self) -> str | None:
        """What the assistant thought before its content."""
        return self.reasoning if self.reasoning_content is None else self.reasoning_content

    def plain(self) -> dict[str, Any]:
        """The role, and the content as one text; or as parts, where there are images."""
        more: dict[str, Any] = {"name": self.name, "tool_call_id": self.tool_call_id}
        more["tool_calls"] = [call.model_dump() for call in self.tool_calls or ()] or None
        more["reasoning_content"] = self.thought
        return {
            "role": self.role,
            "content": self._content(),
            **{name: value for name, value in more.items() if value is not None},
        }

    def _content(self) -> Any:
        content: Any = self.content
        if content is None or isinstance(content, str):
            return content or ""
        if any(isinstance(part, ImagePart) for part in content):
            return [_plain(part) for part in content]
        return "\n".join(part.text for part in content)  # as vLLM and llama.cpp do


class ImageMessage(ChatMessage):
    """One whose content may have images."""

    content: str | Annotated[list[_Part], Field(fail_fast=True)] | None = None  # type: ignore[assignment]


def _plain(part: TextPart | ImagePart) -> dict[str, str]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image", "url": part.image_url.url}
