"""Ranks: several processes that decode one batch together, each with the weights of some lanes.

Every process keeps the books of every lane and draws every token by itself, from the same numbers,
so that all decide alike. What a lane says is known to the process that holds its weights, and to
the others once it has met what theirs say: one all-reduce for all lanes of a step, and one for each
stage that asks reward models. Sums are formed afterwards, in the order of the formula, so that the
tokens are those of one process.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class TermParallel:
    """The processes of one job, and which of them holds which lane.

    Attributes:
        rank: the number of this one, of ``size``.
        owners: per lane, the rank that holds its weights; None for a lane that every rank has.
        seconds: spent in meetings so far (the host's time: on a GPU, what it takes to launch them).
        sent: bytes that every rank has given to meetings so far.
    """

    def __init__(self, device: str) -> None:
        """Join the processes that ``torchrun`` or ``accelerate launch`` has started."""
        from accelerate import PartialState

        state = PartialState(cpu=not device.startswith("cuda"))
        self.rank, self.size = int(state.process_index), int(state.num_processes)
        self.device = torch.device(state.device if device.startswith("cuda") else device)
        self.owners: tuple[int | None, ...] = ()
        self.seconds, self.sent = 0.0, 0

    def shared_out(self, sizes: Sequence[int]) -> list[int]:
        """A rank for each set of weights: the largest first, to whoever has least."""
        held, found = [0] * self.size, [0] * len(sizes)
        for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
            found[number] = held.index(min(held))
            held[found[number]] += sizes[number]
        return found

    def meet(self, lanes: Sequence[int], said: Sequence[Tensor]) -> list[Tensor]:
        """What lanes say, from the ranks that hold them; the others give zeros of that shape.

        Args:
            lanes: their numbers.
            said: a float32 tensor each, of any shape.
        """
        met = list(said)
        places = [i for i, lane in enumerate(lanes) if self.owners[lane] is not None]
        if self.size == 1 or not places:
            return met
        start = time.perf_counter()
        flat = torch.cat([said[i].reshape(-1) for i in places])
        dist.all_reduce(flat)
        parts = torch.split(flat, [said[i].numel() for i in places])
        for i, part in zip(places, parts, strict=True):
            met[i] = part.view(said[i].shape)
        self.seconds += time.perf_counter() - start
        self.sent += flat.nbytes
        return met

    def meet_rewards(
        self, found: dict[int, tuple[Tensor, Tensor | None]]
    ) -> dict[int, tuple[Tensor, Tensor | None]]:
        """The same for what reward lanes say of candidates, and of texts."""
        lanes = [lane for lane, said in found.items() for part in said if part is not None]
        parts = [part for said in found.values() for part in said if part is not None]
        met = iter(self.meet(lanes, parts))
        return {
            lane: (next(met), None if text is None else next(met))
            for lane, (_, text) in found.items()
        }

    def agreed(self, numbers: Sequence[int]) -> list[int]:
        """The first rank's numbers, below 2**63."""
        told = torch.tensor(list(numbers), dtype=torch.int64, device=self.device)
        if self.size > 1:
            dist.broadcast(told, 0)
        return told.tolist()

    def check_alike(self, work: Any) -> None:
        """Refuse work that is not the same on every rank; they would wait for each other forever.

        Raises:
            RuntimeError: another rank has been asked for something else.
        """
        mine = zlib.crc32(repr(work).encode())
        found = torch.tensor([mine, -mine], dtype=torch.int64, device=self.device)
        if self.size > 1:
            dist.all_reduce(found, dist.ReduceOp.MAX)
        if found.tolist() != [mine, -mine]:
            raise RuntimeError(
                'with parallel="terms" every process must ask for the same rows: the same prompts, '
                "parameters and settings, in the same order"
            )
