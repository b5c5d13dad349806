"""Chat messages whose contents are lists of parts: text, and images.

Parts are written as transformers' chat templates take them, or as OpenAI does. An image that was
read is ``{"type": "image", "image": …}`` with an image of PIL's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .sources import FILES, Sources, is_file

IMAGE, IMAGE_URL, TEXT = "image", "image_url", "text"
KEYS = ("image", "path", "base64", "url")  # of an image, one of them
MOST = 256  # images of a prompt
_WRITTEN = '{"type": "text", "text": "…"} or {"type": "image", "image": …}'


def text_of(content: Any) -> str:
    """The text of a message's content; of parts, a line each."""
    if isinstance(content, str):
        return content
    return "\n".join(part[TEXT] for part in content if part["type"] == TEXT)


def images_in(prompt: Any) -> list[Any]:
    """The images of messages that were read, in their order."""
    parts = (part for _, _, part in _parts(prompt))
    return [part["image"] for part in parts if part["type"] == IMAGE]


def has_images(prompt: Any) -> bool:
    """Whether messages have images, read or not."""
    return any(part["type"] != TEXT for _, _, part in _parts(prompt))


def with_images(prompt: Any, sources: Sources = FILES) -> Any:
    """Messages whose images are read.

    Raises:
        ModelError: a part that is neither text nor an image, or an image that cannot be had; names
            the message and the part.
    """
    count = sum(part["type"] != TEXT for _, _, part in _parts(prompt))
    if count > MOST:
        raise ModelError(f"the prompt has {count} images", f"it may have {MOST}")
    if not count:
        return prompt
    return _each(prompt, lambda where, part: [_read(where, part, sources)])


def without_images(prompt: Any) -> Any:
    """Messages without their images; the text parts stay as they are."""
    if not has_images(prompt):
        return prompt
    return _each(prompt, lambda where, part: [part] if part["type"] == TEXT else [])


def as_text(prompt: Any) -> Any:
    """Messages whose contents are text, for models that know no parts."""
    if not any(isinstance(message.get("content"), list) for message in _messages(prompt)):
        return prompt
    for _ in _parts(prompt):
        pass  # each is checked
    return [{**message, "content": text_of(message["content"])} for message in prompt]


def with_files_of(prompt: Any, folder: Path) -> Any:
    """Messages whose images are files beside another: relative paths are from its folder.

    Raises:
        ModelError: a part that is neither text nor an image; names it.
    """

    def moved(where: str, part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        changed = dict(part)
        for key in ("path", "image"):
            value = part.get(key)
            if isinstance(value, str) and (key == "path" or is_file(str(folder / value))):
                changed[key] = str(folder / value)
        return [changed]

    return _each(prompt, moved) if has_images(prompt) else prompt


def system_content(system: str | None, messages: Sequence[Mapping[str, Any]]) -> Any:
    """The content of a system message, of parts where other messages are."""
    if any(isinstance(message["content"], list) for message in messages):
        return [{"type": TEXT, "text": system}]
    return system


def _messages(prompt: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(prompt, Sequence) and not isinstance(prompt, str):
        yield from (message for message in prompt if isinstance(message, Mapping))


def _parts(prompt: Any) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """The parts of messages with the numbers of both, checked as far as their kinds go."""
    for number, message in enumerate(_messages(prompt)):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            where = f"part {place} of message {number}"
            kind = part.get("type") if isinstance(part, Mapping) else None
            if (kind == TEXT and isinstance(part.get(TEXT), str)) or kind in (IMAGE, IMAGE_URL):
                yield number, place, part
            elif kind in ("video", "video_url", "audio", "input_audio", "audio_url", "file"):
                problem = f"{where} is {kind}, and models here read text and images"
                raise ModelError(problem, f"write {_WRITTEN}")
            else:
                raise ModelError(f"{where} is neither text nor an image", f"write {_WRITTEN}")


def _each(prompt: Any, change: Any) -> list[Any]:
    """Messages with other parts in place of each."""
    changed = [dict(message) for message in prompt]
    for message in changed:
        if isinstance(message.get("content"), list):
            message["content"] = []
    for number, place, part in _parts(prompt):
        where = f"part {place} of message {number}"
        changed[number]["content"] += change(where, part)
    return changed


def _read(where: str, part: Mapping[str, Any], sources: Sources) -> Mapping[str, Any]:
    if part["type"] == TEXT:
        return part
    if part["type"] == IMAGE_URL:
        url = part.get(IMAGE_URL)
        written = {"url": url.get("url") if isinstance(url, Mapping) else url}
    else:
        written = {key: part[key] for key in KEYS if part.get(key) is not None}
    if len(written) != 1:
        named = " and ".join(written) or "nothing"
        problem = f"{where} is an image, and has {named}"
        raise ModelError(problem, "give one of image, path, base64 and url")
    [(key, value)] = written.items()
    return {"type": IMAGE, "image": sources.image(where, key, value)}
