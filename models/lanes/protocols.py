"""What the runtime needs of a lane, whatever its weights are; lanes do not repeat it."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..cache.rows import Join, Rows
from ..footprint import Footprint


class Lane(Protocol):
    """A set of weights on one device, and rows of texts."""

    device: torch.device

    @property
    def rows(self) -> Rows:
        """The rows in use."""

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for so many rows of so many tokens, empty."""

    def grow(self, capacity: int, rows: int = 0) -> None:
        """Make room for longer texts and for more rows, and keep those there are."""

    def admit(self, prompts: Sequence[Any], adapters: Sequence[int]) -> Generator[int, None, Join]:
        """Read prompts, yielding before each forward how many tokens it reads.

        Between forwards, rows in use may step and leave.

        Returns:
            What puts the new rows in use, and returns their numbers.
        """

    def release(self, row: int) -> int:
        """Give a row up; the number of the row that took its place."""

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Make each target row, text and cache, what its source was."""

    def footprint(self) -> Footprint:
        """What the lane costs now, in bytes; not for every step."""

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can hold a step: the same work on one device, whatever the texts."""

    def graph_key(self, ahead: int) -> Hashable:
        """What the host decides for a forward of rows that each read ``ahead`` tokens at most."""


class LanguageLane(Lane, Protocol):
    """A lane of a language model."""

    @property
    def ready(self) -> bool:
        """Whether reading the prompts gave what follows every text: no step has to run."""

    def logits(self) -> Tensor:
        """Every row reads its pending token: ``(rows, V)`` logits of the next."""

    def logits_of_last(self, tokens: int) -> Tensor:
        """Every row reads its unread tokens: ``(rows, tokens, V)`` after its text's last tokens."""

    def feed(self, tokens: Tensor) -> None:
        """``(rows,)`` tokens to be read at the next step."""
