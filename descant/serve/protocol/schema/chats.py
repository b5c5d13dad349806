"""The body of ``/v1/chat/completions``."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, model_validator

from ....errors import DescantError
from ....models.text.chat_options import ChatOptions, chat_options
from ....runtime.constraints.spec import Constraint
from .fields import IGNORED, NonEmpty, few_fields, refuse
from .generation import GenerationRequest
from .messages import ImageMessage
from .prompts import Top
from .tools import Choice, NamedTool, Tools, forced_constraint, shallow

_CHOICE = "it is called tool_choice now: write tools, and tool_choice"
_NO_TEMPLATE = refuse("templates are the models' own; template: … is written in the run file")


class ChatRequest(GenerationRequest):
    """The body of ``/v1/chat/completions``."""

    messages: NonEmpty[ImageMessage]
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, BeforeValidator(few_fields), AfterValidator(shallow)
    ] = None
    chat_template: Annotated[Any, _NO_TEMPLATE] = None
    tools: Tools | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    include_reasoning: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    functions: Annotated[Any, refuse("they are called tools now: write tools", [])] = None
    function_call: Annotated[Any, refuse(_CHOICE, "none", "auto")] = None
    modalities: Annotated[Any, refuse("answers are text; leave it out", ["text"])] = None
    audio: Annotated[Any, refuse("answers are text; leave it out")] = None
    verbosity: Annotated[Any, IGNORED] = None
    prediction: Annotated[Any, IGNORED] = None
    web_search_options: Annotated[Any, IGNORED] = None

    @model_validator(mode="after")
    def _check_ending(self) -> ChatRequest:
        if [message.role for message in self.messages[-2:]] == ["assistant"] * 2:
            raise ValueError("the last two messages are the assistant's; make them one")
        if self.continue_final_message and not self.messages[-1].plain()["content"]:
            raise ValueError("the last message is empty; leave continue_final_message out")
        try:
            chat_options(*self._template_options)
        except DescantError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _check_tools(self) -> ChatRequest:
        choice = self.choice
        if not self.tools:
            if choice != "none" and self.tool_choice not in (None, "auto"):
                raise ValueError("tool_choice names a tool, and there are no tools; give tools")
            return self
        if isinstance(choice, NamedTool):
            names = [tool["function"]["name"] for tool in self.sent_tools]
            if choice.function.name not in names:
                problem = f"tool_choice is {choice.function.name}, which is no tool"
                raise ValueError(f"{problem}; there are {', '.join(names)}")
        if choice not in ("none", "auto"):
            if self.structured_outputs or self.response_format:
                name = "response_format" if self.response_format else "structured_outputs"
                raise ValueError(f"tool_choice asks for a call, and {name} for text; leave one out")
            forced_constraint(self.sent_tools, choice, self.parallel)
        return self

    @model_validator(mode="after")
    def _check_top_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs come with logprobs: true")
        return self

    @property
    def best(self) -> int:
        return self.top_logprobs or 0

    @property
    def prompts(self) -> list[Any]:
        """The one prompt: messages."""
        return [[message.plain() for message in self.messages]]

    @property
    def sent_tools(self) -> list[Any]:
        """The tools as they were sent, mappings that templates write."""
        return list(self.tools or ())

    @property
    def choice(self) -> str | NamedTool:
        """Which tools are called."""
        return self.tool_choice or ("auto" if self.tools else "none")

    @property
    def parallel(self) -> bool:
        """Whether an answer may call several tools."""
        return self.parallel_tool_calls is not False

    @property
    def constraint(self) -> Constraint | None:
        """What the answer is: a call, where one is forced."""
        forced = forced_constraint(self.sent_tools, self.choice, self.parallel)
        return forced or super().constraint

    @property
    def options(self) -> ChatOptions:
        """How the messages are written."""
        return replace(chat_options(*self._template_options), effort=self.reasoning_effort)

    @property
    def _template_options(self) -> tuple[Any, ...]:
        ending = self.add_generation_prompt, self.continue_final_message
        return self.chat_template_kwargs, self.sent_tools or None, *ending

    @property
    def echoed(self) -> list[str | None] | None:
        """What the answer is echoed with: the message that it continues."""
        last = self.messages[-1].plain()
        return [last["content"] if last["role"] == "assistant" else ""] if self.echo else None
