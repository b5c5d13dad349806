"""Keys, queues, sizes, times and departures: what a server does to stay in good order."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from servers import KEYS

from descant.inputs.runfile import RunFile
from descant.serve.frontend.server import Server
from descant.serve.protocol.messages import Cancel, Compile, Forget, StepCounts

PATH = "/v1/completions"
LONG = {"model": "base", "prompt": "How do I boil eggs?", "max_tokens": 150, "temperature": 0,
        "stop": ["\0"]}  # fmt: skip
AUTH = {"authorization": f"Bearer {KEYS[1]}"}


def error_of(response: httpx.Response) -> dict[str, Any]:
    return response.json()["error"]


def test_only_those_with_a_key_come_in(strict) -> None:
    for headers in ({}, {"authorization": "Bearer akey"}, {"authorization": "Basic a key"},
                    {"authorization": "Bearer"}, {"authorization": "Bearer a keyy"}):  # fmt: skip
        for path in ("/v1/models", "/metrics", "/v1/nothing"):
            found = httpx.get(strict.url + path, headers=headers)
            assert found.status_code == 401 and error_of(found)["code"] == "invalid_api_key"
            assert found.headers["www-authenticate"] == "Bearer"
        assert strict.post(PATH, LONG, headers=headers).status_code == 401
    assert httpx.get(f"{strict.url}/health").json() == {"status": "ok"}
    for key in KEYS:
        assert strict.client(key).models.list().data
    with pytest.raises(openai.AuthenticationError):
        strict.client("no key").models.list()


def test_a_body_has_a_size(strict) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b" " * 1000] * 5

    headers = {"content-type": "application/json", **AUTH}
    for content in (b" " * 5000, chunks()):
        found = httpx.post(strict.url + PATH, content=content, headers=headers)
        assert found.status_code == 413 and "larger" in error_of(found)["message"]
    assert httpx.post(strict.url + PATH, content=b" " * 5000).status_code == 401


def test_other_formulas_are_not_models_unless_they_are_allowed(strict) -> None:
    with pytest.raises(openai.NotFoundError) as found:
        strict.client(KEYS[0]).completions.create(model="base + base", prompt="x")
    assert found.value.code == "model_not_found"
    assert "arms, base, best, safe" in found.value.body["message"]


def raw(strict: Any, body: bytes, length: int) -> socket.socket:
    """A request by hand, of which the body may be cut short."""
    host, port = strict.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {KEYS[1]}\r\ncontent-length: {length}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def hurry(strict: Any, monkeypatch: Any, seconds: float) -> None:
    """Give every request so many seconds."""
    monkeypatch.setattr(strict.server, "limits", replace(strict.server.limits, timeout=seconds))


def test_a_body_that_does_not_come(strict, monkeypatch) -> None:
    hurry(strict, monkeypatch, 0.3)
    with raw(strict, b"{", 100) as connection:
        connection.settimeout(20)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_what_takes_too_long_ends(strict, monkeypatch) -> None:
    hurry(strict, monkeypatch, 0.3)
    found = strict.post(PATH, LONG, headers=AUTH)
    assert found.status_code == 504 and error_of(found)["code"] == "timeout"
    assert found.headers["x-should-retry"] == "false"
    with pytest.raises(openai.APIError, match=r"not done in 0\.3 seconds"):
        list(strict.client(KEYS[0]).completions.create(**LONG, stream=True))
    strict.wait(strict.idle)
    outcome = 'descant_requests_total{endpoint="/v1/completions",outcome="timeout"}'
    assert strict.metric(outcome) == 2


@pytest.fixture
def held(strict, monkeypatch) -> list[int]:
    """Slots in use after each step, as they are told."""
    found: list[int] = []
    count = strict.server.metrics.count

    def counted(counts: StepCounts) -> None:
        found.append(counts.running)
        count(counts)

    monkeypatch.setattr(strict.server.metrics, "count", counted)
    return found


@pytest.fixture
def sent(monkeypatch) -> Callable[[Any], list[Any]]:
    """``sent(server)``: the messages that it sends from now on."""

    def watch(server: Any) -> list[Any]:
        found: list[Any] = []
        send = server.server.link.send

        def sending(message: Any, number: int | None = None) -> None:
            found.append(message)
            send(message, number)

        monkeypatch.setattr(server.server.link, "send", sending)
        return found

    return watch


async def leaves(strict: Any, body: dict[str, Any], when: Any) -> None:
    """Ask for something, and leave before the answer is there."""
    async with httpx.AsyncClient() as client:
        asking = client.stream("POST", strict.url + PATH, json=body, headers=AUTH, timeout=60)

        async def ask() -> None:
            async with asking as response:
                async for _ in response.aiter_lines():
                    pass

        task = asyncio.create_task(ask())
        while not when():
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait((task,))


@pytest.mark.parametrize("stream", [True, False])
def test_a_slot_is_free_as_soon_as_its_client_left(strict, held, sent, stream) -> None:
    strict.wait(strict.idle)
    other = strict.client(KEYS[0]).completions.create(**LONG, stream=True)
    for _ in range(3):
        next(other)
    assert held[-1] == 1
    messages = sent(strict)
    asyncio.run(leaves(strict, {**LONG, "stream": stream}, lambda: held[-1] == 2))
    strict.wait(lambda: held[-1] == 1)
    [number] = [one.number for one in messages if isinstance(one, Cancel)]
    assert number not in strict.server.link._streams
    assert held.count(2) < LONG["max_tokens"] / 2 and strict.server.busy
    other.close()
    strict.wait(strict.idle)
    outcome = 'descant_requests_total{endpoint="/v1/completions",outcome="disconnected"}'
    assert strict.metric(outcome) >= 1


def test_a_full_queue_says_when_to_come_back(strict) -> None:
    strict.wait(strict.idle)
    client = strict.client(KEYS[1])
    streams = [client.completions.create(**LONG, stream=True) for _ in range(4)]
    found = strict.post(PATH, LONG, headers=AUTH)
    assert found.status_code == 429 and error_of(found)["type"] == "rate_limit_error"
    assert int(found.headers["retry-after"]) >= 1
    assert strict.metric("descant_num_requests_waiting") == 2
    too_many = strict.post(PATH, {**LONG, "n": 5}, headers=AUTH)
    assert too_many.status_code == 400 and "5 rows" in error_of(too_many)["message"]
    for stream in streams[1:]:  # one that decodes, and two that wait
        stream.close()
    strict.wait(lambda: strict.metric("descant_num_requests_running") == 1)
    assert strict.metric("descant_num_requests_waiting") == 0
    assert strict.post(PATH, {**LONG, "max_tokens": 2}, headers=AUTH).status_code == 200
    streams += [client.completions.create(**LONG, stream=True) for _ in range(3)]
    threading.Timer(0.3, lambda: [stream.close() for stream in streams]).start()
    patient = client.with_options(max_retries=4)  # it comes back when it was told to
    assert patient.completions.create(**{**LONG, "max_tokens": 2}).choices


def test_a_client_that_leaves_at_once_leaves_nothing(strict) -> None:
    strict.wait(strict.idle)
    body = b'{"model": "base", "prompt": "x", "max_tokens": 150, "stream": true}'
    for wait in (0, 0, 0.01, 0.02, 0.05, 0.1):
        with raw(strict, body, len(body)):
            time.sleep(wait)
    strict.wait(strict.idle)
    assert strict.metric("descant_num_requests_waiting") == 0
    assert not strict.server.link._streams and not strict.server.link._replies


def test_metrics_count(strict) -> None:
    strict.wait(strict.idle)
    names = ("prompt_tokens_total", "generation_tokens_total", "time_to_first_token_seconds_count",
             "inter_token_latency_seconds_count", "step_seconds_count",
             'requests_total{endpoint="/v1/completions",outcome="ok"}',
             'e2e_request_latency_seconds_count{endpoint="/v1/completions"}')  # fmt: skip
    before = [strict.metric(f"descant_{name}") for name in names]
    found = strict.post(PATH, {**LONG, "max_tokens": 7, "n": 2, "temperature": 1}, headers=AUTH)
    prompt = found.json()["usage"]["prompt_tokens"]
    strict.wait(lambda: strict.metric(f"descant_{names[-1]}") > before[-1])
    after = [strict.metric(f"descant_{name}") for name in names]
    rises = [new - old for new, old in zip(after, before, strict=True)]
    assert rises[:4] == [prompt, 14, 2, 12] and rises[5:] == [1, 1] and 7 <= rises[4] <= 10
    text = httpx.get(f"{strict.url}/metrics", headers=AUTH)
    assert text.headers["content-type"].startswith("text/plain") and "# HELP" in text.text
    assert strict.metric("descant_slots") == 2


def test_compiled_formulas_come_and_go(served, sent) -> None:
    messages, most = sent(served), served.server.limits.max_formulas

    def held() -> int:
        compiled = [one.formula for one in messages if isinstance(one, Compile)]
        forgotten = [one.formula for one in messages if isinstance(one, Forget)]
        return len({*compiled} - {*forgotten})

    for i in range(most + 3):
        found = served.post(PATH, {"model": f"base + {i}*arm_help", "prompt": "x", "max_tokens": 1})
        assert found.status_code == 200
    served.wait(lambda: held() == most)
    again = served.post(PATH, {"model": "(base)+ 0 * arm_help", "prompt": "x", "max_tokens": 1})
    assert again.status_code == 200
    assert served.post(PATH, {"model": "base + b*arm_help", "prompt": "x"}).status_code == 400
    own_params = {"model": "base + b*arm_help", "prompt": "x", "max_tokens": 1, "params": {"b": 1}}
    assert served.post(PATH, own_params).status_code == 200


def test_the_run_file_says_what_a_request_does_not(run_file) -> None:
    from descant.serve.protocol.schema import ChatRequest, CompletionRequest

    defaults = {"max_new_tokens": 9, "temperature": 0.5, "seed": 3, "stop_strings": ["x"],
            "num_return_sequences": 2}  # fmt: skip
    run = RunFile(**{**dict(run_file), "generate": defaults})
    chat = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    )
    for body in (CompletionRequest(model="m", prompt="x"), chat):
        silent = Server(run).arguments(body)[1]
        assert {name: silent[name] for name in defaults} == defaults
    full = CompletionRequest(
        model="m", prompt="x", max_tokens=4, temperature=0.0, seed=1, stop="y", n=1
    )
    _, spoken = Server(run).arguments(full)
    assert [spoken[name] for name in defaults] == [4, 0.0, 1, "y", 1]
    _, greedy = Server(RunFile(**{**dict(run_file), "generate": {"do_sample": False}})).arguments(
        CompletionRequest(model="m", prompt="x")
    )
    assert greedy["temperature"] == 0 and greedy["seed"] is None
