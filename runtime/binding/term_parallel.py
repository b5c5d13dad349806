"""Term parallelism: several processes decode one batch, each with the weights of some lanes.

Every rank does the bookkeeping of every lane and draws every token from the same random numbers, so
that all ranks decide alike. The logits of a lane are on the rank that holds its weights; one
all-reduce per step shares those of all lanes, and one per stage the rewards. Each rank then adds
the terms up in the order of the formula, so that the tokens are those of one process.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...errors import StateError


class TermParallel:
    """The ranks of one job, and the lanes that each of them holds.

    Attributes:
        rank: the number of this one, of ``size``; -1 where they are planned alone.
        owners: per lane, the rank that holds its weights; None for a lane that every rank has.
        seconds: spent in all-reduces so far (the host's time: on a GPU, that of their launch).
        sent: bytes that each rank has contributed to all-reduces so far.
    """

    def __init__(self, device: str) -> None:
        """Join the processes that ``torchrun`` or ``accelerate launch`` has started."""
        from accelerate import PartialState

        state = PartialState(cpu=not device.startswith("cuda"))
        self.rank, self.size = int(state.process_index), int(state.num_processes)
        self.device = torch.device(state.device if device.startswith("cuda") else device)
        self.owners: tuple[int | None, ...] = ()
        self.seconds, self.sent = 0.0, 0

    @classmethod
    def planned(cls, size: int) -> TermParallel:
        """So many processes that nobody has started: what each would hold."""
        ranks = cls.__new__(cls)
        ranks.rank, ranks.size, ranks.owners = -1, size, ()
        ranks.seconds, ranks.sent = 0.0, 0
        return ranks

    def assign(self, sizes: Sequence[int]) -> list[int]:
        """A rank for each set of weights: the largest first, to the rank with the fewest bytes."""
        held, ranks = [0] * self.size, [0] * len(sizes)
        for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
            ranks[number] = held.index(min(held))
            held[ranks[number]] += sizes[number]
        return ranks

    def all_reduce(self, lanes: Sequence[int], outputs: Sequence[Tensor]) -> list[Tensor]:
        """The lanes' float32 outputs, from the ranks that hold them; others contribute zeros."""
        reduced = list(outputs)
        remote = [i for i, lane in enumerate(lanes) if self.owners[lane] is not None]
        if self.size == 1 or not remote:
            return reduced
        start = time.perf_counter()
        flat = torch.cat([outputs[i].reshape(-1) for i in remote])
        dist.all_reduce(flat)
        parts = torch.split(flat, [outputs[i].numel() for i in remote])
        for i, part in zip(remote, parts, strict=True):
            reduced[i] = part.view(outputs[i].shape)
        self.seconds += time.perf_counter() - start
        self.sent += flat.nbytes
        return reduced

    def all_reduce_rewards(
        self, rewards: dict[int, tuple[Tensor, Tensor | None]]
    ) -> dict[int, tuple[Tensor, Tensor | None]]:
        """The same for reward lanes: the rewards of candidates and, where asked, of the texts."""
        lanes = [lane for lane, pair in rewards.items() for part in pair if part is not None]
        parts = [part for pair in rewards.values() for part in pair if part is not None]
        reduced = iter(self.all_reduce(lanes, parts))
        return {
            lane: (next(reduced), None if text is None else next(reduced))
            for lane, (_, text) in rewards.items()
        }

    def broadcast(self, numbers: Sequence[int]) -> list[int]:
        """The first rank's numbers, below 2**63."""
        tensor = torch.tensor(list(numbers), dtype=torch.int64, device=self.device)
        if self.size > 1:
            dist.broadcast(tensor, 0)
        return tensor.tolist()

    def check_alike(self, work: Any) -> None:
        """Refuse work that differs between ranks, which would then wait for each other forever.

        Raises:
            StateError: another rank has other work.
        """
        own = zlib.crc32(repr(work).encode())
        most = torch.tensor([own, -own], dtype=torch.int64, device=self.device)
        if self.size > 1:
            dist.all_reduce(most, dist.ReduceOp.MAX)
        if most.tolist() != [own, -own]:
            same = "the same prompts, parameters and settings, in the same order"
            problem = 'with parallel="terms" every process must ask for the same rows'
            raise StateError(f"{problem}: {same}")
