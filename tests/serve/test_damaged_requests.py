"""Bodies of requests under everything that ``tests/faults`` does to a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.append(str(Path(__file__).parents[1] / "faults"))

from bad_files import Reader, failures
from readers import file_of

from descant.errors import ArgumentError

BODIES: dict[str, Any] = {
    "/v1/completions": {
        "model": "arms", "prompt": "x", "max_tokens": 1, "temperature": 0, "params": {"a": 0.5},
        "stop": ["z"], "logprobs": 1, "seed": 0, "n": 1, "top_p": 1.0, "echo": True,
    },
    "/v1/chat/completions": {
        "model": "base", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1,
        "temperature": 0, "logprobs": True, "top_logprobs": 1,
    },
    "/v1/responses": {
        "model": "base", "input": [{"role": "user", "content": "x"}], "max_output_tokens": 1,
        "text": {"format": {"type": "text"}}, "include": [], "seed": 0,
    },
    "/tokenize": {"model": "base", "prompt": "x", "add_special_tokens": False},
    "/detokenize": {"model": "base", "tokens": [5]},
    "/v1/score": {"model": "reward_help", "text_1": "x", "text_2": ["y"]},
    "/playground/check": {"formula": "base + a*arm_help", "declared": {"a": 1}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("path", BODIES)
def test_a_damaged_body_is_refused_in_words(served: Any, tmp_path: Path, path: str) -> None:
    client = httpx.Client(timeout=60)

    def post(file: Path) -> Any:
        try:
            body = file.read_bytes() if file.is_file() else b""
        except PermissionError:
            body = b""
        headers = {"content-type": "application/json"}
        answer = client.post(f"{served.url}{path}", content=body, headers=headers)
        if answer.status_code == 200:
            found = answer.json()
            return [
                found.get(key) for key in ("choices", "data", "params", "error", "status", "tokens")
            ]
        assert 400 <= answer.status_code < 500, answer.text[:300]
        assert len(answer.content) < 4096
        raise ArgumentError(f"{file}: {answer.json()['error']['message']}")

    reader = Reader(path, file_of("body.json", BODIES[path]), post, keys=True)
    wrong, _ = failures(reader, tmp_path)
    assert not wrong, "\n".join(wrong[:20])
