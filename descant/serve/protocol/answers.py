"""Responses in OpenAI's shapes: complete, or as the chunks of a stream."""

from __future__ import annotations

import codecs
import json
import secrets
import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from .messages import RowUpdate

_utf8 = codecs.getincrementaldecoder("utf-8")


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """The counts of tokens; those cached are of the prompts."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
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
        self._lengths: dict[int, int] = {}  # characters of the text so far, by row
        self._characters: dict[int, codecs.IncrementalDecoder] = {}

    def response(self, rows: Sequence[RowUpdate], counts: dict[str, Any]) -> dict[str, Any]:
        """The complete response, from the only update of every row."""
        choices = [self.choice(update) for update in sorted(rows, key=lambda update: update.row)]
        return {**self._fields, "choices": choices, "usage": counts}

    def chunk(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
        """A chunk of a stream: one choice, or none where it holds the counts."""
        return {**self._fields, "object": self.chunk_kind, "choices": choices, **more}

    def first_choices(self, rows: int) -> list[dict[str, Any]]:
        """The choices of a stream before the first token of each row."""
        return []

    def choice(self, update: RowUpdate, streamed: bool = False) -> dict[str, Any]:
        """A row of a complete response, or its next choice in a stream."""
        reason = update.finish_reason
        choice = {
            "index": update.row,
            **self._text(update.text, streamed),
            "logprobs": self._token_logprobs(update) if self._logprobs else None,
            "finish_reason": "stop" if reason == "eos" else reason,
        }
        if update.log_weight is not None:
            choice["log_weight"] = update.log_weight
            choice["log_normalizer"] = update.log_normalizer
        return {**choice, "token_ids": update.token_ids} if self._ids else choice

    def _text(self, text: str, streamed: bool) -> dict[str, Any]:
        return {"text": text}

    def _token_logprobs(self, update: RowUpdate) -> dict[str, Any]:
        """Log-probabilities as completions have them: lists of one length."""
        characters = self._characters.setdefault(update.row, _utf8("replace"))
        sizes = [len(characters.decode(raw)) for raw in update.token_bytes]
        start = self._lengths.get(update.row, 0)
        *offsets, self._lengths[update.row] = accumulate(sizes, initial=start)
        return {
            "tokens": [*update.tokens],
            "token_logprobs": update.logprobs,
            "top_logprobs": [
                # The drawn token too, as in vLLM.
                {token: logprob} | {name: value for name, _, value in best}
                for token, logprob, best in zip(
                    update.tokens, update.logprobs, update.top_logprobs, strict=True
                )
            ],
            "text_offset": offsets,
        }


class ChatFormat(CompletionFormat):
    """The shapes of ``/v1/chat/completions``."""

    prefix = "chatcmpl"
    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def first_choices(self, rows: int) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        rest = {"delta": delta, "logprobs": None, "finish_reason": None}
        return [{"index": row, **rest} for row in range(rows)]

    def _text(self, text: str, streamed: bool) -> dict[str, Any]:
        if streamed:
            return {"delta": {"content": text} if text else {}}
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _token_logprobs(self, update: RowUpdate) -> dict[str, Any]:
        """Log-probabilities as chats have them: one entry per token."""
        drawn = zip(
            update.tokens, update.token_bytes, update.logprobs, update.top_logprobs, strict=True
        )
        content = [
            {**_entry(token, raw, logprob), "top_logprobs": [_entry(*item) for item in best]}
            for token, raw, logprob, best in drawn
        ]
        return {"content": content, "refusal": None}


def _entry(token: str, raw: bytes, logprob: float) -> dict[str, Any]:
    """A token of a chat, its bytes in the text, and its log-probability."""
    return {"token": token, "logprob": logprob, "bytes": list(raw)}
