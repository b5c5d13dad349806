"""The benchmarks of the suite, as data: what is measured, against what, and the targets.

Nothing is measured here. A target is stated for one kind of device, dtype and shape, and for
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from descant.bench.measure import Settings
from descant.bench.workloads import LORA, PROMPTS, Workload, fused


@dataclass(frozen=True)
class Ratio:
    """The time of one way over that of another.

    Attributes:
        top: a way; ``ours`` is the captured one where there is one, ``floor`` needs no run.
        bottom: another.
        at_most: the target; or ``at_least``, or neither.
        rows: count tokens of all rows; the case's way ``one row`` has one.
    """

    top: str
    bottom: str
    at_most: float | None = None
    at_least: float | None = None
    rows: bool = False

    def met(self, value: float) -> bool | None:
        """Whether a value meets the target; None without one."""
        if self.at_most is not None:
            return value <= self.at_most
        return None if self.at_least is None else value >= self.at_least


BARE, PLAIN = Ratio("ours", "bare"), Ratio("plain", "ours")


@dataclass(frozen=True)
class Case:
    """One row of a benchmark.

    Attributes:
        ratio: what is shown of it.
        targets: per kind of device, the ratio that the target is stated for.
        ways: ``ours``, ``plain`` and ``bare``; ``one model`` is ours with the base alone, ``one
            row`` ours with the first prompt alone.
        changes: to the settings.
        vectors: weights between two arms, as rows; plain transformers runs once for each.
        joining: so many requests of many lengths come and go.
    """

    name: str
    workload: Workload
    ratio: Ratio = BARE
    targets: dict[str, Ratio] = field(default_factory=dict)
    ways: tuple[str, ...] = ("ours", "plain", "bare")
    changes: dict[str, Any] = field(default_factory=dict)
    vectors: int = 0
    joining: int = 0

    @property
    def prompts_count(self) -> bool:
        """Whether whole runs are timed, and not only the tokens after each row's first."""
        return bool(self.vectors or self.joining)

    def ratio_for(self, settings: Settings) -> Ratio:
        """The ratio under these settings, with its target if there is one."""
        kind = settings.device.partition(":")[0]
        stated = (settings.shape, settings.dtype, settings.batch_size) == STATED.get(kind)
        return self.targets.get(kind, self.ratio) if stated else self.ratio


# What targets are stated for; of the GPUs, for an H100 or H200.
STATED = {"cuda": ("llama-2-7b", "bfloat16", 1), "cpu": ("small", "float32", 1)}


@dataclass(frozen=True)
class Sizes:
    """How much of a benchmark a kind of device can do in its time.

    Attributes:
        prompt: tokens of a prompt, where its length is not what is measured.
        new: tokens that are timed; for long prompts and large batches ``few``.
    """

    prompt: int
    new: int
    few: int
    ks: tuple[int, ...]
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    slots: int

    def of(self, prompt: int | None, new: int | None) -> Sizes:
        """The same with other lengths, where they are given."""
        new = new or self.new
        return replace(self, prompt=prompt or self.prompt, new=new, few=min(new, self.few))


SIZES = {
    "cuda": Sizes(128, 48, 24, (1, 4, 10, 32, 64), (1, 8, 32, 64), (128, 512, 2048, 8192), 16),
    "cpu": Sizes(32, 16, 8, (1, 10, 64), (1, 8, 32), (128, 512), 4),
}


def separate(sizes: Sizes) -> list[Case]:
    """GenARM with models of their own weights."""
    floor = {"cuda": Ratio("ours", "floor", at_most=1.15)}
    return [
        Case("one model", fused(0), targets=floor),
        Case("two models", fused(1)),
        Case("three models", fused(2), targets={**floor, "cpu": replace(BARE, at_most=1.05)}),
    ]


def shared(sizes: Sizes) -> list[Case]:
    """GenARM with LoRA arms of rank 16 on one base, and with prompts of one model."""
    ways, alone = ("ours", "plain", "bare", "one model"), Ratio("ours", "one model")
    bare = {"cpu": replace(BARE, at_most=1.5)}
    lora = {"cuda": replace(alone, at_most=1.35), **bare}
    return [
        Case("one LoRA arm", fused(1, LORA), alone, ways=ways),
        Case("two LoRA arms", fused(2, LORA), alone, lora, ways),
        Case("three prompts", fused(2, PROMPTS), alone, bare, ways),
    ]


def args(sizes: Sizes) -> list[Case]:
    """ARGS: the best k tokens through a reward model; plain transformers for k=10 alone."""
    ten = {"cuda": Ratio("ours", "floor", at_most=1.2)}
    few = {"new": sizes.few}
    return [
        Case(f"k={k}", fused(0, k=k), targets=ten, changes=few)
        if k == 10
        else Case(f"k={k}", fused(0, k=k), ways=("ours", "bare"))
        for k in sizes.ks
    ]


def full(sizes: Sizes) -> list[Case]:
    """The whole line: two LoRA arms and a reranking reward model."""
    eight = {"cuda": replace(PLAIN, at_least=8)}
    workload = fused(2, LORA, k=10)
    return [Case("LoRA arms, rerank", workload, PLAIN, eight, changes={"new": sizes.few})]


def vectors(sizes: Sizes) -> list[Case]:
    """Eleven preference vectors and four prompts as rows of one batch, over eleven runs."""
    five = {"cpu": replace(PLAIN, at_least=5)}
    formula = "base + (1-a)*arm_0 + a*arm_1"
    changes = {"batch_size": 4, "runs": 1}
    return [
        Case(name, Workload(formula, 2, shares), PLAIN, five, ("ours", "plain"), changes, 11)
        for name, shares in (("LoRA arms", LORA), ("separate arms", ""))
    ]


def batches(sizes: Sizes) -> list[Case]:
    """Two LoRA arms, in batches: tokens per second over those of one row."""
    speedup, ways = Ratio("one row", "ours", rows=True), ("ours", "plain", "bare", "one row")
    twenty = {"cuda": replace(speedup, at_least=20)}
    return [
        Case(
            f"batch {size}", fused(2, LORA), speedup, twenty if size == 32 else {}, ways,
            {"batch_size": size, "new": sizes.few},
        )
        for size in sizes.batches
    ]  # fmt: skip


def contexts(sizes: Sizes) -> list[Case]:
    """Two LoRA arms, after prompts of many lengths."""
    return [
        Case(
            f"{length} tokens", fused(2, LORA), Ratio("ours", "floor"),
            changes={"prompt_length": length, "new": sizes.few},
        )
        for length in sizes.contexts
    ]  # fmt: skip


def joining(sizes: Sizes) -> list[Case]:
    """More requests than slots, of many lengths, over static batches of plain transformers."""
    slots, requests = sizes.slots, 4 * sizes.slots
    longest = {"prompt_length": 4 * sizes.prompt, "new": 2 * sizes.new}
    return [
        Case(
            f"{requests} requests, {slots} slots", fused(2, LORA), PLAIN, ways=("ours", "plain"),
            changes={"batch_size": slots, "runs": 1, **longest}, joining=requests,
        )
    ]  # fmt: skip


BENCHMARKS: dict[str, Callable[[Sizes], list[Case]]] = {
    "separate": separate,
    "shared": shared,
    "args": args,
    "whole": full,
    "vectors": vectors,
    "batches": batches,
    "contexts": contexts,
    "joining": joining,
}
