"""The process that talks to clients, the one that decodes, what each does as the other dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import COMMAND, ENVIRONMENT, alive, children, decoding, started, wait

from descant.failures import MISTAKE, STOPPED
from descant.serve.frontend.server import Server

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
PATH = "/v1/completions"
LONG = {"model": "base", "prompt": "How do I boil eggs?", "max_tokens": 200, "seed": 0}
SLOTS = ("--slots", "1")


def streamed(url: str, rows: int) -> Any:
    """A stream of rows, one after the other, of which the first piece has come."""
    body = {**LONG, "n": rows, "stream": True}
    stream = httpx.stream("POST", url + PATH, json=body, timeout=60)
    lines = stream.__enter__().iter_lines()
    next(lines)
    return stream, lines


def last(lines: Any) -> Any:
    """The last event of a stream before its end."""
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events[-1] == "[DONE]"
    return json.loads(events[-2])


@linux
def test_a_decode_process_that_is_killed_is_said_to_all() -> None:
    with started(*SLOTS, code=1) as (url, process):
        decoder = decoding(process.pid)
        maps = [Path(f"/proc/{one}/maps").read_text() for one in (process.pid, decoder)]
        assert ["libtorch" in one for one in maps] == [False, True]
        _, lines = streamed(url, rows=32)
        failed: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: failed.append(httpx.post(url + PATH, json={**LONG, "n": 32}, timeout=60))
        )
        asking.start()
        waits = re.compile(r"descant_num_requests_waiting (\d+)")
        wait(lambda: int(waits.search(httpx.get(f"{url}/metrics").text)[1]) >= 32)
        os.kill(decoder, signal.SIGKILL)
        assert "its log says why" in last(lines)["error"]["message"]
        asking.join()
        assert failed[0].status_code == 500 and failed[0].json()["error"]["code"] == "server_error"
        process.wait(20)


def test_health_says_that_nothing_decodes(run_file) -> None:
    from starlette.testclient import TestClient

    from descant.serve.http.app import application

    server = Server(run_file)
    client = TestClient(application(server))
    assert client.get("/health").status_code == 200
    server.link._fail("was ended by SIGKILL")
    assert client.get("/health").status_code == 503
    found = client.post(PATH, json=LONG)
    assert found.status_code == 500 and found.json()["error"]["code"] == "server_error"


@linux
def test_a_decode_process_ends_with_its_parent() -> None:
    with started(*SLOTS, code=-signal.SIGKILL) as (url, process):
        helpers = children(process.pid)
        _stream = streamed(url, rows=32)
        process.kill()
        wait(lambda: not any(map(alive, helpers)), 10)


@linux
def test_ctrl_c_finishes_what_is_in_flight() -> None:
    with started(*SLOTS, code=STOPPED) as (url, process):
        helpers = children(process.pid)
        _, lines = streamed(url, rows=3)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        ended = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        reasons = [one["choices"][0]["finish_reason"] for one in ended]
        assert sum(reason is not None for reason in reasons) == 3
        process.wait(20)
        wait(lambda: not any(map(alive, helpers)), 2)


@pytest.fixture
def starting() -> Iterator[subprocess.Popen[str]]:
    """The command, as soon as it has started its decode process."""
    process = subprocess.Popen(
        COMMAND, stderr=subprocess.PIPE, text=True, start_new_session=True, env=ENVIRONMENT
    )
    try:
        wait(lambda: decoding(process.pid) is not None)
        yield process
    finally:
        process.kill()
        process.wait()


@linux
def test_a_decode_process_that_is_killed_while_it_starts(starting) -> None:
    os.kill(decoding(starting.pid), signal.SIGKILL)
    _, said = starting.communicate(timeout=10)
    assert starting.returncode == MISTAKE and "Traceback" not in said
    assert "was ended by SIGKILL before it was ready" in said and "memory" in said


@linux
@pytest.mark.parametrize("seconds", [0, 2])
def test_ctrl_c_while_it_starts(starting, seconds) -> None:
    time.sleep(seconds)
    helpers = children(starting.pid)
    os.killpg(starting.pid, signal.SIGINT)
    _, said = starting.communicate(timeout=10)
    assert starting.returncode == STOPPED and "Traceback" not in said
    wait(lambda: not any(map(alive, helpers)), 2)
