"""What stands between the products of a layer: its kernels, and torch's operations for the same."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from descant.doctor.layers import Shape, calls

REPEATS = 50  # in one CUDA graph, so that a launch takes what it takes in a recorded step


def between_products(scene: Any, say: Callable[..., None], rows: int) -> None:
    """Microseconds of each kernel for a step of so many rows, and of torch's operations."""
    config = scene.pool["base"].config
    size = config.hidden_size // config.num_attention_heads
    heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    shape = Shape(config.hidden_size, config.intermediate_size, *heads, size)
    made = calls(shape, getattr(torch, scene.sizes.dtype), scene.device, rows, 1)
    for name, (kernel, plain, arguments) in made.items():
        for way, run in (("kernel", kernel), ("torch", plain)):
            seconds = _seconds(scene, partial(run, *arguments))
            say(f"{name}, {rows} rows, {way}", seconds * 1e6, "us")


@torch.no_grad()
def _seconds(scene: Any, act: Callable[[], Any]) -> float:
    """Of one call among many; on a CPU they are done as they are."""
    act()
    count = REPEATS if scene.cuda else 1

    def work() -> None:
        for _ in range(count):
            act()

    repeat: Callable[[], Any] = work
    if scene.cuda:
        scene.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        repeat = graph.replay
    times = []
    for _ in range(10):
        scene.wait()
        start = time.perf_counter()
        repeat()
        scene.wait()
        times.append((time.perf_counter() - start) / count)
    return statistics.median(times)
