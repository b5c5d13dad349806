"""Chats and raw text for models with a chat template: what is read, and what the log says."""

from __future__ import annotations

from typing import Any

import pytest
from servers import listening

import descant
from descant.demo import models
from descant.inputs.runfile import RunFile, validated
from descant.serve.protocol.limits import Limits

EGGS = "How do I boil eggs?"
IDS = {"return_token_ids": True}
ARGUMENTS = {"max_tokens": 6, "temperature": 0, "extra_body": IDS}


@pytest.fixture(scope="module")
def run_file() -> RunFile:
    """``chat`` reads a text as a message, ``raw`` and ``other`` as it is."""
    base = models()["base"] | {"template": None}
    specs = {"chat": base | {"template": "chat"}, "raw": base, "other": base}
    formulas = {"chat": "chat", "raw": "raw", "two": "raw + 0.5*other"}
    return validated({"formulas": formulas, "models": specs}, "here")


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_a_server_of_chat_models(run_file, capfd) -> None:
    with listening(run_file, Limits(slots=2, max_model_len=256), forks=False) as served:
        client = served.client()

        def chat(model: str, messages: Any) -> list[int]:
            answer = client.chat.completions.create(model=model, messages=messages, **ARGUMENTS)
            return answer.choices[0].token_ids

        def text(model: str, prompt: str) -> list[int]:
            answer = client.completions.create(model=model, prompt=prompt, **ARGUMENTS)
            return answer.choices[0].token_ids

        user = message("user", EGGS)
        offline = descant.compile("chat", run_file.models)
        for role in ("developer", "system"):
            prompt = [message(role, "Be brief."), user]
            expected = offline.generate(prompt, max_new_tokens=6)[0].token_ids
            assert chat("chat", prompt) == chat("raw", prompt) == expected
        both = [message("system", "Be brief."), message("developer", "Be kind."), user]
        one = [message("system", "Be brief.\n\nBe kind."), user]
        assert chat("chat", both) == chat("chat", one)
        assert text("chat", EGGS) == chat("chat", [user])
        assert "text is read as it is" not in capfd.readouterr().err
        for model in ("raw", "raw", "two", "two"):
            text(model, EGGS)
    log = [line for line in capfd.readouterr().err.splitlines() if "text is read as it is" in line]
    assert [line.partition(":")[0] for line in log] == ["raw", "other"]
