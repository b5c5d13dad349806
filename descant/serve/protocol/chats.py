"""What a chat's answer has in its text: the marks, and the message that is read between them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..parsers import FORMATS, MessageParser, named_call, reasoning, required_calls
from ..parsers.events import Arguments, Call, Content, Event, Grammar, Thought
from .schema import ChatRequest
from .schema.tools import NamedTool

FORCED = "required"


@dataclass(frozen=True)
class ChatQuery:
    """What a chat asks of the text of its answers.

    Attributes:
        calls: whether they may have calls in the format of the model.
        tool_format: by name; None for that of the model's chat template.
    """

    calls: bool = False
    tool_format: str | None = None


@dataclass(frozen=True)
class ChatMarks:
    """What the decode process knows of that.

    Attributes:
        thought: the marks of thought; None without any.
        opened: whether the prompt ends in a thought.
        tool_format: of calls, by name; None where they are not read.
    """

    thought: tuple[str, str] | None = None
    opened: bool = False
    tool_format: str | None = None


class ChatAnswers:
    """Reads the texts of one chat's answers, row by row, as its client wants them.

    Args:
        body: of the request.
        marks: in the texts.
    """

    def __init__(self, body: ChatRequest, marks: ChatMarks) -> None:
        self._marks, self._choice, self._parallel = marks, body.choice, body.parallel
        self._with_thoughts = body.include_reasoning is not False
        self._thought: Grammar | None = None
        if marks.thought is not None:
            self._thought = reasoning(*marks.thought, marks.opened)
        self._calls = self._grammar()
        self._parsers: dict[int, MessageParser] = {}
        self._called: dict[int, int] = {}  # calls so far, by row

    @property
    def reads(self) -> bool:
        """Whether there is anything but content in the texts."""
        return self._thought is not None or self._calls is not None

    def delta(self, row: int, text: str, ended: bool) -> dict[str, Any]:
        """What a row's next text adds to its message."""
        delta: dict[str, Any] = {}
        calls: list[dict[str, Any]] = []
        for event in self._events(row, text, ended):
            match event:
                case Thought(more) if self._with_thoughts:
                    delta["reasoning_content"] = delta.get("reasoning_content", "") + more
                case Content(more):
                    delta["content"] = delta.get("content", "") + more
                case Call() | Arguments():
                    self._add_call(row, event, calls)
        return {**delta, "tool_calls": calls} if calls else delta

    def message(self, row: int, text: str) -> dict[str, Any]:
        """A row's message, from all of its text."""
        delta = self.delta(row, text, True)
        calls = [
            {name: of for name, of in call.items() if name != "index"}
            for call in delta.get("tool_calls", ())
        ]
        said = {"role": "assistant", "content": delta.get("content"), "refusal": None}
        if said["content"] is None and not calls and "reasoning_content" not in delta:
            said["content"] = ""
        thought = delta.get("reasoning_content")
        if self._thought is not None and self._with_thoughts:
            said["reasoning_content"] = thought
        return {**said, "tool_calls": calls} if calls else said

    def finish_reason(self, row: int, reason: str | None) -> str | None:
        """Why a row ended: OpenAI's word where it ended with calls that the model has chosen."""
        chosen = not isinstance(self._choice, NamedTool) and self._called.get(row)
        return "tool_calls" if reason == "stop" and chosen else reason

    def _grammar(self) -> Grammar | None:
        if isinstance(self._choice, NamedTool):
            return named_call(self._choice.function.name)
        if self._choice == FORCED:
            return required_calls
        name = self._marks.tool_format
        return None if name is None else FORMATS[name].grammar

    def _events(self, row: int, text: str, ended: bool) -> Sequence[Event]:
        if row not in self._parsers:
            self._parsers[row] = MessageParser(self._thought, self._calls)
        parser = self._parsers[row]
        return [*parser.feed(text), *(parser.end() if ended else ())]

    def _add_call(self, row: int, event: Call | Arguments, calls: list[dict[str, Any]]) -> None:
        """Add a call, or more of the last one's arguments, to those of a delta."""
        if isinstance(event, Call):
            index = self._called[row] = self._called.get(row, 0) + 1
            if index > 1 and not self._parallel:
                return
            function = {"name": event.name, "arguments": ""}
            start = {"index": index - 1, "id": self._id(), "type": "function"}
            calls.append({**start, "function": function})
            return
        index = self._called[row] - 1
        if index and not self._parallel:
            return
        if not calls or calls[-1]["index"] != index:
            calls.append({"index": index, "function": {"arguments": ""}})
        calls[-1]["function"]["arguments"] += event.text

    def _id(self) -> str:
        name = self._marks.tool_format
        length = FORMATS[name].id_length if name is not None else None
        return f"call_{secrets.token_hex(12)}" if length is None else secrets.token_hex(8)[:length]
