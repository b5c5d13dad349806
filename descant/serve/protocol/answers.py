"""Responses in OpenAI's shapes: complete, or as the chunks of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from ... import __version__
from .chats import ChatAnswers
from .messages import RowUpdate
from .prompt_answers import PromptAnswers, finite, token_name, utf8

FINGERPRINT = f"descant-{__version__}"


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
        best: how many of the best tokens those of a prompt have, where it is echoed.
        as_ids: whether ``logprobs`` name tokens by their ids.
        prompts: what choices say of their prompts.
    """

    prefix = "cmpl"
    kind = chunk_kind = "text_completion"

    def __init__(
        self, model: str, logprobs: bool, ids: bool, best: int = 0, as_ids: bool = False,
        prompts: PromptAnswers | None = None,
    ) -> None:  # fmt: skip
        self._logprobs, self._ids, self._best, self._as_ids = logprobs, ids, best, as_ids
        self._prompts = prompts or PromptAnswers()
        start = head(self.prefix, self.kind, model)
        self._fields = {**start, "system_fingerprint": FINGERPRINT}
        self._lengths: dict[int, int] = {}  # characters of the text so far, by row
        self._characters: dict[int, Any] = {}

    def response(self, rows: Sequence[RowUpdate], counts: dict[str, Any]) -> dict[str, Any]:
        """The complete response, from the only update of every row."""
        choices = [self.choice(update) for update in sorted(rows, key=lambda update: update.row)]
        return {**self._fields, "choices": choices, **self._shared_fields(), "usage": counts}

    def chunk(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
        """A chunk of a stream: one choice, or none where it holds the counts."""
        return {**self._fields, "object": self.chunk_kind, "choices": choices, **more}

    def first_chunks(self, rows: int) -> list[dict[str, Any]]:
        """The chunks of a stream before the first token of each row, without their counts."""
        said = [self._of_prompt(row) for row in range(rows)]
        return [self.chunk([choice], {}) for choice in said if choice]

    def choice(self, update: RowUpdate, streamed: bool = False) -> dict[str, Any]:
        """A row of a complete response, or its next choice in a stream."""
        reason, row = update.finish_reason, update.row
        echoed = "" if streamed else self._prompts.text(row)
        choice = {
            "index": row,
            **self._text(echoed + update.text, streamed),
            "logprobs": self._all_logprobs(update, streamed) if self._logprobs else None,
            "finish_reason": "stop" if reason == "eos" else reason,
        }
        if update.log_weight is not None:
            choice["log_weight"] = update.log_weight
            choice["log_normalizer"] = update.log_normalizer
        if self._ids:
            choice["token_ids"] = update.token_ids
        return choice if streamed else {**choice, **self._choice_fields(row)}

    def _of_prompt(self, row: int) -> dict[str, Any]:
        """The choice of a stream that says what it does of a row's prompt; empty for nothing."""
        text, fields = self._prompts.text(row), self._choice_fields(row)
        if not (self._prompts.echoed or fields):
            return {}
        logprobs = self._prompt_logprobs(row) if self._logprobs and self._prompts.echoed else None
        choice = {"index": row, **self._text(text, True), "logprobs": logprobs}
        ids: dict[str, Any] = {"token_ids": []} if self._ids else {}
        return {**choice, "finish_reason": None, **ids, **fields}

    def _choice_fields(self, row: int) -> dict[str, Any]:
        """What a choice says of its prompt besides its text."""
        return self._prompts.fields(row)

    def _shared_fields(self) -> dict[str, Any]:
        """What the response says of the prompt of all its choices."""
        return {}

    def _text(self, text: str, streamed: bool) -> dict[str, Any]:
        return {"text": text}

    def _all_logprobs(self, update: RowUpdate, streamed: bool) -> dict[str, Any]:
        """Those of the answer, after those of its prompt where this is the complete response."""
        if streamed or not self._prompts.echoed:
            return self._token_logprobs(update)
        before = self._prompt_logprobs(update.row)
        return {name: before[name] + own for name, own in self._token_logprobs(update).items()}

    def _prompt_logprobs(self, row: int) -> dict[str, Any]:
        return self._prompts.logprobs(row, self._best, self._as_ids)

    def _token_logprobs(self, update: RowUpdate) -> dict[str, Any]:
        """Log-probabilities as completions have them: lists of one length."""
        characters = self._characters.setdefault(update.row, utf8("replace"))
        sizes = [len(characters.decode(raw)) for raw in update.token_bytes]
        start = self._lengths.get(update.row, len(self._prompts.text(update.row)))
        *offsets, self._lengths[update.row] = accumulate(sizes, initial=start)
        names = self._names(update)
        return {
            "tokens": names,
            "token_logprobs": [finite(logprob) for logprob in update.logprobs],
            "top_logprobs": [
                # The drawn token too, as in vLLM.
                {name: finite(logprob)}
                | {token_name(t, id, self._as_ids): finite(value) for t, _, value, id in best}
                for name, logprob, best in zip(
                    names, update.logprobs, update.top_logprobs, strict=True
                )
            ],
            "text_offset": offsets,
        }

    def _names(self, update: RowUpdate) -> list[str]:
        pairs = zip(update.tokens, update.token_ids, strict=True)
        return [token_name(token, id, self._as_ids) for token, id in pairs]


class ChatFormat(CompletionFormat):
    """The shapes of ``/v1/chat/completions``."""

    prefix = "chatcmpl"
    kind, chunk_kind = "chat.completion", "chat.completion.chunk"
    answers: ChatAnswers | None = None

    def choice(self, update: RowUpdate, streamed: bool = False) -> dict[str, Any]:
        choice, answers, row = super().choice(update, streamed), self.answers, update.row
        if answers is None or not answers.reads:
            return choice
        if streamed:
            ended = update.finish_reason is not None
            choice["delta"] = answers.delta(row, update.text, ended)
        else:
            choice["message"] = message = answers.message(row, update.text)
            if echoed := self._prompts.text(row):
                message["content"] = echoed + (message["content"] or "")
        choice["finish_reason"] = answers.finish_reason(row, choice["finish_reason"])
        return choice

    def first_chunks(self, rows: int) -> list[dict[str, Any]]:
        chunks = []
        for row in range(rows):
            delta = {"role": "assistant", "content": self._prompts.text(row)}
            choice = {"index": row, "delta": delta, "logprobs": None, "finish_reason": None}
            chunks.append(self.chunk([choice], {} if row else self._shared_fields()))
        return chunks

    def _choice_fields(self, row: int) -> dict[str, Any]:
        return {}

    def _shared_fields(self) -> dict[str, Any]:
        return self._prompts.fields(0)

    def _text(self, text: str, streamed: bool) -> dict[str, Any]:
        if streamed:
            return {"delta": {"content": text} if text else {}}
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _all_logprobs(self, update: RowUpdate, streamed: bool) -> dict[str, Any]:
        return self._token_logprobs(update)

    def _token_logprobs(self, update: RowUpdate) -> dict[str, Any]:
        return {"content": chat_logprobs(update, self._as_ids), "refusal": None}


def chat_logprobs(update: RowUpdate, as_ids: bool = False) -> list[dict[str, Any]]:
    """Log-probabilities as chats have them: one entry per token."""
    drawn = zip(
        update.tokens, update.token_ids, update.token_bytes, update.logprobs, update.top_logprobs,
        strict=True,
    )  # fmt: skip
    return [
        {
            **_entry(token_name(token, id, as_ids), raw, logprob),
            "top_logprobs": [
                _entry(token_name(t, of, as_ids), its_bytes, value)
                for t, its_bytes, value, of in best
            ],
        }
        for token, id, raw, logprob, best in drawn
    ]


def _entry(token: str, raw: bytes, logprob: float) -> dict[str, Any]:
    """A token of a chat, its bytes in the text, and its log-probability."""
    return {"token": token, "logprob": finite(logprob), "bytes": list(raw)}
