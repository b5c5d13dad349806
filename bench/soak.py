"""A server and decoders, left alone with a crowd: every answer is right, and nothing grows.

    python -m bench.soak --minutes 5        make soak MINUTES=5

``descant serve`` over the demo models, with formulas from strangers. Clients come and go: they
stream, wait, leave in the middle, bring formulas nobody has named, and send what is wrong. Every
answer is held against a decoder of this process, which has its formulas come and go too. Memory and
open files of both processes are read every second; at the end they are what they were after the
first third, or the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import descant
from bench.serving import FILE, resident, serving
from descant.demo import PROMPTS
from descant.inputs.runfile import read_run_file

CLIENTS, SLOTS, KEPT = 12, 6, 8  # KEPT: formulas, of the server's and of ours
GROWTH = 1.1  # of memory after the first third, at most
KINDS = (
    "base + {w}*arm_help",
    "base + {w}*arm_help + {v}*arm_harm",
    "base | top_k({k}) | temperature({w})",
    "mix({w}: base, {v}: arm_help)",
    "where(step < {k}, base, base + {w}*arm_harm)",
    "base + {w}*arm_harm | rerank(reward_harm, k={k}, w={v})",
    "base | best_of(reward_help, n={n})",
)
# What is refused: a body, and the status that it gets.
WRONG: tuple[tuple[Any, int], ...] = (
    ({"model": "base + nobody", "prompt": "x"}, 400),
    ({"model": "base + ", "prompt": "x"}, 400),
    ({"model": "nobody", "prompt": "x"}, 404),
    ({"model": "base", "prompt": "x", "max_tokens": -1}, 400),
    ({"model": "base", "prompt": "x" * 9000, "max_tokens": 8}, 400),
    ({"model": "base", "prompt": "x", "temperature": "hot"}, 400),
    ({"model": "base", "prompt": "x", "unknown": 1}, 400),
    ("no object", 400),
)


@dataclass
class Observed:
    """What has happened so far.

    Attributes:
        equal: answers that were the offline ones.
        wrong: what was not as it should be, in words.
        left: clients that left.
        refused: bodies that were refused as they should be.
        server, ours: bytes resident, with the seconds at which they were.
        files: open files of the server.
    """

    equal: int = 0
    left: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    server: list[tuple[float, int]] = field(default_factory=list)
    ours: list[tuple[float, int]] = field(default_factory=list)
    files: list[tuple[float, int]] = field(default_factory=list)


class Offline:
    """Answers of this process, whose formulas come and go like the server's."""

    def __init__(self) -> None:
        self._run = read_run_file(FILE)
        self._decoders: OrderedDict[str, descant.Decoder] = OrderedDict()
        self._lock = asyncio.Lock()  # one answer at a time

    async def token_ids(self, body: dict[str, Any]) -> list[int]:
        """The tokens of an answer."""
        async with self._lock:
            return await asyncio.to_thread(self._decoded, body)

    def _decoded(self, body: dict[str, Any]) -> list[int]:
        formula = body["model"]
        if formula not in self._decoders:
            named = self._run.named.get(formula, formula)
            self._decoders[formula] = descant.compile(
                named, self._run.models, params=self._run.params
            )
        self._decoders.move_to_end(formula)
        decoder = self._decoders[formula]
        while len(self._decoders) > KEPT:
            self._decoders.popitem(last=False)
        [completion] = decoder.generate(
            body["prompt"], max_new_tokens=body["max_tokens"], seed=body["seed"],
            temperature=body["temperature"], progress=False,
        )  # fmt: skip
        return list(completion.token_ids)


def body_at_random(draw: random.Random) -> dict[str, Any]:
    """A request: of a formula of the run file, or of one that nobody has named."""
    model = draw.choice(["arms", "safe", "best", "base"])
    if draw.random() < 0.4:
        model = draw.choice(KINDS).format(
            w=draw.choice([0.25, 0.5, 1, 1.5]), v=draw.choice([0.1, 0.7]), k=draw.randint(2, 12),
            n=draw.randint(2, 4),
        )  # fmt: skip
    return {
        "model": model, "prompt": draw.choice(PROMPTS)[: draw.randint(5, 80)],
        "temperature": draw.choice([0.0, 0.7, 1.0]), "seed": draw.randrange(2**31),
        "max_tokens": draw.randint(1, 32), "stream": draw.random() < 0.6, "return_token_ids": True,
    }  # fmt: skip


async def client(
    session: httpx.AsyncClient, url: str, draw: random.Random, offline: Offline,
    observed: Observed, done: Callable[[], bool],
) -> None:  # fmt: skip
    """One of the crowd, until the time is over."""
    endpoint = f"{url}/v1/completions"
    while not done():
        if draw.random() < 0.1:
            wrong, status = draw.choice(WRONG)
            answer = await session.post(endpoint, json=wrong)
            if answer.status_code == status and "error" in answer.json():
                observed.refused += 1
            else:
                observed.wrong.append(f"{wrong!s:.80} is answered with {answer.status_code}")
            continue
        body = body_at_random(draw)
        leaves = draw.randrange(1, 8) if body["stream"] and draw.random() < 0.2 else None
        found, ended = await _answer(session, endpoint, body, leaves)
        expected = await offline.token_ids(body)
        if not ended:
            observed.left += 1
            expected = expected[: len(found)]
        if found != expected:
            observed.wrong.append(f"{body} is answered with {found}, offline it is {expected}")
        observed.equal += found == expected and ended


async def _answer(
    session: httpx.AsyncClient, endpoint: str, body: dict[str, Any], leaves: int | None
) -> tuple[list[int], bool]:
    """The tokens of an answer, and whether it has ended; a client may leave after some pieces."""
    if not body["stream"]:
        answer = await session.post(endpoint, json=body)
        answer.raise_for_status()
        return answer.json()["choices"][0]["token_ids"], True
    found: list[int] = []
    pieces = 0
    async with session.stream("POST", endpoint, json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                return found, True
            if line:
                [choice] = json.loads(line.removeprefix("data: "))["choices"]
                found += choice["token_ids"]
                pieces += 1
                if pieces == leaves:
                    return found, False
    raise RuntimeError("a stream has ended without its end")


def open_files(process: int) -> int:
    """Files, pipes and sockets that a process and those that it started hold."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return sum(len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in (process, *children))


async def soak(url: str, process: int, minutes: float, seed: int, own: int) -> Observed:
    """Let the crowd in for so many minutes."""
    observed, offline, start = Observed(), Offline(), time.monotonic()

    def done() -> bool:
        return time.monotonic() - start > 60 * minutes or bool(observed.wrong)

    async def watch() -> None:
        while True:
            at = time.monotonic() - start
            observed.server.append((at, resident(process)))
            observed.ours.append((at, resident(own)))
            observed.files.append((at, open_files(process)))
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    async with httpx.AsyncClient(timeout=600) as session:
        draws = [random.Random(f"{seed}/{i}") for i in range(CLIENTS)]
        await asyncio.gather(
            *(client(session, url, draw, offline, observed, done) for draw in draws)
        )
    watching.cancel()
    return observed


def verdict(observed: Observed) -> list[str]:
    """What is wrong: answers, and what has grown since the first third."""
    found = observed.wrong[:5]
    if not observed.equal:
        found.append("no answer came")
    for name, series, most in (
        ("the server's memory", observed.server, GROWTH),
        ("this process' memory", observed.ours, GROWTH),
        ("the server's open files", observed.files, 1.5),
    ):
        values = [value for _, value in series]
        third = len(values) // 3
        if third:
            middle = statistics.median(values[third : 2 * third])
            end = statistics.median(values[2 * third :])
            if end > most * middle:
                found.append(f"{name} has grown from {middle:,.0f} to {end:,.0f}")
    return found


def main() -> None:
    """Run, print what was seen, and exit with 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="a file for the numbers")
    options = parser.parse_args()
    more = ["--allow-formulas", "--max-formulas", str(KEPT), "--max-queue", "64"]
    with serving(SLOTS, *more) as (url, process):
        own = int(Path("/proc/self").resolve().name)
        observed = asyncio.run(soak(url, process, options.minutes, options.seed, own))
    if options.output:
        options.output.write_text(json.dumps(vars(observed)) + "\n")
    problems = verdict(observed)
    print(
        f"{observed.equal} answers equal, {observed.left} clients left, {observed.refused} bodies "
        f"refused; the server has {observed.server[0][1] / 1e6:.0f} MB, then "
        f"{observed.server[-1][1] / 1e6:.0f}, and {observed.files[-1][1]} open files"
    )
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
