"""Scores of every position of a corpus, kept in a memory-mapped file: memory does not grow with it.

Windows of the file are mapped one at a time, and let go.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

WINDOW = 2**24  # bytes that are mapped at once
SHARE = 0.5  # of the free disk that a file may take
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Block(NamedTuple):
    """Some positions in the order of reading.

    Attributes:
        features: ``(n, width)`` float32, what was kept of each position, side by side.
        targets: ``(n,)`` int64, the token that comes there; and ``owners``, whose it is.
        steps: ``(n,)`` int64, tokens of the answer before it.
        number: of the first.
    """

    features: Tensor
    targets: Tensor
    owners: Tensor
    steps: Tensor
    number: int


def dtype_that_fits(count: int, width: int) -> str | None:
    """``float32`` where half of the free disk holds it, else ``bfloat16``, else None."""
    free = shutil.disk_usage(tempfile.gettempdir()).free * SHARE
    fit = (name for name, dtype in DTYPES.items() if count * width * dtype.itemsize <= free)
    return next(fit, None)


class KeptScores:
    """What was kept, a row per position.

    Args:
        dtype: ``float32`` or ``bfloat16``.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = DTYPES[dtype]
        self._file = tempfile.TemporaryFile(prefix="descant-fit-")  # noqa: SIM115, of this object
        self._numbers: list[Tensor] = []
        self.width = 0

    def add(self, features: Tensor, numbers: Tensor) -> None:
        """Append ``(n, width)`` float32, and ``(n, 3)`` int64: targets, owners and steps."""
        self.width = features.shape[1]
        kept = features.contiguous().to(self._dtype)
        (kept.view(torch.int16) if kept.itemsize == 2 else kept).numpy().tofile(self._file)
        self._numbers.append(numbers)

    def blocks(self, most: int, every: int = 1) -> Iterator[Block]:
        """All positions, at most so many at once; or every so-and-so-many-th block."""
        self._file.flush()
        numbers = torch.cat(self._numbers)
        held = np.int16 if self._dtype.itemsize == 2 else np.float32
        most = max(1, min(most, WINDOW // (self.width * self._dtype.itemsize)))
        for start in range(0, len(numbers), most * every):
            stop = min(start + most, len(numbers))
            offset = start * self.width * self._dtype.itemsize
            shape = stop - start, self.width
            window = np.memmap(self._file, held, "c", offset, shape)  # type: ignore[call-overload]
            features = torch.from_numpy(window)
            if self._dtype.itemsize == 2:
                features = features.view(self._dtype).float()
            yield Block(features, *numbers[start:stop].unbind(1), start)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def records_of(rows: Sequence[tuple[int, int, int, int]]) -> tuple[Tensor, Tensor]:
    """``(n,)`` rows, and ``(n, 3)`` targets, owners and steps."""
    each = torch.tensor(rows).reshape(-1, 4)
    return each[:, 0], each[:, 1:]
