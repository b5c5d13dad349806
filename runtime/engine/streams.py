"""Forwards that do not wait for each other: one after the other, or on CUDA streams side by side.

Side by side, one forward's loads fill the gaps between another's kernels. Inside a recording the
streams become branches of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

Read = Callable[[], Tensor]


def in_turn(reads: Sequence[Read]) -> list[Tensor]:
    """What each gives, one after the other."""
    return [read() for read in reads]


def beside(reads: Sequence[Read]) -> list[Tensor]:
    """The same, each on a stream of its own; whoever uses the results waits for all of them."""
    if not torch.cuda.is_available():
        return in_turn(reads)
    main = torch.cuda.current_stream()
    streams = [main, *(_stream(main.device, number) for number in range(1, len(reads)))]
    found = []
    for stream in streams[1:]:
        stream.wait_stream(main)
    for read, stream in zip(reads, streams, strict=True):
        with torch.cuda.stream(stream):
            found.append(read())
    for stream, result in zip(streams[1:], found[1:], strict=True):
        main.wait_stream(stream)
        result.record_stream(main)
    return found


@cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
