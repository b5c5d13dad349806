"""Images of requests that are elsewhere: fetched before the decode process sees the prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import DescantError
from ...models.images.fetch import Fetcher
from ..protocol import errors

AT_ONCE = 8  # images that are fetched at once, of all requests


class ImageFetches:
    """Fetches from some hosts.

    Args:
        domains: as in ``Limits``.
    """

    def __init__(self, domains: Sequence[str]) -> None:
        self._fetch = Fetcher(domains)
        self._free = asyncio.Semaphore(AT_ONCE)

    async def fetched(self, prompts: Sequence[Any]) -> list[Any]:
        """Prompts whose images at an address are their data.

        Raises:
            ApiError: an address that is not allowed, or an image that cannot be had.
        """
        return [await self._prompt(prompt) for prompt in prompts]

    async def _prompt(self, prompt: Any) -> Any:
        if not isinstance(prompt, list) or not isinstance(prompt[0], Mapping):
            return prompt
        return [
            {**message, "content": await self._content(number, message["content"])}
            for number, message in enumerate(prompt)
        ]

    async def _content(self, number: int, content: Any) -> Any:
        if isinstance(content, str):
            return content
        parts = []
        for place, part in enumerate(content):
            address = part.get("url", "")
            if address.startswith(("http://", "https://")):
                where = f"part {place} of message {number}"
                part = {"type": "image", "image": await self._data(where, address)}
            parts.append(part)
        return parts

    async def _data(self, where: str, address: str) -> bytes:
        async with self._free:
            try:
                return await asyncio.to_thread(self._fetch, where, address)
            except DescantError as error:
                raise errors.invalid_value(error, "messages") from None
