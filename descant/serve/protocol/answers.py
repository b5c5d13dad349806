"""Answers in OpenAI's shapes: whole, or as the chunks of a stream. It arranges what is known."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from .messages import Told

_REASONS = {"eos": "stop", "stop": "stop", "length": "length"}


def reason(told: Told) -> str | None:
    """OpenAI's word for why a row ended."""
    return None if told.finish_reason is None else _REASONS[told.finish_reason]


def usage(prompt_tokens: int, tokens: int) -> dict[str, int]:
    """The counts of tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
    }


def head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """What every answer says of itself; the prefix is its identity's."""
    said = f"{prefix}-{secrets.token_hex(12)}"
    return {"id": said, "object": kind, "created": int(time.time()), "model": model}


def event(data: Any) -> str:
    """A server-sent event."""
    said = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {said}\n\n"


DONE = event("[DONE]")


class Texts:
    """The shapes of ``/v1/completions``.

    Args:
        model: as the request names it.
        logprobs: whether tokens come with theirs.
        ids: whether choices come with their token ids.
    """

    path = "completions"
    prefix = "cmpl"
    whole = chunk = "text_completion"

    def __init__(self, model: str, logprobs: bool, ids: bool) -> None:
        self._logprobs, self._ids = logprobs, ids
        self._said_of_all = head(self.prefix, self.whole, model)
        self._characters: dict[int, int] = {}  # by row: those of its tokens so far

    def answer(self, told: Sequence[Told], counts: dict[str, int]) -> dict[str, Any]:
        """The whole answer, from the last piece of every row."""
        choices = [self.choice(one) for one in sorted(told, key=lambda one: one.row)]
        return {**self._head(self.whole), "choices": choices, "usage": counts}

    def piece(self, choice: dict[str, Any] | None, more: dict[str, Any]) -> dict[str, Any]:
        """A chunk of a stream: of one choice, or of none where it holds counts alone."""
        return {**self._head(self.chunk), "choices": [choice] if choice else [], **more}

    def opening(self, row: int) -> dict[str, Any] | None:
        """What is said of a row before its first token."""
        return None

    def choice(self, told: Told) -> dict[str, Any]:
        """A row, whole."""
        return self._choice(told, {"text": told.text})

    def pieces(self, told: Told) -> list[dict[str, Any]]:
        """A row's next piece."""
        return [self.choice(told)]

    def _choice(self, told: Told, text: dict[str, Any]) -> dict[str, Any]:
        said = self._said(told) if self._logprobs else None
        found = {"index": told.row, **text, "logprobs": said, "finish_reason": reason(told)}
        return {**found, "token_ids": told.token_ids} if self._ids else found

    def _said(self, told: Told) -> dict[str, Any]:
        """Log-probabilities as completions have them: four lists of one length."""
        offsets, at = [], self._characters.get(told.row, 0)
        for token in told.spelled:
            offsets.append(at)
            at += len(token)
        self._characters[told.row] = at
        return {
            "tokens": told.spelled,
            "token_logprobs": told.logprobs,
            "top_logprobs": None,
            "text_offset": offsets,
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {**self._said_of_all, "object": kind}


class Chats(Texts):
    """The shapes of ``/v1/chat/completions``."""

    path = "chat/completions"
    prefix = "chatcmpl"
    whole, chunk = "chat.completion", "chat.completion.chunk"

    def opening(self, row: int) -> dict[str, Any] | None:
        """The role of the one who speaks."""
        delta = {"role": "assistant", "content": ""}
        return {"index": row, "delta": delta, "logprobs": None, "finish_reason": None}

    def choice(self, told: Told) -> dict[str, Any]:
        """A row, whole."""
        message = {"role": "assistant", "content": told.text, "refusal": None}
        return self._choice(told, {"message": message})

    def pieces(self, told: Told) -> list[dict[str, Any]]:
        """A row's next piece."""
        return [self._choice(told, {"delta": {"content": told.text} if told.text else {}})]

    def _said(self, told: Told) -> dict[str, Any]:
        """Log-probabilities as chats have them: one entry per token."""
        pairs = zip(told.spelled, told.logprobs, strict=True)
        content = [
            {"token": token, "logprob": logprob, "bytes": _bytes(token), "top_logprobs": []}
            for token, logprob in pairs
        ]
        return {"content": content, "refusal": None}


def _bytes(token: str) -> list[int] | None:
    """The bytes of a token; None where it is a part of a character."""
    return None if "\N{REPLACEMENT CHARACTER}" in token else list(token.encode())
