"""Servers for tests: the real application under a real uvicorn, on a free port.

``listening`` has the event loop in a thread of the tests' process, and ``started`` is the command;
both decode in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import openai
import pytest

from descant.inputs.runfile import RunFile
from descant.serve.frontend import worker_link
from descant.serve.frontend.server import Server
from descant.serve.http.process import HttpServer
from descant.serve.protocol.limits import Limits

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "serve.yaml"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
KEYS = ("a key", "a long secret")  # of the server ``strict``
Command = subprocess.Popen[str]
SERVE = (sys.executable, "-m", "descant", "serve")
COMMAND = (*SERVE, str(FILE), "--port", "0")


# A schema that the servers' run file declares.
YARD = {
    "type": "object", "additionalProperties": False, "required": ["name", "hens"],
    "properties": {"name": {"type": "string", "maxLength": 6}, "hens": {"enum": [0, 1, 2, 3]}},
    "x-guidance": {"whitespace_flexible": False},
}  # fmt: skip


@dataclass(frozen=True)
class Served:
    """A server that listens.

    Attributes:
        url: where.
        server: what it serves.
        process: the uvicorn that does.
    """

    url: str
    server: Server
    process: HttpServer

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)

    def asynchronous(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=60, **options)

    def metric(self, line: str) -> float:
        """The value of a line of /metrics."""
        for said in self.server.metrics.text().decode().splitlines():
            if said.startswith(f"{line} "):
                return float(said.rpartition(" ")[2])
        return 0.0

    def wait(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until something is so."""
        wait(condition, seconds)

    def idle(self) -> bool:
        """Whether nobody asks for anything, and nothing is decoded."""
        return not self.server.busy and self.metric("descant_num_requests_running") == 0


def wait(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


DECODERS = forkserver.ForkServer()  # where torch is imported once, and not for each server
DECODERS.set_forkserver_preload(
    ["descant.serve.worker.jobs", "descant.async_service", "transformers.modeling_utils"]
)


def forked(start: Callable[[Any], Any], message: Any) -> Any:
    """Start a decode process as a fork; the command spawns it."""
    with (
        mock.patch.object(worker_link, "START_METHOD", "forkserver"),
        mock.patch.object(forkserver, "connect_to_new_process", DECODERS.connect_to_new_process),
    ):
        return start(message)


@contextlib.contextmanager
def listening(run: RunFile, limits: Limits, forks: bool = True, **more: Any) -> Iterator[Served]:
    """A server that listens, until the end of this.

    Its decode process is spawned, as the command's, unless it ``forks``: then it starts at once,
    and what it logs is not captured.
    """
    server = Server(run, limits, **more)
    if forks:
        server.link.start = partial(forked, server.link.start)
    server.start()
    process = HttpServer(server, host="127.0.0.1", port=0, log_level="warning")
    thread = threading.Thread(target=process.run)
    thread.start()
    while not process.started:
        time.sleep(0.01)
    try:
        yield Served(f"http://127.0.0.1:{process.port}", server, process)
    finally:
        process.should_exit = True
        thread.join()
        server.stop()


@contextlib.contextmanager
def started(
    *options: str, code: int = -signal.SIGTERM, file: Path = FILE
) -> Iterator[tuple[str, Command]]:
    """A server's address and its process, which ends with this at the latest, with a code.

    The process leads a group of its own, as one that a shell has started.
    """
    process = subprocess.Popen(
        [*SERVE, str(file), "--port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=ENVIRONMENT,
    )
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"running on (http://[\d.:]+)", line):
                break
        else:
            pytest.fail("".join(said))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # so that it can write
        yield found[1], process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == code
    finally:
        process.kill()
        process.wait()


def children(process: int) -> list[int]:
    """The processes that one has started, and that have not ended."""
    found = Path(f"/proc/{process}/task/{process}/children")
    return [int(one) for one in found.read_text().split()] if found.exists() else []


def decoding(process: int) -> int | None:
    """The process that decodes for a server, as soon as it is there."""
    for one in children(process):
        if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes():
            return one
    return None


def alive(process: int) -> bool:
    """Whether a process has not ended."""
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def spent(process: int) -> float:
    """Seconds of a processor that a process has used."""
    used = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")
