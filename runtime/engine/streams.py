"""Forwards that do not wait for each other: in turn, or on CUDA streams side by side.

Side by side, one forward's loads fill the gaps between another's kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch

Forward = Callable[[], bool]


def in_turn(forwards: Sequence[Forward]) -> list[bool]:
    """What each gives, one after the other."""
    ran = []
    for forward in forwards:
        ran.append(forward())
    return ran


def on_streams(forwards: Sequence[Forward]) -> list[bool]:
    """Each on a stream of its own; the current one goes on when all have ended."""
    if len(forwards) == 1 or not torch.cuda.is_available():
        return in_turn(forwards)
    main = torch.cuda.current_stream()
    streams = [main, *(_stream(main.device, number) for number in range(1, len(forwards)))]
    for stream in streams[1:]:
        stream.wait_stream(main)
    ran = []
    for forward, stream in zip(forwards, streams, strict=True):
        with torch.cuda.stream(stream):
            ran.append(forward())
    for stream in streams[1:]:
        main.wait_stream(stream)
    return ran


@cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
