"""The marks in the texts of a formula's chats: of thoughts, and of tool calls."""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError
from ...models.text.chat_options import knows
from ..parsers import FORMATS, format_of
from ..protocol.chats import ChatMarks, ChatQuery


def marks_of_chat(bound: Any, query: ChatQuery) -> ChatMarks:
    """What a formula's answers have in them, as far as a chat asks.

    Raises:
        ArgumentError: calls are asked for, in a format that nobody has said.
    """
    from ...runtime.binding.chats import template_of

    thought = None
    if bound.thoughts is not None:
        marks = bound.thoughts.marks
        if isinstance(marks.start, str) and isinstance(marks.end, str):
            thought = marks.start, marks.end
    if not query.calls:
        return ChatMarks(thought)
    term = bound.terms[bound.text_term]
    template = template_of(term) or ""
    name = query.tool_format or format_of(template)
    if name is None and knows(template, "tools"):  # else the prompt is refused
        problem = f"the chat template of {term.term.model} asks for tool calls in a format that is"
        cure = f"start the server with --tool-call-parser: {', '.join(sorted(FORMATS))}"
        raise ArgumentError(f"{problem} not known; {cure}, or say tool_choice: required")
    return ChatMarks(thought, False, name)


def are_hidden(bound: Any, marks: ChatMarks) -> bool:
    """Whether a text without special tokens lacks some of the marks."""
    names = [*(marks.thought or ())]
    if marks.tool_format is not None:
        names += FORMATS[marks.tool_format].marks
    special = {*bound.detokenizer.special.values()}
    return any(name in special for name in names)


def opened(bound: Any, request: Any) -> int:
    """The state of a request's prompt among the marks of thought."""
    prompts = [*request.prompts, *request.draft_prompts]
    state: int = bound.thoughts.after_prompt(prompts[bound.thinking_term])
    return state
