"""Bytes that a step reads, which are the floor of its time."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor


@dataclass
class RunStats:
    """What a run has done so far.

    Attributes:
        steps: tokens of the longest row, if no row waited for another.
        tokens: drawn, over all rows.
        seconds: in steps, without reading prompts.
        bytes_read: weights and caches that the steps had to read.
        prompt_tokens: of all prompts, over all rows of all lanes.
        cached_tokens: of these, found in prefix caches.
        rounds: of drafts that were verified.
        drafted: tokens that were proposed, and ``accepted``, how many of them were drawn.
        forwards: of each lane in the steps and rounds, by the names of its models; filled where
            tokens are drafted.
        preempted: how often a request had to wait again, for others needed its memory.
        components: of the final mixture, how often each was drawn, by its number.
        mapped: for each model of another vocabulary, its name and ``(2,)``: the probability that it
            gave to the formula's tokens, summed, and of how many distributions.
    """

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    bytes_read: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    forwards: dict[str, int] = field(default_factory=dict)
    preempted: int = 0
    components: Counter[int] = field(default_factory=Counter)
    mapped: list[tuple[str, Tensor]] = field(default_factory=list)

    def clear(self) -> None:
        """Start from zero."""
        vars(self).update(vars(RunStats()))

    def add(self, tokens: int, bytes_read: int) -> None:
        """Count one step; its time is added later."""
        self.steps += 1
        self.tokens += tokens
        self.bytes_read += bytes_read

    def add_prompts(self, tokens: int, cached: int) -> None:
        """Count prompts of so many tokens, of which so many were found in a prefix cache."""
        self.prompt_tokens += tokens
        self.cached_tokens += cached

    def add_round(self, drafted: int, accepted: int) -> None:
        """Count one round, in which so many tokens were drafted, and so many of them accepted."""
        self.rounds += 1
        self.drafted += drafted
        self.accepted += accepted

    def mapped_shares(self) -> dict[str, float]:
        """The share of each model's probability on the formula's tokens; synchronizes the device.

        Models without any distribution are left out.
        """
        totals = [(name, *share.tolist()) for name, share in self.mapped]
        return {name: total / count for name, total, count in totals if count}

    def summary(self, bandwidth: float) -> str:
        """One line: how long a step took, and how many times its floor at this bandwidth."""
        many = f"{self.tokens} tokens in {self.steps} steps and {self.seconds:.3g} s"
        if not self.bytes_read:  # of one token each
            return f"{many}, all of them in the forwards that read the prompts"
        times = self.seconds * bandwidth / self.bytes_read
        each = f"{self.seconds / self.steps * 1e3:.3g} ms a step, {times:.3g} times its floor"
        return f"{many}, prompts left out: {each}"

    def draft_summary(self) -> str:
        """One line: what was drafted, how much of it was kept, and forwards per token.

        Forwards are those of the lanes over the tokens of all rows, which share them.
        """
        share = self.accepted / max(1, self.drafted)
        rounds = f"{self.rounds:,} round{'' if self.rounds == 1 else 's'}"
        line = f"{self.drafted:,} tokens in {rounds}, {self.accepted:,} of them ({share:.0%}) kept"
        each = [
            f"{forwards / max(1, self.tokens):.2g} forwards of {name}"
            for name, forwards in self.forwards.items()
        ]
        return f"{line}; per token {', '.join(each)}" if each else line

    def prompts(self, enable_prefix_caching: bool) -> str:
        """One line: the tokens of prompts, and what was not read again."""
        many = f"{self.prompt_tokens:,} tokens"
        if not enable_prefix_caching:
            return f"{many}; prefix caching is off"
        share = self.cached_tokens / max(1, self.prompt_tokens)
        return f"{many}, {self.cached_tokens:,} of them ({share:.0%}) from the prefix cache"


@cache
def copy_bandwidth(device: str) -> float:
    """Bytes per second that a copy on this device reads and writes, measured once."""
    size = (256 if device.startswith("cuda") else 32) << 20
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size / best


def si_bytes(size: float) -> str:
    """Bytes as text: ``4.08 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
