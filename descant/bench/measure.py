"""Milliseconds per token of a formula, of plain transformers and of both bounds, in turn."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..runtime.batch.cost import copy_bandwidth
from ..runtime.loops.decode import decode
from . import plain
from .workloads import WORKLOADS, Pool, W, Workload


class Clock:
    """Seconds of the tokens after the first, without the prefill."""

    def __init__(self, device: str) -> None:
        self._device, self._since, self.seconds = device, 0.0, 0.0

    def start(self, wait: bool = True) -> None:
        """Start after the first token; ``wait`` for the device or not."""
        if wait:
            _wait(self._device)
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop after the last token, when the device is done. It may start again."""
        _wait(self._device)
        self.seconds += time.perf_counter() - self._since


Way: TypeAlias = Callable[[int, Clock], Any]  # decodes so many tokens


@dataclass(frozen=True)
class Settings:
    """What is measured, and on what.

    Attributes:
        shape: a name of ``shapes.SHAPES``.
        new: tokens that are timed.
        runs: of each way, in turn; medians count.
        capture: our steps are recorded as CUDA graphs, and are measured eagerly, too.
    """

    shape: str = "small"
    batch_size: int = 1
    prompt_length: int = 128
    new: int = 32
    runs: int = 5
    device: str = "cpu"
    dtype: str = "float32"
    capture: bool = False


@dataclass
class Result:
    """One workload's milliseconds per token: the medians, and every run.

    Attributes:
        floor: of reading the weights and caches at the device's copy bandwidth.
        runs: per way; ``bare`` is the formula's forwards, one per set of weights.
    """

    name: str
    formula: str
    floor: float
    runs: dict[str, list[float]] = field(default_factory=dict)

    def median(self, way: str) -> float:
        """Milliseconds per token of a way, or of the floor."""
        return self.floor if way == "floor" else statistics.median(self.runs[way])

    def ratio(self, way: str, to: str) -> float:
        """The median over pairs measured next to each other."""
        if "floor" in (way, to):
            return self.median(way) / self.median(to)
        pairs = zip(self.runs[way], self.runs[to], strict=True)
        return statistics.median(above / below for above, below in pairs)


def measure(settings: Settings, names: list[str] | None = None) -> Iterator[Result]:
    """Every workload in turn, as it is done; ``names`` picks some of ``WORKLOADS``."""
    with tempfile.TemporaryDirectory() as scratch:
        pool = pool_of(settings, Path(scratch))
        prompts = pool.prompts(settings.batch_size, settings.prompt_length)
        for name in names or WORKLOADS:
            workload = WORKLOADS[name]
            decoder = pool.decoder(workload, settings.capture)
            ways = {"ours": ours(decoder, prompts)}
            if settings.capture:
                ways["eager"] = ours(pool.decoder(workload, False), prompts)
            ways |= theirs(workload, pool, prompts)
            yield Result(name, workload.formula, floor(decoder, settings), timed(ways, settings))


def pool_of(settings: Settings, scratch: Path) -> Pool:
    """The models of these settings."""
    return Pool(settings.shape, getattr(torch, settings.dtype), settings.device, scratch)


def ours(decoder: Any, prompts: Tensor, **arguments: Any) -> Way:
    """Decoding with descant; other arguments are those of ``generate``."""
    ids = prompts.tolist()

    def act(new: int, clock: Clock) -> list[list[int]]:
        options = {"max_new_tokens": new, "eos_token_id": [], **arguments}
        requests = decoder.session.builder.requests(ids, **options)
        answers: list[Any] = []
        for finished in decode(decoder.session.engine, requests, len(requests)):
            if not answers:
                answers = finished
                clock.start(wait=False)  # the next step may have begun
        clock.stop()
        answers.sort(key=lambda answer: answer.request.index)
        return [answer.tokens for answer in answers]

    return act


def theirs(workload: Workload, pool: Pool, prompts: Tensor) -> dict[str, Way]:
    """``plain``: the same tokens through transformers' generate; ``bare``: the forwards alone."""
    base, arms = pool["base"], [(arm, 0.5) for arm in pool.arms(workload)]
    rerank = (pool["reward"], workload.k, W) if workload.k else None
    alone = [pool[name] for name in sorted(workload.weights - {"reward"})]

    def generate(new: int, clock: Clock) -> Tensor:
        tokens = plain.generate(base, prompts, new, arms, rerank, started=clock.start)
        clock.stop()
        return tokens

    def bare(new: int, clock: Clock) -> None:
        for model in alone:
            plain.decode(model, prompts, new, clock.start)
            clock.stop()
        if rerank is not None:
            plain.candidate_forwards(rerank[0], prompts, new, workload.k, clock.start)
            clock.stop()

    return {"plain": generate, "bare": bare}


def floor(decoder: Any, settings: Settings) -> float:
    """Milliseconds in which a step of these settings reads its weights and caches."""
    context = settings.prompt_length + settings.new // 2
    bandwidth = copy_bandwidth(settings.device)
    return float(decoder.plan.floor(bandwidth, settings.batch_size, context))


def timed(
    ways: Mapping[str, Way], settings: Settings, with_prefill: bool = False
) -> dict[str, list[float]]:
    """Milliseconds per token of every run, the ways in turn after a warm-up of each.

    ``with_prefill`` times complete runs; otherwise the tokens after the first.
    """
    runs: dict[str, list[float]] = {way: [] for way in ways}
    for act in ways.values():
        act(2, Clock(settings.device))
    for _ in range(settings.runs):
        for way, act in ways.items():
            clock = Clock(settings.device)
            total = seconds(partial(act, settings.new + (not with_prefill), clock), settings.device)
            runs[way].append((total if with_prefill else clock.seconds) / settings.new * 1e3)
    return runs


def seconds(act: Callable[[], Any], device: str) -> float:
    """How long it takes until the device is done."""
    clock = Clock(device)
    clock.start()
    act()
    clock.stop()
    return clock.seconds


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def environment(settings: Settings) -> dict[str, Any]:
    """What the numbers were measured on."""
    machine = about() | {"copy_bandwidth": copy_bandwidth(settings.device)}
    if settings.device.startswith("cuda"):
        machine["processor"] = torch.cuda.get_device_name(settings.device)
    return asdict(settings) | machine


def about() -> dict[str, Any]:
    """The processor, the load of the last minute, and the versions of packages."""
    import os
    import platform

    import transformers

    from .. import __version__

    file = Path("/proc/cpuinfo")
    names = [line for line in file.open() if "model name" in line] if file.is_file() else []
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "descant": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
