"""A request that makes a step fail: it gets a 500, the others their tokens, and /health says it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from poisoned_server import POISON
from servers import ENVIRONMENT, FILE, wait

HERE = Path(__file__).parent
PATH = "/v1/completions"


@pytest.fixture
def poisoned(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server whose models cannot read a token, and its log."""
    log = tmp_path / "log"
    words = [sys.executable, HERE / "poisoned_server.py", "serve", FILE, "--port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen([*words, "--slots", "6"], stderr=file, env=ENVIRONMENT)
    pattern = re.compile(r"running on (http://[\d.:]+)")
    try:
        wait(lambda: bool(pattern.search(log.read_text())) or process.poll() is not None, 100)
        yield pattern.search(log.read_text())[1], log
    finally:
        process.terminate()
        process.wait(60)


def streamed(url: str, body: Any, started: threading.Event) -> tuple[str, list[str]]:
    """The text of a stream, and the errors in it."""
    text, errors = "", []
    with httpx.stream("POST", url + PATH, json={**body, "stream": True}, timeout=100) as stream:
        for line in stream.iter_lines():
            if not line or line == "data: [DONE]":
                continue
            said = json.loads(line.removeprefix("data: "))
            errors += [said["error"]] if "error" in said else []
            text += "".join(choice["text"] for choice in said.get("choices", ()))
            if text:
                started.set()
    return text, errors


def test_a_request_that_fails_ends_no_other(poisoned, offline) -> None:
    url, log = poisoned
    bodies = [
        {"model": "base", "prompt": "How do I boil eggs?", "max_tokens": 150, "seed": seed,
         "temperature": temperature}
        for seed, temperature in ((1, 0.0), (2, 1.0), (3, 1.0))
    ]  # fmt: skip
    expected = [
        offline("base", body["prompt"], max_new_tokens=150, seed=body["seed"],
                temperature=body["temperature"])[0]
        for body in bodies
    ]  # fmt: skip
    assert not any(POISON in completion.token_ids for completion in expected)
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    found: dict[int, Any] = {}
    threads, events = [], [threading.Event() for _ in bodies]
    for number, body in enumerate(bodies):

        def ask(number: int = number, body: Any = body) -> None:
            found[number] = streamed(url, body, events[number])

        threads.append(threading.Thread(target=ask))
        threads[-1].start()
    assert all(event.wait(60) for event in events)
    bad = {"model": "base", "prompt": [1, POISON, 8], "max_tokens": 5}
    answer = httpx.post(url + PATH, json=bad, timeout=60)
    for thread in threads:
        thread.join()
    assert answer.status_code == 500 and "operand" not in answer.text
    id = re.search(r"with the id ([0-9a-f]{32})$", answer.json()["error"]["message"])[1]
    assert [found[number] for number in range(3)] == [(each.text, []) for each in expected]
    health = httpx.get(f"{url}/health")
    assert health.status_code == 200
    said = health.json()
    assert said["status"] == "degraded" and said["failures"] == 1
    assert said["last_failure"]["id"] == id and said["last_failure"]["time"].startswith("20")
    _, [error] = streamed(url, bad, threading.Event())
    assert "with the id" in error["message"]
    assert httpx.get(f"{url}/health").json()["failures"] == 2
    lines = log.read_text()
    assert lines.count(f"a step has failed, id {id}") == 1
    trace = lines[lines.index(id) :]
    assert "Traceback" in trace and "unsupported operand of the poisoned model" in trace
    assert "in embedding" in trace
