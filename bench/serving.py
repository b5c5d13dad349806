"""The server under load: many clients, mixed formulas, some that leave; and one client alone.

    python -m bench.serving          64 clients, 1,000 requests; bench/results/serving.json
    python -m bench.serving --hostile --output bench/results/serving-hostile.json

The demo models behind ``descant serve``, as a stranger starts it, with a key for each client. Every
answer is held against the one that ``generate`` gives for its seed, before anything is said of
speed. One client that waits for each answer before it asks again is measured in the same run, half
before and half after. With ``--hostile``, clients with keys of their own send all that
``bench.fairness`` has, again and again, meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

import descant
from descant.bench.measure import about
from descant.demo import PROMPTS
from descant.inputs.runfile import RunFile, read_run_file

FILE = Path(__file__).parents[1] / "examples" / "serve.yaml"
RESULTS = Path(__file__).parent / "results" / "serving.json"
LENGTHS = (8, 16, 32, 48)
SHARES = {"arms": 4, "safe": 3, "base": 2, "best": 1}  # of the requests, by formula
HOSTILE = 6  # keys of hostile clients, one for each load of bench.fairness
ALONE_SLOTS = 4  # the fewest that best_of(n=4) takes


@dataclass(frozen=True)
class Sent:
    """One request, and after how many pieces its client leaves; None for one that stays."""

    model: str
    prompt: str
    a: float
    temperature: float
    seed: int
    length: int
    stream: bool
    leaves: int | None

    def body(self) -> dict[str, Any]:
        """As the server reads it."""
        return {
            "model": self.model, "prompt": self.prompt, "params": {"a": self.a},
            "temperature": self.temperature, "seed": self.seed, "max_tokens": self.length,
            "stream": self.stream, "return_token_ids": True,
        }  # fmt: skip


@dataclass
class Received:
    """What came of one request: ids, and when, in seconds since it was sent."""

    token_ids: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    ended: bool = False
    seconds: float = 0.0


def requests(
    count: int, leaving: float, models: Sequence[str] = tuple(SHARES), seed: int = 0
) -> list[Sent]:
    """So many, the same for the same seed.

    Args:
        count: how many.
        leaving: the share of clients that leave before the end.
        models: the formulas that are asked for.
        seed: of the draw.
    """
    draw = random.Random(seed)
    shares = [SHARES[model] for model in models]
    made = []
    for i in range(count):
        stream = i % 8 != 7
        leaves = draw.randrange(1, 6) if stream and draw.random() < leaving else None
        made.append(
            Sent(
                draw.choices(models, shares)[0], draw.choice(PROMPTS), draw.choice([0.0, 0.3, 1.0]),
                draw.choice([0.0, 0.7, 1.0]), i, draw.choice(LENGTHS), stream, leaves,
            )
        )  # fmt: skip
    return made


def offline(run: RunFile, sent: Sequence[Sent]) -> list[list[int]]:
    """The tokens that ``generate`` gives for each."""
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index, request in enumerate(sent):
        groups[request.model, request.length].append(index)
    token_ids: dict[int, list[int]] = {}
    decoders = {
        name: descant.compile(text, run.models, params=run.params)
        for name, text in run.named.items()
    }
    for (model, length), indices in groups.items():
        mine = [sent[index] for index in indices]
        completions = decoders[model].generate(
            [request.prompt for request in mine], max_new_tokens=length, progress=False,
            seed=[request.seed for request in mine],
            temperature=[request.temperature for request in mine],
            params={"a": [request.a for request in mine]},
        )  # fmt: skip
        token_ids |= {
            i: completion.token_ids for i, completion in zip(indices, completions, strict=True)
        }
    return [token_ids[index] for index in range(len(sent))]


def key(client: int) -> str:
    """The API key of a client."""
    return f"client {client}"


async def drive(url: str, sent: Sequence[Sent], clients: int) -> tuple[list[Received], float]:
    """Send all requests, so many at a time; the answers and the seconds in all."""
    waiting, answers = iter(enumerate(sent)), [Received() for _ in sent]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)

    async def client(session: httpx.AsyncClient, number: int) -> None:
        headers = {"authorization": f"Bearer {key(number)}"}
        for index, request in waiting:
            await _ask(session, f"{url}/v1/completions", headers, request, answers[index])

    async with httpx.AsyncClient(timeout=600, limits=limits) as session:
        start = time.perf_counter()
        await asyncio.gather(*(client(session, number) for number in range(clients)))
        return answers, time.perf_counter() - start


async def _ask(
    session: httpx.AsyncClient, url: str, headers: dict[str, str], request: Sent, received: Received
) -> None:
    start = time.perf_counter()
    if not request.stream:
        answer = await session.post(url, json=request.body(), headers=headers)
        answer.raise_for_status()
        received.token_ids, received.ended = answer.json()["choices"][0]["token_ids"], True
        received.seconds = time.perf_counter() - start
        return
    async with session.stream("POST", url, json=request.body(), headers=headers) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                received.ended = True
            elif line:
                [choice] = json.loads(line.removeprefix("data: "))["choices"]
                if not choice["token_ids"]:  # what is said of the prompt
                    continue
                received.token_ids += choice["token_ids"]
                received.times.append(round(time.perf_counter() - start, 4))
                if len(received.times) == request.leaves:
                    break
    received.seconds = time.perf_counter() - start


def correctness(
    sent: Sequence[Sent], received: Sequence[Received], expected: Sequence[list[int]]
) -> dict:
    """How many answers are the offline ones, and how many are lost."""
    left = [
        i for i, answer in enumerate(received) if sent[i].leaves is not None and not answer.ended
    ]
    stayed = [i for i in range(len(sent)) if i not in set(left)]
    return {
        "requests": len(sent),
        "answers": sum(received[i].ended for i in stayed),
        "equal": sum(received[i].token_ids == expected[i] for i in stayed),
        "left": len(left),
        "left_equal_so_far": sum(
            received[i].token_ids == expected[i][: len(received[i].token_ids)] for i in left
        ),
    }


def speeds(sent: Sequence[Sent], received: Sequence[Received], seconds: float) -> dict[str, Any]:
    """Requests and tokens per second; milliseconds to the first token and between tokens."""
    streamed = [(answer, a) for answer, a in zip(received, sent, strict=True) if a.model != "best"]
    first = [answer.times[0] * 1e3 for answer, _ in streamed if answer.times]
    between = [
        (after - before) * 1e3
        for answer, _ in streamed
        for before, after in zip(answer.times, answer.times[1:], strict=False)
    ]
    return {
        "seconds": seconds,
        "requests_per_second": len(sent) / seconds,
        "tokens_per_second": sum(len(answer.token_ids) for answer in received) / seconds,
        "first_token_ms": {f"p{share}": _percentile(first, share) for share in (50, 95, 99)},
        "between_tokens_ms": {f"p{share}": _percentile(between, share) for share in (50, 95, 99)},
    }


def _percentile(values: Sequence[float], share: int) -> float:
    return sorted(values)[min(len(values) - 1, math.ceil(len(values) * share / 100) - 1)]


@contextmanager
def serving(slots: int, *more: str, file: Path = FILE) -> Iterator[tuple[str, int]]:
    """A server's address and its process's number; ``more`` are options of ``descant serve``."""
    command = [
        sys.executable, "-m", "descant", "serve", str(file), "--port", "0", "--slots", str(slots),
        "--max-model-len", "256", "--log-level", "info", *more,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if match := re.search(r"running on (http://[\d.:]+)", line):
                break
        else:
            raise RuntimeError("the server did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield match[1], process.pid
    finally:
        process.terminate()
        process.wait()


def resident(process: int) -> int:
    """Bytes of memory that a process and those that it started hold, in whatever turn."""
    numbers, pages = [process], 0
    for number in numbers:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            children = Path(f"/proc/{number}/task/{number}/children").read_text()
            pages += int(Path(f"/proc/{number}/statm").read_text().split()[1])
            numbers += map(int, children.split())
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def attacked(url: str, keys: Sequence[str]) -> Iterator[Counter[str]]:
    """Have another process send all that is hostile; how often each was answered with what."""
    statuses = Counter[str]()
    command = [sys.executable, "-m", "bench.fairness", "--attack", url, *keys]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as each:
        try:
            yield statuses
        finally:
            statuses.update(json.loads(each.communicate("stop\n")[0] or "{}"))


async def loaded(
    url: str, process: int, sent: Sequence[Sent], clients: int
) -> tuple[list[Received], float, list[int]]:
    """``drive``, and the server's memory once a second meanwhile."""
    memory = [resident(process)]

    async def watch() -> None:
        while True:
            await asyncio.sleep(1)
            memory.append(resident(process))

    watching = asyncio.create_task(watch())
    received, seconds = await drive(url, sent, clients)
    watching.cancel()
    return received, seconds, [*memory, resident(process)]


def measure(
    models: Sequence[str], count: int, clients: int, slots: int, alone: int, leaving: float,
    hostile: int,
) -> dict[str, Any]:  # fmt: skip
    """Both ways, in one run; with so many hostile keys."""
    run = read_run_file(FILE)
    sent, single = requests(count, leaving, models), requests(alone, 0.0, models)
    expected, expected_single = offline(run, sent), offline(run, single)
    warm = requests(2 * clients + 16, 0.0, models, seed=1)
    attackers = [f"hostile {number}" for number in range(hostile)]
    keys = [key(number) for number in range(clients)]
    more = [part for each in (*keys, *attackers) for part in ("--api-key", each)]
    more += ["--allow-formulas"] * bool(hostile)
    with serving(slots, *more) as (url, process), serving(ALONE_SLOTS) as (other, _):
        for address, concurrent in ((url, clients), (other, 1)):
            asyncio.run(drive(address, warm[: concurrent * 2 + 16], concurrent))
        half = alone // 2
        first, before = asyncio.run(drive(other, single[:half], 1))
        with attacked(url, attackers) if hostile else nullcontext(Counter[str]()) as statuses:
            received, seconds, memory = asyncio.run(loaded(url, process, sent, clients))
        second, after = asyncio.run(drive(other, single[half:], 1))
        headers = {"authorization": f"Bearer {key(0)}"}
        metrics = httpx.get(f"{url}/metrics", headers=headers).text
    return {
        "answers_to_hostile": dict(statuses),
        "clients": {
            **correctness(sent, received, expected), **speeds(sent, received, seconds),
            "resident_bytes": memory, "metrics": _metrics(metrics),
            "raw": [{**asdict(a), **asdict(g)} for a, g in zip(sent, received, strict=True)],
        },
        "one": {
            **correctness(single, [*first, *second], expected_single),
            **speeds(single, [*first, *second], before + after),
            "halves_seconds": [before, after],
        },
    }  # fmt: skip


def _metrics(text: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {n: float(v) for n, _, v in lines if "_bucket" not in n and "_created" not in n}


def main() -> None:
    """Measure, print what counts, keep the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--alone", type=int, default=120, help="requests of the one client")
    parser.add_argument("--leaving", type=float, default=0.08)
    parser.add_argument("--models", nargs="+", default=[*SHARES], choices=[*SHARES])
    parser.add_argument("--hostile", action="store_true", help="all of bench.fairness meanwhile")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    machine = about()  # before the load is our own
    results = measure(
        options.models,
        options.requests,
        options.clients,
        options.slots,
        options.alone,
        options.leaving,
        HOSTILE * options.hostile,
    )
    content = {
        "models": {name: SHARES[name] for name in options.models},
        "requests": options.requests, "clients": options.clients, "slots": options.slots,
        "device": "cpu", "dtype": "float32", "cores": os.cpu_count(), **machine,
        "ratio": results["clients"]["requests_per_second"] / results["one"]["requests_per_second"],
        "results": results,
    }  # fmt: skip
    options.output.write_text(json.dumps(content) + "\n")
    concurrent, single = results["clients"], results["one"]
    for name, way in ((f"{options.clients} clients", concurrent), ("one client", single)):
        first, between = way["first_token_ms"], way["between_tokens_ms"]
        print(
            f"{name}: {way['equal']} of {way['answers']} answers equal, {way['left']} left; "
            f"{way['requests_per_second']:.2f} requests/s, "
            f"{way['tokens_per_second']:.0f} tokens/s; "
            f"first token {first['p50']:.0f} ms (p95 {first['p95']:.0f}, p99 {first['p99']:.0f}), "
            f"between tokens {between['p50']:.1f} ms (p95 {between['p95']:.1f}, "
            f"p99 {between['p99']:.1f})"
        )
    if options.hostile:
        print(results["answers_to_hostile"])
    memory = concurrent["resident_bytes"]
    tenth = max(1, len(memory) // 10)
    start, end = statistics.median(memory[:tenth]), statistics.median(memory[-tenth:])
    print(f"ratio {content['ratio']:.2f}; resident {start / 1e6:.0f} MB, then {end / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
