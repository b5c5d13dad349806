"""Forwards that do not wait for each other: in turn, or on CUDA streams side by side.

Side by side, one forward's loads fill the gaps between another's kernels. Inside a recording the
streams become branches of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

Forward = Callable[[], Tensor]


def in_turn(forwards: Sequence[Forward]) -> list[Tensor]:
    """What each gives, one after the other."""
    return [forward() for forward in forwards]


def on_streams(forwards: Sequence[Forward]) -> list[Tensor]:
    """The same, each on a stream of its own; whoever uses the results waits for all of them."""
    if not torch.cuda.is_available():
        return in_turn(forwards)
    main = torch.cuda.current_stream()
    streams = [main, *(_stream(main.device, number) for number in range(1, len(forwards)))]
    outputs = []
    for stream in streams[1:]:
        stream.wait_stream(main)
    for forward, stream in zip(forwards, streams, strict=True):
        with torch.cuda.stream(stream):
            outputs.append(forward())
    for stream, result in zip(streams[1:], outputs[1:], strict=True):
        main.wait_stream(stream)
        result.record_stream(main)
    return outputs


@cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
