"""The shapes of ``/v1/responses``: one message, complete or as the typed events of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

from .answers import chat_logprobs
from .chats import ChatAnswers
from .messages import RowUpdate
from .schema import ResponsesRequest


class ResponseFormat:
    """One response.

    Args:
        body: its request.

    Attributes:
        answers: tells the text of its message from a thought before that.
    """

    answers: ChatAnswers | None = None

    def __init__(self, body: ResponsesRequest) -> None:
        self._body, self._numbers = body, count()
        self._id, self._item_id = (f"{kind}_{secrets.token_hex(24)}" for kind in ("resp", "msg"))
        self._created, self._text, self._logprobs = int(time.time()), "", list[Any]()

    def response(self, update: RowUpdate, counts: dict[str, Any]) -> dict[str, Any]:
        """The complete response, from the last update of its row."""
        self._add(update)
        return self._ended(update, counts)

    def first_events(self) -> Iterator[str]:
        """Those before the first token."""
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self._response("in_progress"))
        item = {**self._item("in_progress"), "content": []}
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._event("response.content_part.added", **self._place(), part=self._part())

    def events(self, update: RowUpdate) -> Iterator[str]:
        """Those of an update."""
        before, logprobs = len(self._text), self._add(update)
        if (text := self._text[before:]) or logprobs:
            yield self._event(
                "response.output_text.delta", **self._place(), delta=text, logprobs=logprobs
            )

    def last_events(self, update: RowUpdate, counts: dict[str, Any]) -> Iterator[str]:
        """Those after the last update of the row."""
        response, part = self._ended(update, counts), self._part()
        done = {"text": self._text, "logprobs": self._logprobs}
        yield self._event("response.output_text.done", **self._place(), **done)
        yield self._event("response.content_part.done", **self._place(), part=part)
        yield self._event("response.output_item.done", output_index=0, item=response["output"][0])
        yield self._event(f"response.{response['status']}", response=response)

    def failure(self, error: dict[str, Any]) -> str:
        """The event of an error, after which there is none."""
        said = {"code": error["code"] or "server_error", "message": error["message"]}
        return self._event("response.failed", response={**self._response("failed"), "error": said})

    def _add(self, update: RowUpdate) -> list[Any]:
        logprobs = chat_logprobs(update) if self._body.with_logprobs else []
        if self.answers is None:
            self._text += update.text
        else:
            ended = update.finish_reason is not None
            self._text += self.answers.delta(update.row, update.text, ended).get("content", "")
        self._logprobs += logprobs
        return logprobs

    def _ended(self, update: RowUpdate, counts: dict[str, Any]) -> dict[str, Any]:
        cut = update.finish_reason == "length"
        status = "incomplete" if cut else "completed"
        return {
            **self._response(status),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._item(status)],
            "usage": {
                "input_tokens": counts["prompt_tokens"],
                "input_tokens_details": counts["prompt_tokens_details"],
                "output_tokens": counts["completion_tokens"],
                "output_tokens_details": counts.get(
                    "completion_tokens_details", {"reasoning_tokens": 0}
                ),
                "total_tokens": counts["total_tokens"],
            },
        }

    def _response(self, status: str) -> dict[str, Any]:
        body = self._body
        text = body.model_dump(include={"text"})["text"] or {}
        return {
            "id": self._id, "object": "response", "created_at": self._created, "status": status,
            "background": False, "error": None, "incomplete_details": None,
            "instructions": body.instructions, "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {}, "model": body.model, "output": [],
            "parallel_tool_calls": bool(body.parallel_tool_calls), "previous_response_id": None,
            "store": False, "temperature": body.temperature,
            "text": {"format": text.get("format") or {"type": "text"}}, "tool_choice": "none",
            "tools": [], "top_logprobs": body.top_logprobs or 0, "top_p": body.top_p,
            "truncation": "disabled", "usage": None, "user": body.user,
        }  # fmt: skip

    def _item(self, status: str) -> dict[str, Any]:
        start = {"id": self._item_id, "type": "message", "role": "assistant", "status": status}
        return {**start, "content": [self._part()]}

    def _part(self) -> dict[str, Any]:
        said = {"text": self._text, "annotations": [], "logprobs": [*self._logprobs]}
        return {"type": "output_text", **said}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> str:
        data = {"type": kind, "sequence_number": next(self._numbers), **fields}
        return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
