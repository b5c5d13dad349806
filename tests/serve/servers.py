"""Servers for tests: the real application under a real uvicorn, on a free port."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from descant.runfile import RunFile
from descant.serve.limits import Limits
from descant.serve.process import Process
from descant.serve.server import Server

FILE = Path(__file__).parents[2] / "examples" / "serve.yaml"


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
    process: Process

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)

    def asynchronous(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=60, **options)

    def metric(self, line: str) -> float:
        """The value of a line of /metrics."""
        for said in self.server.meters.text().decode().splitlines():
            if said.startswith(f"{line} "):
                return float(said.rpartition(" ")[2])
        return 0.0

    def wait(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.005)


@contextlib.contextmanager
def listening(run: RunFile, limits: Limits, **more: Any) -> Iterator[Served]:
    """A server that listens, until the end of this."""
    server = Server(run, limits, **more)
    server.start()
    process = Process(server, host="127.0.0.1", port=0, log_level="warning")
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
