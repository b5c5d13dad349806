"""One client's first tokens while others load the server, each in another way, and all at once.

    python -m bench.fairness                 bench/results/fairness.json and fairness.md

The demo models behind ``descant serve``, with 8 slots and a key for each client. The client that
is measured sends a short request twice a second; the others send, again and again: prompts of a
megabyte, a search of 8 rows that accepts nothing, 128 rows at once, 5,000 answers to score, long
formulas that nobody has sent before, and checks of formulas that they do not wait for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from bench.serving import serving
from descant.bench.measure import about

RESULTS = Path(__file__).parent / "results" / "fairness.json"
SLOTS, EVERY, TARGET = 8, 0.5, 1.0  # seconds
ASKED = {"model": "base", "prompt": "How do I boil eggs?", "max_tokens": 8, "stream": True}
SEARCH = "base | reject(reward_help, target=99, retries=4096, samples=8)"
Client = httpx.AsyncClient
Load = Callable[[Client, random.Random], Awaitable[Any]]


async def megabyte(client: Client, draw: random.Random) -> None:
    """A chat of a megabyte, which has to be read to be refused."""
    content = f"{draw.random()} How do I boil eggs? " + "egg " * 240_000
    messages = [{"role": "user", "content": content}]
    await client.post("/v1/chat/completions", json={"model": "base", "messages": messages})


async def search(client: Client, draw: random.Random) -> None:
    """A search that takes all slots, and accepts nothing."""
    body = {"model": SEARCH, "prompt": "x", "max_tokens": 64, "seed": draw.randrange(99)}
    await client.post("/v1/completions", json=body)


async def many_rows(client: Client, draw: random.Random) -> None:
    """128 rows."""
    body = {"model": "arms", "prompt": "How do I", "max_tokens": 64, "n": 128}
    await client.post("/v1/completions", json={**body, "seed": draw.randrange(99)})


async def scores(client: Client, draw: random.Random) -> None:
    """5,000 answers."""
    texts = [
        f"In water, for {draw.randrange(99)} minutes; then cool them. {i}" for i in range(5000)
    ]
    body = {"model": "reward_help", "text_1": "How do I boil eggs?", "text_2": texts}
    await client.post("/v1/score", json=body)


async def formulas(client: Client, draw: random.Random) -> None:
    """1.3 kB of formula, in turn many adapters and many reward models."""
    number = draw.randrange(10**6)
    many = " + ".join(f"base[{number + i}/{10**6}*arm_help]" for i in range(31))
    reranks = f"base + {number}/{10**6}*arm_harm" + " | rerank(reward_help, k=8)" * 48
    few = f"base + {number}/{10**6}*arm_harm" + " | rerank(reward_help, k=8)" * 8
    for model in (many, reranks, few, f"base*(a+{number})" + "*(a+1)" * 180):
        body = {"model": model, "prompt": "x", "max_tokens": 4, "params": {"a": 0.1}}
        await client.post("/v1/completions", json=body)


async def abandoned(client: Client, draw: random.Random) -> None:
    """40 checks of a formula, whose client leaves at once."""
    formula = f"base*(a+{draw.randrange(10**6)})" + "*(a+1)" * 180
    checks = [client.post("/playground/check", json={"formula": formula}) for _ in range(40)]
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await asyncio.gather(*checks)


LOADS: dict[str, tuple[Load, int]] = {  # and how many clients of one key send it at once
    "a megabyte of chat, 4 clients": (megabyte, 4),
    "a search of 8 rows": (search, 2),
    "128 rows, 3 clients": (many_rows, 3),
    "5,000 answers to score": (scores, 1),
    "long formulas": (formulas, 1),
    "40 abandoned checks": (abandoned, 1),
}


async def loading(url: str, key: str, load: Load, seed: int, statuses: Counter[str]) -> None:
    """Send a load again and again, until this is cancelled; what is refused is sent again soon."""
    draw, headers = random.Random(seed), {"authorization": f"Bearer {key}"}

    async def count(answer: httpx.Response) -> None:
        statuses[f"{load.__name__} {answer.status_code}"] += 1

    hooks = {"response": [count]}
    async with Client(base_url=url, headers=headers, timeout=600, event_hooks=hooks) as client:
        while True:
            start = time.perf_counter()
            with suppress(httpx.HTTPError):
                await load(client, draw)
            await asyncio.sleep(0 if time.perf_counter() - start > 0.05 else 0.05)


async def first_tokens(url: str, key: str, count: int) -> list[float]:
    """Seconds to the first token of so many requests, sent whether others have ended or not."""
    headers = {"authorization": f"Bearer {key}"}

    async def ask(client: Client, number: int) -> float:
        await asyncio.sleep(EVERY * number)
        start = time.perf_counter()
        body = {**ASKED, "seed": number}
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["text"]:
                    return time.perf_counter() - start
        raise RuntimeError("an answer without a token")

    async with Client(base_url=url, headers=headers, timeout=600) as client:
        return [*await asyncio.gather(*(ask(client, number) for number in range(count)))]


async def measured(url: str, loads: list[str], count: int) -> dict[str, Any]:
    """The first tokens of one client while these loads run."""
    statuses = Counter[str]()
    tasks = [
        asyncio.create_task(
            loading(url, f"load {[*LOADS].index(name)}", LOADS[name][0], seed, statuses)
        )
        for name in loads
        for seed in range(LOADS[name][1])
    ]
    await asyncio.sleep(3 if tasks else 0)
    seconds = await first_tokens(url, "asks", count)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    answers = {"answers_to_loads": dict(statuses)}
    return {"loads": loads, **answers, "first_token_seconds": [round(each, 4) for each in seconds]}


async def attack(url: str, keys: Sequence[str]) -> Counter[str]:
    """Send each load by a client of its own, until a line comes in; how each was answered."""
    statuses = Counter[str]()
    tasks = [
        asyncio.create_task(loading(url, key, load, seed, statuses))
        for seed, (key, (load, _)) in enumerate(zip(keys, LOADS.values(), strict=True))
    ]
    await asyncio.to_thread(sys.stdin.readline)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return statuses


def percentile(values: list[float], share: float) -> float:
    """The value that so large a share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def table(results: dict[str, Any]) -> str:
    """The results as a page."""
    lines = [
        "# First tokens of one client while others load the server", "",
        f"Seconds, of {results['count']} requests of 8 tokens, two a second; the demo models, "
        f"{results['slots']} slots, {results['cores']} cores. The target is {TARGET:g} s at the "
        "95th percentile. [fairness.json](fairness.json) has every number.", "",
        "| load of others | median | 95th percentile | longest |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, measured in results["results"].items():
        values = measured["first_token_seconds"]
        cells = [f"{percentile(values, share):.2f}" for share in (0.5, 0.95, 1.0)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print what counts, keep the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="requests of the client that waits")
    parser.add_argument("--only", nargs="+", choices=[*LOADS, "all at once"])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--attack", nargs="+", help="a server's address, and keys: load it only")
    options = parser.parse_args()
    if options.attack:
        url, *attackers = options.attack
        print(json.dumps(asyncio.run(attack(url, attackers))))
        return
    machine = about()  # before the load is our own
    ways = {"nothing": [], **{name: [name] for name in LOADS}, "all at once": [*LOADS]}
    keys = ["asks", *(f"load {number}" for number in range(len(LOADS)))]
    more = ["--allow-formulas", *(part for key in keys for part in ("--api-key", key))]
    results: dict[str, Any] = {}
    for name, loads in ways.items():
        if options.only and name not in options.only:
            continue
        with serving(SLOTS, *more) as (url, _):
            asyncio.run(first_tokens(url, "asks", 4))  # warm
            results[name] = asyncio.run(measured(url, loads, options.count))
        values = results[name]["first_token_seconds"]
        print(results[name]["answers_to_loads"])
        print(f"{name}: median {percentile(values, 0.5):.3f} s, p95 {percentile(values, 0.95):.3f}")
    content = {"slots": SLOTS, "count": options.count, "device": "cpu", "cores": os.cpu_count()}
    content |= {**machine, "results": results}
    options.output.write_text(json.dumps(content) + "\n")
    options.output.with_suffix(".md").write_text(table(content))


if __name__ == "__main__":
    main()
