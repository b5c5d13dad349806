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
    """What is asked for, in its order.

    Attributes:
        prompts: token ids of each.
        parts: of the most new tokens, how much each is answered with.
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


def run(decoder: Any, asked: Arrivals, new: int) -> Iterator[list[Any]]:
    """Decode them all; after each step, the answers that got a token."""
    requests = decoder.session.builder.requests(asked.prompts, max_new_tokens=new, eos_token_id=[])
    each = zip(requests, asked.answers(new), strict=True)
    cut = [replace(request, max_new_tokens=tokens) for request, tokens in each]
    return decode(decoder.session.engine, cut, asked.slots)


def in_slots(decoder: Any, asked: Arrivals) -> Way:
    """Ours: a request joins when another has left."""

    def act(new: int, clock: Clock) -> list[list[int]]:
        found = {}
        for answers in run(decoder, asked, new):
            found |= {one.request.index: one.tokens for one in answers if one.finish_reason}
        return [found[index] for index in sorted(found)]

    return act


def in_static_batches(asked: Arrivals, pool: Pool, workload: Workload) -> Way:
    """Plain transformers: the next batch begins when the last answer of this one is done."""
    arms = [(arm, 0.5) for arm in pool.arms(workload)]

    def act(new: int, clock: Clock) -> list[list[int]]:
        found: list[list[int]] = []
        for first in range(0, len(asked.prompts), asked.slots):
            some = slice(first, first + asked.slots)
            wanted = asked.answers(new)[some]
            texts, mask = padded(asked.prompts[some], pool.device)
            done = plain.generate(pool["base"], texts, max(wanted), arms, mask=mask).tolist()
            found += [row[:count] for row, count in zip(done, wanted, strict=True)]
        return found

    return act


def padded(texts: list[list[int]], device: str) -> tuple[Tensor, Tensor]:
    """Token ids with padding on the left, and 1 where a token is one: ``(n, longest)`` each."""
    longest = max(map(len, texts))
    ids = [[0] * (longest - len(text)) + text for text in texts]
    mask = [[0] * (longest - len(text)) + [1] * len(text) for text in texts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def pauses(decoder: Any, asked: Arrivals, new: int) -> list[float]:
    """Milliseconds between one token of a row and its next, over all rows."""
    last: dict[int, float] = {}
    found = []
    for answers in run(decoder, asked, new):
        now = time.perf_counter()
        for answer in answers:
            index = answer.request.index
            if index in last:
                found.append((now - last[index]) * 1e3)
            last[index] = now
    return found
