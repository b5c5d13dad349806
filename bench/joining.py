"""Requests of many lengths that share a few slots, and the pauses between a row's tokens.

Plain transformers decodes them in static batches: as many prompts at once as there are slots,
padded to the longest, until the longest of their answers is done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from descant.bench import plain
from descant.bench.measure import Clock, Way
from descant.bench.workloads import Pool, Workload
from descant.runtime.loops.decode import decode

GOLDEN = 0.6180339887  # multiples of it, less their whole part, are spread evenly


@dataclass(frozen=True)
class Arrivals:
    """What is arriving for, in its order.

    Attributes:
        prompts: token ids of each.
        parts: the length of each answer, as a part of the longest.
        slots: decoded at once.
    """

    prompts: list[list[int]]
    parts: list[float]
    slots: int

    def answers(self, new: int) -> list[int]:
        """Tokens of each answer, where the longest may have so many."""
        return [max(1, round(part * new)) for part in self.parts]


def arrivals(prompts: Tensor, slots: int, alike: bool = False) -> Arrivals:
    """A request of every prompt ``(requests, length)``, cut to many lengths, as are the answers.

    Args:
        prompts: token ids.
        slots: decoded at once.
        alike: cut nothing.
    """
    count, length = prompts.shape
    parts = [1.0 if alike else GOLDEN * (1 + i) % 1 for i in range(2 * count)]
    ends = [max(2, round(part * length)) for part in parts[:count]]
    texts = [row[:end] for row, end in zip(prompts.tolist(), ends, strict=True)]
    return Arrivals(texts, parts[count:], slots)


def run(decoder: Any, arriving: Arrivals, new: int) -> Iterator[list[Any]]:
    """Decode them all; after each step, the answers that got a token."""
    requests = decoder.session.builder.requests(
        arriving.prompts, max_new_tokens=new, eos_token_id=[]
    )
    each = zip(requests, arriving.answers(new), strict=True)
    cut = [replace(request, max_new_tokens=tokens) for request, tokens in each]
    return decode(decoder.session.engine, cut, arriving.slots)


def in_slots(decoder: Any, arriving: Arrivals) -> Way:
    """Ours: a request joins when another has left."""

    def act(new: int, clock: Clock) -> list[list[int]]:
        tokens = {}
        for answers in run(decoder, arriving, new):
            tokens |= {a.request.index: a.tokens for a in answers if a.finish_reason}
        return [tokens[index] for index in sorted(tokens)]

    return act


def in_static_batches(arriving: Arrivals, pool: Pool, workload: Workload) -> Way:
    """Plain transformers: the next batch begins when the last answer of this one is done."""
    arms = [(arm, 0.5) for arm in pool.arms(workload)]

    def act(new: int, clock: Clock) -> list[list[int]]:
        tokens: list[list[int]] = []
        for first in range(0, len(arriving.prompts), arriving.slots):
            batch = slice(first, first + arriving.slots)
            wanted = arriving.answers(new)[batch]
            texts, mask = padded(arriving.prompts[batch], pool.device)
            done = plain.generate(pool["base"], texts, max(wanted), arms, mask=mask).tolist()
            tokens += [row[:count] for row, count in zip(done, wanted, strict=True)]
        return tokens

    return act


def padded(texts: list[list[int]], device: str) -> tuple[Tensor, Tensor]:
    """Token ids with padding on the left, and 1 where a token is one: ``(n, longest)`` each."""
    longest = max(map(len, texts))
    ids = [[0] * (longest - len(text)) + text for text in texts]
    mask = [[0] * (longest - len(text)) + [1] * len(text) for text in texts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def pauses(decoder: Any, arriving: Arrivals, new: int) -> list[float]:
    """Milliseconds between one token of a row and its next, over all rows."""
    last: dict[int, float] = {}
    milliseconds = []
    for answers in run(decoder, arriving, new):
        now = time.perf_counter()
        for answer in answers:
            index = answer.request.index
            if index in last:
                milliseconds.append((now - last[index]) * 1e3)
            last[index] = now
    return milliseconds
