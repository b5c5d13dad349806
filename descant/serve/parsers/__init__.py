"""What an answer's text holds besides content: thoughts, and calls of tools.

``FORMATS`` are the formats of tool calls by vLLM's names of their parsers. A parser reads the text
as it comes, and what it makes of it does not depend on how the text is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .events import Grammar, Parser
from .forced import named_call, required_calls
from .hermes import hermes
from .llama import llama3_json
from .message import MessageParser, reasoning
from .mistral import mistral


@dataclass(frozen=True)
class CallFormat:
    """How a family of models writes the calls of tools.

    Attributes:
        grammar: reads them.
        marks: names of tokens that it needs in the text, though they may be special.
        found: whether a chat template asks for this format.
        id_length: characters of a call's id, where templates count them.
    """

    grammar: Grammar
    marks: tuple[str, ...]
    found: Callable[[str], bool]
    id_length: int | None = None


FORMATS: Mapping[str, CallFormat] = {
    "hermes": CallFormat(
        hermes,
        ("<tool_call>", "</tool_call>"),
        lambda template: "<tool_call>" in template and "<function=" not in template,
    ),
    "mistral": CallFormat(
        mistral,
        ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
        lambda template: "[TOOL_CALLS]" in template,
        9,
    ),
    "llama3_json": CallFormat(
        llama3_json,
        ("<|python_tag|>",),
        lambda template: '{"name": function name, "parameters"' in template,
    ),
}


REASONING: Mapping[str, tuple[str, str]] = {  # marks of thought, by vLLM's names of their parsers
    **dict.fromkeys(
        (
            "deepseek_r1",
            "qwen3",
            "glm45",
            "hunyuan_a13b",
            "ernie45",
            "step3",
            "olmo3",
            "minimax_m2",
        ),
        ("<think>", "</think>"),
    ),
    "mistral": ("[THINK]", "[/THINK]"),
    "seed_oss": ("<seed:think>", "</seed:think>"),
    "kimi_k2": ("◁think▷", "◁/think▷"),
}


def format_of(template: str) -> str | None:
    """The format of tool calls that a chat template asks for; None where it asks for none known."""
    return next((name for name, each in FORMATS.items() if each.found(template)), None)


__all__ = [
    "FORMATS",
    "REASONING",
    "CallFormat",
    "MessageParser",
    "Parser",
    "format_of",
    "named_call",
    "reasoning",
    "required_calls",
]
