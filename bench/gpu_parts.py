"""The parts of ``bench.gpu``: each says its numbers."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.gpu_layers import between_products
from bench.joining import arrivals, pauses
from descant.api import compile, declared
from descant.bench.measure import Clock, ours
from descant.bench.workloads import LORA, Pool, fused
from descant.runtime import Service
from descant.runtime.batch.cost import copy_bandwidth
from descant.runtime.batch.memory import peak_bytes
from descant.runtime.engine.engine import GPU_MEASURE

Say = Callable[..., None]  # name, value, unit
WORKLOADS = {"one": fused(0), "arms": fused(2, LORA), "rerank": fused(0, k=10)}
WHERE = "where(entropy(base) > {level:.6f}, base + 0.5*arm_0, base)"
FORMULAS = (*WORKLOADS, "where")
WAYS = {"captured": True, "eager": False}
AIM = 1.15  # a step of one model, over its products alone
TOP = 15  # kernels that are named
# Tokens per second at 256 rows of a model of 1.5B parameters: what ours is held against.
TO_BEAT = {
    "engines over transformers": 1_000, "vLLM, eager": 9_600, "vLLM, captured": 33_000,
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        shape: a name of ``shapes.SHAPES``; ``small_shape`` is that of tokens per second.
        rows: of the steps.
        many: rows of tokens per second.
        prompt: tokens of a prompt, and ``long`` of the longest one of ragged rows.
        new: tokens that are timed.
        runs: of a timed run; the best counts.
    """

    shape: str
    small_shape: str
    dtype: str
    rows: tuple[int, ...]
    many: tuple[int, ...]
    prompt: int
    long: int
    new: int
    runs: int = 3


FULL = Sizes("llama-2-7b", "qwen2.5-1.5b", "bfloat16", (1, 8, 64), (64, 256), 256, 1900, 64)
TINY = Sizes("tiny", "tiny-grouped", "float32", (1, 3), (4,), 12, 40, 6, 1)


@dataclass
class Scene:
    """The models, and numbers that later parts need.

    Attributes:
        products: seconds of the matrix products alone, by rows.
        tokens: of each way, by formula and rows.
        level: an entropy that steps are above and below.
    """

    sizes: Sizes
    pool: Pool
    products: dict[int, float] = field(default_factory=dict)
    tokens: dict[tuple[str, int], list[list[int]]] = field(default_factory=dict)
    level: float | None = None

    @property
    def device(self) -> str:
        return self.pool.device

    @property
    def cuda(self) -> bool:
        return self.pool.device.startswith("cuda")

    def decoder(self, formula: str, capture: bool) -> Any:
        """One of ``FORMULAS``, compiled."""
        if formula in WORKLOADS:
            return self.pool.decoder(WORKLOADS[formula], capture)
        if self.level is None:
            alone = compile("base", {"base": self.pool["base"]}, capture=False)
            logprobs = alone.scores(self.pool.prompts(1, self.sizes.prompt)[0].tolist(), [])[0]
            logprobs = logprobs.log_softmax(-1)
            self.level = float(-(logprobs.exp() * logprobs).sum())
        models = {name: self.pool[name] for name in ("base", "arm_0")}
        return compile(WHERE.format(level=self.level), models, capture=capture)

    def prompts(self, rows: int) -> Tensor:
        return self.pool.prompts(rows, self.sizes.prompt)

    def ragged(self) -> list[list[int]]:
        """One long row and seven others."""
        texts = self.pool.prompts(8, self.sizes.long).tolist()
        return [texts[0], *(text[: self.sizes.prompt] for text in texts[1:])]

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def tidy(self) -> None:
        """Free what the last part has left."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()


def plan(scene: Scene, say: Say) -> Iterator[tuple[str, Callable[[], None]]]:
    """Names and parts, the most important first."""
    sizes = scene.sizes
    yield (
        "bandwidth",
        lambda: say(
            "copy bandwidth, read and written", copy_bandwidth(scene.device) / 1e12, "TB/s"
        ),
    )
    for rows in sizes.rows:
        yield f"products, {rows} rows", partial(products, scene, say, rows)
        yield f"between products, {rows} rows", partial(between_products, scene, say, rows)
    yield from _of_a_way(scene, say, "captured")
    for formula in ("one", "rerank"):
        yield f"kernels of {formula}", partial(kernels, scene, say, formula)
    for rows in sizes.many:
        for way in WAYS:
            name = f"tokens per second, {rows} rows, {way}"
            yield name, partial(throughput, scene, say, rows, way)
    yield from _of_a_way(scene, say, "eager")


def _of_a_way(scene: Scene, say: Say, way: str) -> Iterator[tuple[str, Callable[[], None]]]:
    for formula in FORMULAS:
        for rows in scene.sizes.rows:
            prompts = scene.prompts(rows).tolist()
            part = partial(steps, scene, say, formula, rows, way, prompts)
            yield f"{formula}, {rows} rows, {way}", part
    yield f"ragged, {way}", partial(steps, scene, say, "one", 8, way, scene.ragged(), "ragged")
    yield f"join, {way}", partial(join, scene, say, way)
    yield f"service, {way}", partial(service, scene, say, way)


def products(scene: Scene, say: Say, rows: int) -> None:
    """The matrix products of a step of one model, in one CUDA graph: what a step is held against.

    On a CPU they are done as they are.
    """
    base = scene.pool["base"]
    layers = [module for module in base.modules() if isinstance(module, nn.Linear)]
    inputs = {
        layer.in_features: torch.randn(rows, layer.in_features, device=scene.device)
        .to(layer.weight.dtype)
        for layer in layers
    }  # fmt: skip

    def work() -> list[Tensor]:
        return [nn.functional.linear(inputs[layer.in_features], layer.weight) for layer in layers]

    with torch.no_grad():
        work()
        repeat: Callable[[], Any] = work
        if scene.cuda:
            scene.wait()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                kept = work()  # noqa: F841  the graph writes there
            repeat = graph.replay
        seconds = [_seconds(scene, repeat) for _ in range(20)]
    scene.products[rows] = statistics.median(seconds)
    name = f"products alone, {rows} rows"
    say(name, scene.products[rows] * 1e3, "ms")
    read = sum(layer.weight.nbytes for layer in layers)
    say(f"{name}: weights read", read / scene.products[rows] / 1e12, "TB/s")


def steps(
    scene: Scene, say: Say, formula: str, rows: int, way: str, prompts: list[list[int]],
    named: str = "",
) -> None:  # fmt: skip
    """A step of a formula: its time, over its floor and over the products; what it records."""
    name = f"{named or formula}, {rows} rows, {way}"
    before = torch.cuda.memory_allocated() if scene.cuda else 0
    decoder = scene.decoder(formula, WAYS[way])
    engine, new = decoder.session.engine, scene.sizes.new
    weights = torch.cuda.memory_allocated() - before if scene.cuda else 0  # of adapters
    if scene.cuda:
        torch.cuda.reset_peak_memory_stats()
    act = ours(decoder, _Ids(prompts))
    act(new + 1, Clock(scene.device))
    made = engine.graphs.made
    times = []
    for _ in range(scene.sizes.runs):
        clock = Clock(scene.device)
        tokens = act(new + 1, clock)
        times.append(clock.seconds / new)
    seconds = min(times)
    say(f"{name}: step", seconds * 1e3, "ms")
    floor = engine.stats.bytes_read / engine.stats.steps / copy_bandwidth(scene.device)
    say(f"{name}: over the floor of its bytes", seconds / floor, "times")
    if formula == "one" and not named and rows in scene.products:
        say(f"{name}: over its products, aim {AIM}", seconds / scene.products[rows], "times")
    say(f"{name}: recordings in the first run", made)
    say(f"{name}: recordings in later runs, 0 expected", engine.graphs.made - made)
    for why in engine.graphs.eager() if way == "captured" and scene.cuda else ():
        print(f"    {why}", flush=True)
    _same_tokens(scene, say, name, (named or formula, rows), tokens)
    if scene.cuda:
        measured = torch.cuda.max_memory_allocated() - before - weights
        tokens_of_a_row = max(map(len, prompts)) + new + 1 + 11  # candidates among them
        capacity = -(-tokens_of_a_row // GPU_MEASURE) * GPU_MEASURE
        _, caches, work = peak_bytes(decoder.session.bound, rows, capacity)
        say(f"{name}: memory beside weights", measured / 1e9, "GB")
        say(f"{name}: over what the plan says", measured / (caches + work), "times")


def _same_tokens(
    scene: Scene, say: Say, name: str, key: tuple[str, int], tokens: list[list[int]]
) -> None:
    """Compare with the way that came before."""
    if key in scene.tokens:
        pairs = zip(sum(tokens, []), sum(scene.tokens[key], []), strict=True)  # noqa: RUF017
        equal = [one == other for one, other in pairs]
        say(f"{name}: share of tokens as captured", sum(equal) / len(equal))
    scene.tokens[key] = tokens


def join(scene: Scene, say: Say, way: str) -> None:
    """Requests that join when others have left: a row's steps, and its longest pause."""
    decoder, sizes = scene.decoder("one", WAYS[way]), scene.sizes
    arriving = arrivals(scene.prompts(12), 8)
    pauses(decoder, arriving, sizes.new)
    waited = pauses(decoder, arriving, sizes.new)
    say(f"join, 12 requests in 8 slots, {way}: step", statistics.median(waited), "ms")
    say(f"join, 12 requests in 8 slots, {way}: longest pause", max(waited), "ms")


def service(scene: Scene, say: Say, way: str) -> None:
    """A service with two formulas: steps that draw for four rows of each."""
    workload, sizes = WORKLOADS["arms"], scene.sizes
    models = declared(scene.pool.models(workload))
    served = Service(
        models, slots=8, max_model_len=sizes.prompt + sizes.new + 8, device=scene.device,
        capture=WAYS[way],
    )  # fmt: skip
    decoders = [served.decoder(formula) for formula in ("base", workload.formula)]
    name = f"service, two formulas of 4 rows, {way}"
    say(f"{name}: warm-up", _seconds(scene, served.warm_up), "s")
    made = [decoder.session.engine.graphs.made for decoder in decoders]
    times: list[float] = []
    for _ in range(2):
        for number, prompt in enumerate(scene.prompts(8).tolist()):
            served.submit(decoders[number % 2], prompt, max_new_tokens=sizes.new, eos_token_id=[])
        times.clear()
        while served.busy:
            start = time.perf_counter()
            served.step()  # which waits for the step before
            times.append(time.perf_counter() - start)
    later = [decoder.session.engine.graphs.made for decoder in decoders]
    say(f"{name}: recordings after it, 0 expected", sum(later) - sum(made))
    say(f"{name}: step", statistics.median(times) * 1e3, "ms")
    say(f"{name}: tokens per second", 8 * sizes.new / sum(times), "tok/s")


def throughput(scene: Scene, say: Say, rows: int, way: str) -> None:
    """Tokens per second of a smaller model at many rows, prompts left out and prompts included."""
    sizes, device = scene.sizes, scene.device
    pool = Pool(sizes.small_shape, scene.pool.dtype, device, scene.pool.scratch)
    act = ours(pool.decoder(WORKLOADS["one"], WAYS[way]), pool.prompts(rows, sizes.prompt))
    act(sizes.new + 1, Clock(device))
    clock = Clock(device)
    whole = _seconds(scene, partial(act, sizes.new + 1, clock))
    name = f"{sizes.small_shape}, {rows} rows, {way}"
    say(f"{name}: tokens per second", rows * sizes.new / clock.seconds, "tok/s")
    say(f"{name}: prompts included", rows * (sizes.new + 1) / whole, "tok/s")


def kernels(scene: Scene, say: Say, formula: str) -> None:
    """What a captured step runs, by kernel: microseconds and launches of a step."""
    from torch.profiler import ProfilerActivity, profile

    decoder, new = scene.decoder(formula, True), 8
    act = ours(decoder, scene.prompts(1))
    act(new + 1, Clock(scene.device))
    kind = ProfilerActivity.CUDA if scene.cuda else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiled:
        act(new + 1, Clock(scene.device))
    of = "self_device_time_total" if scene.cuda else "self_cpu_time_total"
    averages = sorted(profiled.key_averages(), key=lambda each: -getattr(each, of))
    total = sum(getattr(each, of) for each in averages)
    say(f"kernels of {formula}, prompt and {new + 1} tokens: all", total / 1e3, "ms")
    say(f"kernels of {formula}: launches", sum(each.count for each in averages))
    for each in averages[:TOP]:
        say(f"  {each.count:5} x {each.key[:50]}", getattr(each, of) / 1e3, "ms")


class _Ids(list[list[int]]):
    """Token ids of several lengths, where ``ours`` takes a tensor."""

    def tolist(self) -> list[list[int]]:
        return [*self]


def _seconds(scene: Scene, act: Callable[[], Any]) -> float:
    scene.wait()
    start = time.perf_counter()
    act()
    scene.wait()
    return time.perf_counter() - start
