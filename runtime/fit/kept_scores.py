"""Scores of every position of a corpus, in a memory-mapped file, or read again in every pass.

Windows of the file are mapped one at a time, and let go: memory does not grow with the corpus.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ...disk import make_folder, saving

# Reads every text, and gives a callback the scores and numbers of some positions after another.
Pass = Callable[[Callable[[Tensor, Tensor], None]], Iterator[object]]
WINDOW = 2**24  # bytes that are mapped at once
SHARE = 0.5  # of the free disk that a file may take
KEPT = ".fit-"  # begins the names of files in a folder
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
        folder: where the files are, and stay until ``close``; left out, a temporary file.
        key: of what is kept there; files with another key are begun anew.
    """

    def __init__(self, dtype: str, folder: Path | None = None, key: str = "") -> None:
        self._dtype, self._paths = DTYPES[dtype], list[Path]()
        self._numbers = list[Tensor]()
        self._file: Any
        self._positions: Any = None
        self.width = 0
        if folder is None:
            self._where = Path(tempfile.gettempdir())
            self._file = tempfile.TemporaryFile(prefix="descant-fit-")  # noqa: SIM115, of this object
            return
        make_folder(folder)
        self._paths = [folder / f"{KEPT}{name}" for name in ("key", "scores", "positions")]
        self._where = folder
        with saving(self._where):
            self._open(key)

    def _open(self, key: str) -> None:
        """Open the files of a folder, as they are where they have this key."""
        if not (self._paths[0].is_file() and self._paths[0].read_text("utf-8") == key):
            for path in self._paths[1:]:
                path.write_bytes(b"")
            self._paths[0].write_text(key, "utf-8")
        self._file, self._positions = (path.open("r+b") for path in self._paths[1:])

    def resume(self, tokens: Sequence[int]) -> set[int]:
        """The texts that an earlier process has read to their end; ``tokens`` of each.

        What it kept of others is passed over: they are read again.
        """
        if self._positions is None:
            return set()
        numbers = np.fromfile(self._positions, np.int64)
        rows = len(numbers) // 4
        size = self._dtype.itemsize * (int(numbers[3]) if rows else 1)
        rows = min(rows, self._file.seek(0, 2) // size)
        self._file.truncate(rows * size)
        self._positions.truncate(rows * 32)
        self._file.seek(0, 2), self._positions.seek(0, 2)
        kept = torch.from_numpy(numbers[: rows * 4]).view(-1, 4)
        if not rows:
            return set()
        self.width = int(kept[0, 3])
        counts = torch.bincount(kept[:, 1], minlength=len(tokens)).tolist()
        done = {i for i, count in enumerate(counts) if 0 < count == tokens[i]}
        own = kept[:, :3].clone()
        own[~torch.isin(own[:, 1], torch.tensor(sorted(done))), 1] = -1
        self._numbers.append(own)
        return done

    def add(self, features: Tensor, numbers: Tensor) -> None:
        """Append ``(n, width)`` float32, and ``(n, 3)`` int64: targets, owners and steps."""
        self.width = features.shape[1]
        kept = features.contiguous().to(self._dtype)
        self._numbers.append(numbers)
        with saving(self._where):
            self._file.write(kept.view(torch.uint8).numpy().data)
            if self._positions is not None:
                self._file.flush()
                widths = numbers.new_full((len(numbers), 1), self.width)
                self._positions.write(torch.cat((numbers, widths), dim=1).numpy().data)
                self._positions.flush()

    def blocks(self, most: int, every: int = 1) -> Iterator[Block]:
        """All positions, at most so many at once; or every so-and-so-many-th block."""
        with saving(self._where):
            self._file.flush()
        numbers = torch.cat(self._numbers)
        held = np.int16 if self._dtype.itemsize == 2 else np.float32
        most = max(1, min(most, WINDOW // (self.width * self._dtype.itemsize)))
        for start in range(0, len(numbers), most * every):
            stop = min(start + most, len(numbers))
            offset = start * self.width * self._dtype.itemsize
            shape = stop - start, self.width
            window: Any = np.memmap(self._file, held, "c", offset, shape)
            features = torch.from_numpy(window)
            if self._dtype.itemsize == 2:
                features = features.view(self._dtype).float()
            own = numbers[start:stop]
            if (own[:, 1] < 0).any():
                features, own = features[own[:, 1] >= 0], own[own[:, 1] >= 0]
            targets, owners, steps = own.unbind(1)
            yield Block(features, targets, owners, steps, start)

    def close(self, finished: bool = True) -> None:
        """Remove the files; those in a folder stay for another process, where not ``finished``."""
        self._file.close()
        if self._positions is not None:
            self._positions.close()
        for path in self._paths if finished else ():
            path.unlink(missing_ok=True)


class RereadScores:
    """What ``KeptScores`` gives, read anew each time.

    Args:
        read: a pass over the texts.

    Attributes:
        width: of a position's scores.
    """

    def __init__(self, read: Pass) -> None:
        self._read, self.width = read, 0
        waiting = list[Tensor]()
        for _ in read(lambda features, _: waiting.append(features)):
            if waiting:
                self.width = waiting[0].shape[1]
                break

    def blocks(self, most: int, every: int = 1) -> Iterator[Block]:
        """All positions, at most so many at once; or every so-and-so-many-th block."""
        waiting = list[tuple[Tensor, Tensor]]()
        number, count = 0, 0
        for _ in self._read(lambda features, numbers: waiting.append((features, numbers))):
            for features, numbers in waiting:
                for start in range(0, len(numbers), most):
                    own = numbers[start : start + most]
                    if count % every == 0:
                        targets, owners, steps = own.unbind(1)
                        yield Block(features[start : start + most], targets, owners, steps, number)
                    number, count = number + len(own), count + 1
            waiting.clear()

    def close(self, finished: bool = True) -> None:
        """Nothing is kept."""


Scores: TypeAlias = KeptScores | RereadScores


def records_of(rows: Sequence[tuple[int, int, int, int]]) -> tuple[Tensor, Tensor]:
    """``(n,)`` rows, and ``(n, 3)`` targets, owners and steps."""
    each = torch.tensor(rows).reshape(-1, 4)
    return each[:, 0], each[:, 1:]
