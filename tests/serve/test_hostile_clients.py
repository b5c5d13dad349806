"""Clients that mean no good: whatever they send, the server answers in its shape and stays well."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from descant.serve.http import connection as http_connection
from descant.serve.http import guard

PATHS = {
    "/v1/completions": {"model": "arms", "prompt": "x", "max_tokens": 1},
    "/v1/chat/completions": {
        "model": "base", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}],
    },
    "/v1/score": {"model": "reward_help", "text_1": "x", "text_2": ["y"]},
    "/playground/check": {"formula": "base + a*arm_help", "declared": {"a": 1}},
}  # fmt: skip
FIELDS = (
    "model", "prompt", "messages", "params", "max_tokens", "temperature", "top_p", "n", "seed",
    "stop", "stream", "stream_options", "logprobs", "text_1", "text_2", "formula", "declared",
)  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(
    ["base", "arms", "base + a*arm_help", "base +", "nobody", "\ud800", "user", "text"]
)
NUMBERS = st.integers(-4, 4) | st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400, 1e308, -0.0])
LEAVES = (
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=True, allow_infinity=True) | TEXTS
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXTS | st.sampled_from(["role", "content", "type", "a"]), inner,
                          max_size=4)
    ),
    max_leaves=6,
)  # fmt: skip


def error_of(answer: httpx.Response) -> dict[str, Any] | None:
    """The error of an answer, which is short and of the known shape; none where all is well."""
    if answer.status_code == 200:
        return None
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/json" and len(answer.content) < 4096
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"} and set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"] in ("invalid_request_error", "permission_error")
    return error


@settings(
    max_examples=250, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    path=st.sampled_from([*PATHS]),
    changes=st.dictionaries(st.sampled_from(FIELDS) | TEXTS, VALUES, max_size=3),
)
def test_no_body_breaks_it(served, path, changes) -> None:
    body = json.dumps({**PATHS[path], **changes})
    headers = {"content-type": "application/json"}
    error_of(CLIENT.post(f"{served.url}{path}", content=body, headers=headers))


CLIENT = httpx.Client(timeout=60)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": [""] * 250_000}, {"prompt": [-1] * 250_000}, {"prompt": [[]] * 250_000},
        {"prompt": [{}] * 250_000}, {"prompt": [1] * 300_000 + ["x"]}, {"stop": [""] * 250_000},
        {f"f{i}": 1 for i in range(70_000)}, {"params": {f"f{i}": "" for i in range(70_000)}},
        {"messages": [{}] * 250_000}, {"prompt": ["x"] * 10_000}, {"model": "x" * 1_000_000},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_body_that_is_wrong_a_thousand_times_is_refused_at_once(served, change) -> None:
    path = "/v1/chat/completions" if "messages" in change else "/v1/completions"
    content = json.dumps({**PATHS[path], **change})
    start = time.perf_counter()
    answer = CLIENT.post(
        f"{served.url}{path}", content=content, headers={"content-type": "application/json"}
    )
    assert error_of(answer) and time.perf_counter() - start < 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"prompt": "\xff"}', "not JSON in UTF-8"),
        (b"[" * 500_000, "nested too deeply"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"prompt": "x"} more', "Extra data, at character 16"),
    ],
)
def test_what_is_no_json_is_said(served, content, says) -> None:
    headers = {"content-type": "application/json"}
    answer = CLIENT.post(f"{served.url}/v1/completions", content=content, headers=headers)
    error = error_of(answer)
    assert says in error["message"] and error["code"] == "invalid_json"


def test_a_site_that_takes_the_address_of_this_machine_for_its_own(served) -> None:
    for host, status in (
        ("example.org", 403), ("example.org:8000", 403), ("localhost.example.org", 403),
        ("localhost", 200), ("LOCALHOST.:80", 200), ("127.0.0.1:1", 200), ("[::1]:80", 200),
    ):  # fmt: skip
        for path in ("/", "/v1/models", "/playground/known"):
            answer = CLIENT.get(f"{served.url}{path}", headers={"host": host})
            assert answer.status_code == status, (host, path)
            assert status == 200 or error_of(answer)["code"] == "unknown_host"


def connected(served: Any) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(20)
    return connection


def told(connection: socket.socket) -> bytes:
    """All that the server says until it hangs up."""
    heard = b""
    try:
        while data := connection.recv(1 << 16):
            heard += data
    except ConnectionResetError:
        pass
    return heard


def test_silent_connections_are_closed(served, monkeypatch) -> None:
    monkeypatch.setattr(http_connection, "HEAD_TIMEOUT", 0.3)
    crowd = [connected(served) for _ in range(100)]
    slow = connected(served)
    for letter in b"GET /health":
        slow.sendall(bytes([letter]))
        time.sleep(0.02)
    for connection in (*crowd, slow):
        assert told(connection) == b""
        connection.close()


def test_a_connection_that_asks_is_kept(served, monkeypatch) -> None:
    monkeypatch.setattr(http_connection, "HEAD_TIMEOUT", 0.2)
    with connected(served) as connection:
        for _ in range(3):
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            time.sleep(0.15)
    body = {"model": "base", "prompt": "x", "max_tokens": 200, "stream": True, "stop": "\0"}
    monkeypatch.setattr(http_connection, "HEAD_TIMEOUT", 0.05)
    start = time.perf_counter()
    with httpx.stream("POST", f"{served.url}/v1/completions", json={**body, "n": 16}) as stream:
        assert [*stream.iter_lines()][-2] == "data: [DONE]"
    assert time.perf_counter() - start > 0.05


def test_a_head_has_a_size(served) -> None:
    with connected(served) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: ")
        try:
            for _ in range(400):
                connection.sendall(b"x" * 65536)
        except OSError:
            pass
        else:
            pytest.fail("26 MB of a header were taken")


@pytest.mark.parametrize(
    "said",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
     b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_answered_in_the_same_shape(served, said) -> None:
    with connected(served) as connection:
        connection.sendall(said)
        head, _, body = told(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") and b"application/json" in head
    assert json.loads(body)["error"]["code"] == "invalid_http"


def test_a_body_may_not_trickle_for_ever(served, monkeypatch) -> None:
    monkeypatch.setattr(guard, "BODY", 0.4)
    with connected(served) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: 1000\r\n\r\n"
        )
        for _ in range(8):
            connection.sendall(b" ")
            time.sleep(0.1)
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_it_is_well_after_all_this(served, offline) -> None:
    served.wait(lambda: not served.server.busy)
    found = served.post("/v1/completions", {**PATHS["/v1/completions"], "temperature": 0})
    assert found.json()["choices"][0]["text"] == offline("arms", "x", max_new_tokens=1)[0].text
    assert (
        served.metric("descant_num_requests_running")
        == served.metric("descant_num_requests_waiting")
        == 0
    )
