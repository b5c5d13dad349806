"""What a chat template takes besides messages: tools, variables of its own, and how to end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import ArgumentError, quoted
from ...grammar import did_you_mean
from ..errors import ModelError

Messages = Sequence[Mapping[str, Any]]
EFFORT, USUAL = "reasoning_effort", (None, "none", "medium")  # which ask for nothing by themselves
NAMED = ("chat_template_kwargs", "tools", "add_generation_prompt", "continue_final_message")
ARGUMENTS = (  # of apply_chat_template, which are no variables of a template
    *("self", "conversation", "messages", *NAMED[1:], "chat_template", "tokenize", "padding"),
    *("truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs"),
    *("return_assistant_tokens_mask", "tokenizer", "template", "processor_kwargs"),
)


@dataclass(frozen=True)
class ChatOptions:
    """How messages are rendered, in the words of transformers' ``apply_chat_template``.

    Attributes:
        chat_template_kwargs: variables of the template, ``{"enable_thinking": False}``.
        tools: functions that the model may call, as JSON schemas in OpenAI's form.
        add_generation_prompt: whether the assistant's turn is begun after the messages.
        continue_final_message: whether the last message goes on. Left out, an assistant's last
            message goes on, and any other is answered; if one of the two is said, the other is as
            in transformers: a turn is begun unless the last message goes on.
        effort: ``reasoning_effort`` of the template, if it knows that.
    """

    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    effort: str | None = None

    def ending(self, messages: Messages) -> dict[str, bool]:
        """The two of ``apply_chat_template`` that say how the text ends."""
        adds, continues = self.add_generation_prompt, self.continue_final_message
        if adds is None and continues is None:
            last = messages[-1] if messages else {}
            continues = last.get("role") == "assistant" and bool(last.get("content"))
        continues = bool(continues)
        adds = not continues if adds is None else adds
        return {"add_generation_prompt": adds, "continue_final_message": continues}

    def variables(self) -> dict[str, Any]:
        """The others."""
        own = {"tools": list(self.tools) if self.tools else None, EFFORT: self.effort}
        values = {name: value for name, value in own.items() if value is not None}
        return {**values, **self.chat_template_kwargs}


DEFAULT = ChatOptions()


class Chat(list[Any]):
    """Messages, and how they are rendered."""

    options: ChatOptions


class ChatText(str):
    """A text for a chat template, and how it is rendered."""

    options: ChatOptions


def with_options(prompt: Any, options: ChatOptions) -> Any:
    """A prompt that is rendered so; token ids, and what was read before, are as they are."""
    if options == DEFAULT or getattr(prompt, "is_read", False):
        return prompt
    if not isinstance(prompt, str | list | tuple) or (prompt and isinstance(prompt[0], int)):
        raise ArgumentError("a prompt of token ids is read as it is; give the chat's messages")
    made = ChatText(prompt) if isinstance(prompt, str) else Chat(prompt)
    made.options = options
    return made


def options_of(prompt: Any) -> ChatOptions:
    """How a prompt is rendered."""
    options: ChatOptions = getattr(prompt, "options", DEFAULT)
    return options


def chat_options(
    chat_template_kwargs: Any = None,
    tools: Any = None,
    add_generation_prompt: Any = None,
    continue_final_message: Any = None,
) -> ChatOptions:
    """The options of a call, checked.

    Raises:
        ArgumentError: names the one that is wrong.
    """
    values = (chat_template_kwargs, tools, add_generation_prompt, continue_final_message)
    if all(value is None for value in values):
        return DEFAULT
    variables = {} if chat_template_kwargs is None else chat_template_kwargs
    if not isinstance(variables, Mapping) or not all(isinstance(key, str) for key in variables):
        problem = f"chat_template_kwargs are {quoted(variables)}"
        raise ArgumentError(f'{problem}; they are variables: {{"enable_thinking": false}}')
    for name in variables:
        if name in ARGUMENTS:
            cure = f"give {name} by itself" if name in NAMED else "leave it out"
            raise ArgumentError(f"chat_template_kwargs has {name}, which is no variable; {cure}")
        if not name.isidentifier():
            raise ArgumentError(f"chat_template_kwargs has {quoted(name)}, which is no name")
    for name, value in zip(NAMED[2:], values[2:], strict=True):
        if not isinstance(value, bool | None):
            raise ArgumentError(f"{name} is {quoted(value)}; it is true or false")
    if add_generation_prompt and continue_final_message:
        problem = "add_generation_prompt and continue_final_message are both true"
        raise ArgumentError(f"{problem}; the last message goes on, or a turn begins: say one")
    return ChatOptions(variables, _tools(tools), add_generation_prompt, continue_final_message)


def _tools(tools: Any) -> Sequence[Mapping[str, Any]] | None:
    if tools is None:
        return None
    several = isinstance(tools, Sequence) and not isinstance(tools, str)
    if not several or not all(isinstance(tool, Mapping) for tool in tools):
        problem = f"tools are {quoted(tools)}"
        cure = 'give a list: [{"type": "function", "function": {"name": …, "parameters": {…}}}]'
        raise ArgumentError(f"{problem}; {cure}")
    return tools or None


def knows(template: str, name: str) -> bool:
    """Whether a chat template reads a variable."""
    return re.search(rf"\b{re.escape(name)}\b", template) is not None


def check_variables(options: ChatOptions, templates: Iterable[str]) -> None:
    """Refuse what no template of a formula would read.

    Raises:
        ModelError: names it.
    """
    known = [*templates]
    for name in (*options.chat_template_kwargs, *([] if options.effort in USUAL else [EFFORT])):
        if not any(knows(template, name) for template in known):
            read = {word for each in known for word in re.findall(r"\b[a-z]\w*_\w+\b", each)}
            cure = did_you_mean(name, read)
            cure = cure if cure.endswith("?") else "leave it out, or give template: … that does"
            raise ModelError(f"no chat template of the formula's models reads {name}", cure)


def as_templates_want(messages: Messages) -> list[Mapping[str, Any]]:
    """Messages with a content each; the arguments of tool calls are objects, as templates want."""
    read: list[Mapping[str, Any]] = []
    for number, message in enumerate(messages):
        if isinstance(message, Mapping) and message.get("tool_calls"):
            calls = [_with_object(number, call) for call in message["tool_calls"]]
            content = message.get("content")
            message = {
                **message,
                "content": "" if content is None else content,
                "tool_calls": calls,
            }
        read.append(message)
    return read


def _with_object(number: int, call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        problem = f"message {number} has a tool call whose arguments are no JSON object"
        raise ModelError(problem, 'write "arguments": "{…}"')
    return {**call, "function": {**function, "arguments": arguments}}
