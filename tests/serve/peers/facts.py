"""What the tests of vLLM, SGLang, llama.cpp and the openai client assert of a server of text.

A fact is what they assert, in our words and over the demo models: a function of a server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import openai
import pytest
from servers import Served

Fact: TypeAlias = Callable[[Served], None]
FACTS: dict[tuple[str, str], Fact] = {}  # by the peer and what it asserts
MODEL, EGGS = "base", "How do I boil eggs?"
CHAT: Any = [{"role": "user", "content": EGGS}]
IDS = [1, 421, 310, 316]


def fact(peer: str, *whats: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register what a peer asserts; where it asserts it of several, each is the last argument."""

    def register(check: Callable[..., None]) -> Callable[..., None]:
        for what in whats:
            assert (peer, what) not in FACTS, what
            FACTS[peer, what] = check if len(whats) == 1 else _bound(check, what)
        return check

    return register


def _bound(check: Callable[..., None], what: str) -> Fact:
    return lambda served: check(served, what)


def complete(served: Served, prompt: Any = EGGS, **fields: Any) -> Any:
    """A completion of the openai client; what it has no argument for is in ``extra``."""
    settings = {"model": MODEL, "max_tokens": 5, "temperature": 0.0, **fields}
    extra = settings.pop("extra", None)
    return served.client().completions.create(prompt=prompt, extra_body=extra, **settings)


def chat(served: Served, messages: Any = CHAT, **fields: Any) -> Any:
    """The same for chats."""
    settings = {"model": MODEL, "max_tokens": 5, "temperature": 0.0, **fields}
    extra = settings.pop("extra", None)
    create: Any = served.client().chat.completions.create
    return create(messages=messages, extra_body=extra, **settings)


def refused(check: Callable[..., Any], *arguments: Any, **fields: Any) -> str:
    """What a call is refused with, by 400."""
    with pytest.raises(openai.BadRequestError) as refusal:
        check(*arguments, **fields)
    return str(refusal.value)
