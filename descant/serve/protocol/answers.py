"""Responses in OpenAI's shapes: complete, or as the chunks of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from .messages import RowUpdate

_FINISH_REASONS = {None: None, "eos": "stop", "stop": "stop", "length": "length"}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The counts of tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """The fields that every response begins with; its id begins with the prefix."""
    id = f"{prefix}-{secrets.token_hex(12)}"
    return {"id": id, "object": kind, "created": int(time.time()), "model": model}


def event(data: Any) -> str:
    """A server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n"


DONE = event("[DONE]")


class CompletionFormat:
    """The shapes of ``/v1/completions``.

    Args:
        model: as the request names it.
        logprobs: whether choices have the log-probabilities of their tokens.
        ids: whether choices have their token ids.
    """

    prefix = "cmpl"
    kind = chunk_kind = "text_completion"

    def __init__(self, model: str, logprobs: bool, ids: bool) -> None:
        self._logprobs, self._ids = logprobs, ids
        self._fields = head(self.prefix, self.kind, model)
        self._offsets: dict[int, int] = {}  # characters of the tokens so far, by row

    def response(self, rows: Sequence[RowUpdate], counts: dict[str, int]) -> dict[str, Any]:
        """The complete response, from the only update of every row."""
        choices = [self.choice(update) for update in sorted(rows, key=lambda update: update.row)]
        return {**self._fields, "choices": choices, "usage": counts}

    def chunk(self, choice: dict[str, Any] | None, more: dict[str, Any]) -> dict[str, Any]:
        """A chunk of a stream: one choice, or none where it holds the counts."""
        choices = [choice] if choice else []
        return {**self._fields, "object": self.chunk_kind, "choices": choices, **more}

    def first_delta(self, row: int) -> dict[str, Any] | None:
        """The choice of a row's chunk before its first token, where there is one."""
        return None

    def choice(self, update: RowUpdate) -> dict[str, Any]:
        """A row of a complete response."""
        return self._choice(update, {"text": update.text})

    def delta(self, update: RowUpdate) -> dict[str, Any]:
        """A row's next choice in a stream."""
        return self.choice(update)

    def _choice(self, update: RowUpdate, text: dict[str, Any]) -> dict[str, Any]:
        choice = {
            "index": update.row,
            **text,
            "logprobs": self._token_logprobs(update) if self._logprobs else None,
            "finish_reason": _FINISH_REASONS[update.finish_reason],
        }
        return {**choice, "token_ids": update.token_ids} if self._ids else choice

    def _token_logprobs(self, update: RowUpdate) -> dict[str, Any]:
        """Log-probabilities as completions have them: lists of one length."""
        offsets, offset = [], self._offsets.get(update.row, 0)
        for token in update.tokens:
            offsets.append(offset)
            offset += len(token)
        self._offsets[update.row] = offset
        return {
            "tokens": update.tokens,
            "token_logprobs": update.logprobs,
            "top_logprobs": None,
            "text_offset": offsets,
        }


class ChatFormat(CompletionFormat):
    """The shapes of ``/v1/chat/completions``."""

    prefix = "chatcmpl"
    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def first_delta(self, row: int) -> dict[str, Any] | None:
        """The role of the message."""
        delta = {"role": "assistant", "content": ""}
        return {"index": row, "delta": delta, "logprobs": None, "finish_reason": None}

    def choice(self, update: RowUpdate) -> dict[str, Any]:
        """A row of a complete response."""
        message = {"role": "assistant", "content": update.text, "refusal": None}
        return self._choice(update, {"message": message})

    def delta(self, update: RowUpdate) -> dict[str, Any]:
        """A row's next choice in a stream."""
        return self._choice(update, {"delta": {"content": update.text} if update.text else {}})

    def _token_logprobs(self, update: RowUpdate) -> dict[str, Any]:
        """Log-probabilities as chats have them: one entry per token."""
        pairs = zip(update.tokens, update.logprobs, strict=True)
        content = [
            {"token": token, "logprob": logprob, "bytes": _bytes(token), "top_logprobs": []}
            for token, logprob in pairs
        ]
        return {"content": content, "refusal": None}


def _bytes(token: str) -> list[int] | None:
    """The bytes of a token; None where it is a part of a character."""
    return None if "\N{REPLACEMENT CHARACTER}" in token else list(token.encode())
