"""Shutdown: new requests are refused, and running ones are finished."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import httpx
import pytest
from servers import Served, listening

from descant.serve.protocol.limits import Limits

LONG = {"model": "base", "prompt": "How do I boil eggs?", "max_tokens": 200, "seed": 0, "n": 6,
        "stream": True}  # fmt: skip
LIMITS = {"slots": 2, "max_model_len": 256}


def go(served: Served) -> None:
    """What a signal does."""
    served.process.handle_exit(signal.SIGTERM, None)
    served.wait(lambda: served.server.stopping)


def texts(lines: list[str]) -> dict[int, str]:
    """The text of every choice of a stream, which has come to its end."""
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events[-1] == "[DONE]"
    found: dict[int, str] = {}
    for event in events[:-1]:
        [choice] = json.loads(event)["choices"]
        found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
    return found


def long_answer(served: Served) -> Iterator[str]:
    url = f"{served.url}/v1/completions"
    with httpx.stream("POST", url, json=LONG, timeout=120) as stream:
        yield from stream.iter_lines()


def test_what_is_in_flight_is_finished(run_file, offline) -> None:
    expected = offline(
        "base", LONG["prompt"], max_new_tokens=200, temperature=1.0, seed=0, num_return_sequences=6
    )
    with listening(run_file, Limits(**LIMITS)) as served:
        lines = long_answer(served)
        told = [next(lines)]
        go(served)
        assert httpx.get(f"{served.url}/health").status_code == 503
        late = served.post("/v1/completions", {**LONG, "n": 1})
        assert late.status_code == 503 and late.json()["error"]["code"] == "unavailable"
        told += lines
        assert texts(told) == {row: one.text for row, one in enumerate(expected)}
        with pytest.raises(httpx.TransportError):  # refused, or let in as the door closed
            for _ in range(200):
                httpx.get(f"{served.url}/health")


def test_it_does_not_wait_for_ever(run_file) -> None:
    with listening(run_file, Limits(**LIMITS, shutdown_timeout=0)) as served:
        lines = long_answer(served)
        told = [next(lines)]
        go(served)
        told += lines
    assert any("the server is shutting down" in line for line in told)
    assert not served.server.busy
