"""The workloads and the clock: seconds per token of a formula, of plain transformers, and of both
bounds, all in one run.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..api import compile
from ..runtime.cost import copy_bandwidth
from . import plain, shapes

K, W = 10, 1.5


@dataclass(frozen=True)
class Settings:
    """What is measured, and on what.

    Attributes:
        shape: a name of ``shapes.SHAPES``.
        new: tokens that are timed.
        runs: of each way, in turn; medians count.
    """

    shape: str = "small"
    batch_size: int = 1
    prompt_length: int = 128
    new: int = 32
    runs: int = 5
    device: str = "cpu"
    dtype: str = "float32"
    capture: bool = False


@dataclass(frozen=True)
class Workload:
    """One formula, and the same by hand."""

    formula: str
    arms: int = 0
    lora: bool = False
    rerank: bool = False


WORKLOADS = {
    "one model": Workload("base"),
    "two arms": Workload("base + 0.5*arm_0 + 0.5*arm_1", arms=2),
    "two LoRA arms": Workload("base + 0.5*arm_0 + 0.5*arm_1", arms=2, lora=True),
    "rerank": Workload(f"base | rerank(reward, k={K}, w={W})", rerank=True),
    "LoRA arms, rerank": Workload(
        f"base + 0.5*arm_0 + 0.5*arm_1 | rerank(reward, k={K}, w={W})", 2, True, True
    ),
}


@dataclass
class Result:
    """One workload's milliseconds per token: the medians, and every run.

    Attributes:
        floor: what reading the weights and caches takes at the device's copy bandwidth.
        bare: of the forwards that the formula needs, once per set of weights.
    """

    name: str
    formula: str
    floor: float
    runs: dict[str, list[float]] = field(default_factory=dict)

    def median(self, way: str) -> float:
        """Milliseconds per token of ``ours``, ``plain`` or ``bare``."""
        return statistics.median(self.runs[way])

    def ratio(self, way: str, to: str) -> float:
        """The median over pairs measured next to each other."""
        pairs = zip(self.runs[way], self.runs[to], strict=True)
        return statistics.median(one / two for one, two in pairs)


def measure(settings: Settings, names: list[str] | None = None) -> Iterator[Result]:
    """Every workload in turn, as it is done.

    Args:
        settings: what is measured.
        names: of ``WORKLOADS``; all of them where left out.
    """
    dtype, device = getattr(torch, settings.dtype), settings.device
    asked = {name: WORKLOADS[name] for name in names or WORKLOADS}
    size = (settings.batch_size, settings.prompt_length)
    vocabulary = shapes.SHAPES[settings.shape][1]["vocab_size"]
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, vocabulary, size, generator=generator).to(device)
    made = partial(shapes.language_model, settings.shape, dtype=dtype, device=device)
    base, rm = made(0), None
    if any(workload.rerank for workload in asked.values()):
        rm = shapes.reward_model(settings.shape, 9, dtype, device)
    with tempfile.TemporaryDirectory() as scratch:
        for name, workload in asked.items():
            models: dict[str, Any] = {"base": base}
            for i in range(workload.arms):
                if workload.lora:
                    folder = shapes.lora(settings.shape, 1 + i, Path(scratch) / str(i))
                    models[f"arm_{i}"] = {"adapter": str(folder), "on": "base"}
                else:
                    models[f"arm_{i}"] = made(1 + i)
            if workload.rerank:
                models["reward"] = rm
            yield _measured(name, workload, models, prompts, settings)


def _measured(
    name: str, workload: Workload, models: dict[str, Any], prompts: Any, settings: Settings
) -> Result:
    decoder = compile(workload.formula, models=models, capture=settings.capture)
    base = models["base"]
    # Plain transformers runs an adapter as a pass of its own over the base; what the adapter adds
    # to that pass is left out, in its favour.
    arms = [(base if workload.lora else models[f"arm_{i}"], 0.5) for i in range(workload.arms)]
    rerank = (models["reward"], K, W) if workload.rerank else None
    ids = prompts.tolist()

    def ours(new: int) -> None:
        decoder.generate(
            ids, max_new_tokens=new, eos_token_id=[], batch_size=len(ids), progress=False
        )

    def bare(new: int) -> None:
        for model in [base, *(arm for arm, _ in arms if not workload.lora)]:
            plain.decode(model, prompts, new)
        if rerank is not None:
            plain.candidate_forwards(rerank[0], prompts, new, K)

    ways: dict[str, Callable[[int], Any]] = {
        "ours": ours,
        "plain": lambda new: plain.generate(base, prompts, new, arms, rerank),
        "bare": bare,
    }
    bandwidth = copy_bandwidth(settings.device)
    context = settings.prompt_length + settings.new // 2
    floor = decoder.plan.floor(bandwidth, settings.batch_size, context)
    result = Result(name, workload.formula, floor, {way: [] for way in ways})
    for act in ways.values():
        act(2)
    for _ in range(settings.runs):
        for way, act in ways.items():
            result.runs[way].append(_per_token(act, settings))
    return result


def _per_token(act: Callable[[int], Any], settings: Settings) -> float:
    """Milliseconds of a token after the first, so that reading the prompt is left out."""
    first, all_ = (_seconds(partial(act, new), settings.device) for new in (1, 1 + settings.new))
    return (all_ - first) / settings.new * 1e3


def _seconds(act: Callable[[], Any], device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    act()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def environment(settings: Settings) -> dict[str, Any]:
    """What the numbers were measured on."""
    import platform

    import transformers

    from .. import __version__

    cuda = settings.device.startswith("cuda")
    return {
        **asdict(settings),
        "processor": torch.cuda.get_device_name() if cuda else processor(),
        "threads": torch.get_num_threads(),
        "copy_bandwidth": copy_bandwidth(settings.device),
        "descant": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def processor() -> str:
    """What the machine calls its processor."""
    import platform

    file = Path("/proc/cpuinfo")
    names = [line for line in file.open() if "model name" in line] if file.is_file() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()
