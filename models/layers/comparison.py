"""Layers computed both ways in the first forward of a lane: how far the two are apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# How far what a layer adds may be from what it adds by the other way, as a share of its norm; and
# one rounding of a hidden state, of which that may be a small part.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class Comparison:
    """What one forward has shown.

    Attributes:
        problem: what is wrong beyond numbers, or None.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._shares: list[Tensor] = []

    def tried(self, compute: Callable[[], Tensor]) -> Tensor | None:
        """What is computed; None where it fails, or something has before."""
        if self.problem is not None:
            return None
        try:
            return compute()
        except Exception as error:  # compilers and drivers have exceptions of their own
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self.problem = f"its kernel fails: {lines[0]}"
        return None

    def add(self, found: Tensor | None, expected: Any, hidden: Tensor) -> None:
        """Take note of a layer.

        Args:
            found: what it gives, in few launches.
            expected: what its own code gives.
            hidden: what it was given.
        """
        if found is None:
            return
        if not isinstance(expected, Tensor) or expected.shape != found.shape:
            self.problem = "its layers give more than hidden states"
            return
        wide = expected.float()
        allowed = TOLERANCE[expected.dtype] * (wide - hidden.float()).norm()
        allowed += torch.finfo(expected.dtype).eps * wide.norm()
        self._shares.append((found.float() - wide).norm() / allowed.clamp(min=1e-30))

    def why_not(self) -> str | None:
        """Why layers are not to be computed in few launches, or None. Asks the device."""
        if self.problem is not None or not self._shares:
            return self.problem
        largest = torch.stack([each.cpu() for each in self._shares]).amax()
        share = float(largest.nan_to_num(nan=torch.inf))
        return f"its kernels are {share:.2g} times as far off as rounding" if share > 1 else None

    @property
    def is_empty(self) -> bool:
        """Whether no layer was computed both ways."""
        return not self._shares and self.problem is None
