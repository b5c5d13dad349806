"""What it saves not to read again what was read, and what that costs where nothing is shared.

    OMP_NUM_THREADS=1 python -m bench.prefix_caching            bench/results/prefix_caching.json
    OMP_NUM_THREADS=1 python -m bench.prefix_caching chat       this alone; the others stay

With ``enable_prefix_caching`` and without, in turn, on this CPU in float32. Models have random
weights, of the shape in ``bench.prompts``; ``server`` asks SmolLM2-135M behind ``descant serve``.
Rows are side by side, as a CPU has them, and where it says so in pages, as a GPU does.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import descant
from bench import prefix_caching_server
from bench.prompts import SHAPE
from descant.api import declared
from descant.bench import shapes
from descant.bench.measure import about
from descant.models.cache.blocks import store
from descant.models.cache_config import CacheConfig
from descant.models.lanes.transformers_lane import TransformersLane
from descant.runtime import Service

RESULTS = Path(__file__).parent / "results" / "prefix_caching.json"
VOCABULARY = SHAPE["vocab_size"]
WAYS = {"with": True, "without": False}
BACK_ENDS = {"side by side": 0, "pages": 64}  # positions of a page
SOONER, UNLIKE = 5.0, 1.05  # asked for: without over with, and with over without


def ids(count: int, seed: int) -> list[int]:
    """So many random tokens, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()


@cache
def saved(tiny: bool = False) -> dict[str, Any]:
    """Random weights in a folder: what is given as an object may change, and is read anew."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    torch.manual_seed(0)
    sizes = shapes.SHAPES["tiny"][1] if tiny else SHAPE
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder.name)
    return {"base": {"path": folder.name, "dtype": "float32"}}


def decoders(tiny: bool = False) -> dict[str, descant.Decoder]:
    """A decoder each way, which has read nothing yet."""
    return {
        way: descant.compile("base", saved(tiny), enable_prefix_caching=on)
        for way, on in WAYS.items()
    }


@contextmanager
def back_end(name: str) -> Iterator[None]:
    """Rows that are reserved inside lie side by side, or in pages."""
    before = TransformersLane.page_size
    TransformersLane.page_size = BACK_ENDS[name] or None
    try:
        yield
    finally:
        TransformersLane.page_size = before


def asked(decoder: descant.Decoder, prompts: Sequence[Any], **options: Any) -> dict[str, Any]:
    """What it took to answer prompts, all of them at once; and the tokens of the answers."""
    most, lane = 0, decoder.session.bound.lanes[0]
    options = {"eos_token_id": [], "temperature": 0, **options}
    start, begun = time.perf_counter(), time.process_time()
    requests = decoder.session.builder.requests(prompts, **options)
    tokens = {id(request): list[int]() for request in requests}
    for updated in decoder.session.decode(requests, len(requests)):
        most = max(most, bytes_in_use(lane))
        for answer in updated:
            tokens[id(answer.request)] = [*answer.tokens]
    seconds, processor = time.perf_counter() - start, time.process_time() - begun
    stats = decoder.session.engine.stats
    return {
        "seconds": seconds, "processor_seconds": processor, "cache_bytes": most,
        "prompt_tokens": stats.prompt_tokens, "read": stats.prompt_tokens - stats.cached_tokens,
        "tokens": [*tokens.values()],
    }  # fmt: skip


def bytes_in_use(lane: Any) -> int:
    """Bytes of the caches of a lane's rows, without copies of what was read."""
    if lane.all_pages is None:
        return int(lane.footprint().cache_bytes)
    used = {page for block in lane.blocks.held for page in block.pages}
    return len(used) * int(lane.blocks.cache.page_bytes)


def service(system: int, later: int) -> dict[str, Any]:
    """Milliseconds to the first token, of the first request and of later ones."""
    specs, prompt = declared(saved()), ids(system, 0)
    served = {}
    for way, on in WAYS.items():
        each = Service(specs, slots=4, cache=CacheConfig(enable_prefix_caching=on))
        served[way] = each, each.decoder("base")
    found: dict[str, Any] = {way: [] for way in WAYS}
    for number in range(1 + later):
        question = ids(16, 1 + number)
        for way, (each, decoder) in served.items():
            start = time.perf_counter()
            each.submit(decoder, prompt + question, max_new_tokens=1, eos_token_id=[])
            while each.busy:
                each.step()
            found[way].append((time.perf_counter() - start) * 1e3)
    later_ms = {way: statistics.median(found[way][1:]) for way in WAYS}
    sooner = later_ms["without"] / later_ms["with"]
    return {
        "system_tokens": system, "first_token_ms": found, "later_ms": later_ms, "sooner": sooner,
        "shown": f"later first tokens come {sooner:.1f} times sooner (at least {SOONER:g})",
    }  # fmt: skip


def chat(turns: int, said: int, new: int) -> dict[str, Any]:
    """Tokens that are read in a chat, each turn of which repeats the ones before; and seconds."""
    both, prompt = decoders(), ids(said, 0)
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for turn in range(turns):
        for way, decoder in both.items():
            found[way].append(asked(decoder, [prompt], max_new_tokens=new))
        answers = [found[way][-1].pop("tokens") for way in WAYS]
        assert answers[0] == answers[1]
        prompt = prompt + answers[0][0] + ids(said, 1 + turn)
    totals = summed(found)
    return {"said": said, "new": new, "turns": found, **totals, "shown": compared(totals)}


def samples(count: int, length: int, new: int) -> dict[str, Any]:
    """Samples of one prompt against as many prompts apart: seconds, and bytes of the caches."""
    found, long = dict[str, Any](), ids(length, 0)
    apart = [ids(length, 1 + number) for number in range(count)]
    options = {"max_new_tokens": new, "temperature": 1.0, "seed": 0}
    for name in BACK_ENDS:
        with back_end(name):
            both = decoders()
            one = asked(both["with"], [long], num_return_sequences=count, **options)
            many = asked(both["without"], apart, **options)
        for each in (one, many):
            del each["tokens"]
        found[name] = {
            "samples": one, "apart": many, "times_seconds": many["seconds"] / one["seconds"],
            "times_bytes": many["cache_bytes"] / one["cache_bytes"],
        }  # fmt: skip
    shown = "; ".join(
        f"{name}: apart, {each['times_seconds']:.1f} times the seconds and "
        f"{each['times_bytes']:.1f} times the bytes"
        for name, each in found.items()
    )
    return {"shown": shown, "samples": count, "prompt_tokens": length, "new": new, **found}


def shots(prompts: int, shared: int, own: int, new: int, runs: int) -> dict[str, Any]:
    """Prompts in one batch that begin with the same tokens."""
    beginning, found = ids(shared, 0), dict[str, Any]()
    texts = [beginning + ids(own + number % 8, 1 + number) for number in range(prompts)]
    for name in BACK_ENDS:
        runs_of: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        with back_end(name):
            for _ in range(runs):
                for way, decoder in decoders().items():
                    runs_of[way].append(asked(decoder, texts, max_new_tokens=new))
                answers = [runs_of[way][-1].pop("tokens") for way in WAYS]
                assert answers[0] == answers[1]
        found[name] = {"runs": runs_of, **summed(runs_of, statistics.median)}
    shown = "; ".join(f"{name}: {compared(found[name])}" for name in BACK_ENDS)
    return {"shown": shown, "prompts": prompts, "shared": shared, "own": own, "new": new, **found}


def unlike(runs: int, requests: int) -> dict[str, Any]:
    """What keeping copies costs requests that share nothing.

    Whole runs of short prompts and answers, by the tiniest shape, too; and microseconds that an
    admission and an end take more with it, while there is room for copies, and when a store is full
    and lets go of the oldest. By the processor's clock, which other work changes less.
    """
    found: dict[str, Any] = {
        "usual": whole_runs(decoders(), runs, requests),
        "tiny": whole_runs(decoders(tiny=True), 3 * runs, requests),
    }
    before = store.BYTES
    for name, size in (("room", before), ("full", 1 << 20)):
        store.BYTES = size
        try:
            found[name] = admissions(decoders(tiny=True), 20 * runs)
        finally:
            store.BYTES = before
    more = (f"{name} {found[name]['more_us']:.0f} µs more" for name in ("room", "full"))
    ratios = (f"{name} {found[name]['ratio']:.3f}" for name in ("usual", "tiny"))
    limit = f"times the seconds (at most {UNLIKE:g})"
    return {"shown": f"{', '.join(ratios)} {limit}; an admission: {', '.join(more)}", **found}


def whole_runs(both: dict[str, descant.Decoder], runs: int, requests: int) -> dict[str, Any]:
    """Seconds of runs of short prompts and 16 tokens each, and the median ratio."""
    seconds = {way: list[float]() for way in WAYS}
    for number in range(runs):
        prompts = [ids(8 + i % 32, number * requests + i) for i in range(requests)]
        for way in (*WAYS,) if number % 2 else reversed([*WAYS]):
            seconds[way].append(asked(both[way], prompts, max_new_tokens=16)["processor_seconds"])
    pairs = zip(*(seconds[way][1:] for way in WAYS), strict=True)
    ratio = statistics.median(one / other for one, other in pairs)
    return {"seconds": seconds, "ratio": ratio}


def admissions(both: dict[str, descant.Decoder], count: int) -> dict[str, Any]:
    """Microseconds of single requests of 48 tokens, from their admission to their leaving."""
    batches, found = {}, {way: list[float]() for way in WAYS}
    for number in range(count):
        for way, decoder in both.items():
            builder, engine = decoder.session.builder, decoder.session.engine
            requests = builder.requests([ids(48, number)], max_new_tokens=1, eos_token_id=[])
            batch = batches.setdefault(way, None) or engine.begin(requests, 1)
            batches[way] = batch
            start = time.process_time()
            batch.admit(requests)
            batch.read(math.inf)
            batch.finish([0], answers={0: [3]})
            found[way].append((time.process_time() - start) * 1e6)
    usual = {way: statistics.median(times) for way, times in found.items()}
    pairs = [*zip(*found.values(), strict=True)][count // 2 :]  # a store has filled by then
    return {"us": found, "median_us": usual, "more_us": statistics.median(a - b for a, b in pairs)}


def summed(
    found: dict[str, list[dict[str, Any]]], by: Callable[[list[float]], float] = sum
) -> dict[str, Any]:
    """Tokens read and seconds, each way."""
    return {
        key: {way: by([run[key] for run in runs]) for way, runs in found.items()}
        for key in ("read", "seconds")
    }


def compared(found: dict[str, dict[str, float]]) -> str:
    """Both ways in a line."""
    read, seconds = found["read"], found["seconds"]
    times = seconds["without"] / seconds["with"]
    return (
        f"{read['with']:g} tokens read, without {read['without']:g} and {times:.1f} times as long"
    )


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "service": lambda: service(1000, 9),
    "server": lambda: prefix_caching_server.measured(1000, 7),
    "chat": lambda: chat(8, 100, 32),
    "samples": lambda: samples(16, 1000, 16),
    "shots": lambda: shots(32, 500, 24, 4, 3),
    "unlike": lambda: unlike(15, 32),
}


def main() -> None:
    """Measure, print, keep the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[], help=", ".join(CASES))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if unknown := set(options.names) - set(CASES):
        parser.error(f"there is no case {', '.join(unknown)}: {', '.join(CASES)}")
    results = json.loads(options.output.read_text())["results"] if options.output.is_file() else {}
    for name in options.names or CASES:
        machine = {**about(), "threads": torch.get_num_threads()}
        found = CASES[name]()
        gc.collect()
        print(f"{name}: {found['shown']}", flush=True)
        results[name] = {"about": machine, **found}
        content = {
            "device": "cpu", "dtype": "float32", "shape": SHAPE, "page_size": BACK_ENDS["pages"],
            "asked_for": {"sooner": SOONER, "unlike": UNLIKE},
            "results": {each: results[each] for each in CASES if each in results},
        }  # fmt: skip
        options.output.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
