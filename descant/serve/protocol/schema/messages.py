"""The messages of chats."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .fields import IGNORED, Body, refuse

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
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]
    name: Annotated[Any, refuse("models are not told the names of speakers; leave it out")] = None
    refusal: Annotated[Any, _TEXT_ONLY] = None
    tool_calls: Annotated[Any, _TEXT_ONLY] = None
    function_call: Annotated[Any, _TEXT_ONLY] = None
    audio: Annotated[Any, _TEXT_ONLY] = None
    annotations: Annotated[Any, _TEXT_ONLY] = None

    def plain(self) -> dict[str, Any]:
        """The role, and the content as one text; or as parts, where there are images."""
        content: Any = self.content
        if isinstance(content, str):
            return {"role": self.role, "content": content}
        if any(isinstance(part, ImagePart) for part in content):
            return {"role": self.role, "content": [_plain(part) for part in content]}
        joined = "\n".join(part.text for part in content)  # as vLLM and llama.cpp do
        return {"role": self.role, "content": joined}


class ImageMessage(ChatMessage):
    """One whose content may have images."""

    content: str | Annotated[list[_Part], Field(fail_fast=True)]  # type: ignore[assignment]


def _plain(part: TextPart | ImagePart) -> dict[str, str]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image", "url": part.image_url.url}
