"""Row maps: which row of its lane each slot has, one map per bound term of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..binding.bound_term import BoundTerm
from ..requests.request import Reading, Request


class RowMap:
    """One bound term's rows: which row of its lane each slot has.

    Attributes:
        number: of the term among those of the scores, or of its stage.
        needs: whether a request needs the term at all.
        source: names the term where its model gives NaN.
        rows: ``(slots,)`` int64; a slot without a row points at row 0, with the weight 0.
        present: ``(slots,)`` bool, whether the slot has a row.
        live: whether any slot has a row.
        is_identity: whether slot i has row i of a lane that has no others, so that nothing is
            gathered.
    """

    def __init__(self, term: BoundTerm, number: int, needs: Callable[[Request], bool]) -> None:
        self.term, self.number, self.needs = term, number, needs
        self.source: tuple[str, object] = ("stage", term.address)
        if term.language:
            self.source = ("term" if term.address is None else "search", number)
        self.held: list[int | None] = []
        self.rows = self.present = self._rows = self._present = torch.empty(0)
        self.live = self.is_identity = False

    def reserve(self, slots: int, device: torch.device) -> None:
        """Make room for so many slots; a step that is recorded reads from here again."""
        self._rows = torch.zeros(slots, dtype=torch.long, device=device)
        self._present = torch.zeros(slots, dtype=torch.bool, device=device)

    def settle(self, lane_rows: int, lane_width: int, width: int) -> None:
        """Make the tensors after the slots have changed: ``width`` of them, with idle ones."""
        self.live = any(row is not None for row in self.held)
        self.is_identity = width == lane_width and self.held == list(range(lane_rows))
        idle = width - len(self.held)
        self.rows = filled(self._rows, [row or 0 for row in self.held] + [0] * idle)
        present = [row is not None for row in self.held] + [False] * idle
        self.present = filled(self._present, present)

    def prompt(self, request: Request) -> Reading:
        """What the term reads of a request before the answer."""
        address = self.term.address
        return (request.prompts if address is None else request.rewards[address])[self.number]


def filled(buffer: Tensor, values: Sequence[int]) -> Tensor:
    """The beginning of a buffer, with these values in it."""
    return buffer[: len(values)].copy_(torch.tensor(values, dtype=buffer.dtype))
