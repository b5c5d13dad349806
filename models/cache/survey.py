"""What a model asks of attention, and whether attention by live lengths can give it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Call(NamedTuple):
    """What one layer asks of attention.

    Attributes:
        head_size, value_size: of its keys and of its values.
        why_masked: what only masked attention knows of it, or None.
    """

    head_size: int
    value_size: int
    why_masked: str | None = None


class LayerShape(NamedTuple):
    """Of one layer: how many heads keys and values have, and how large a head is."""

    groups: int
    key_size: int
    value_size: int

    @property
    def numbers(self) -> int:
        """Of one position."""
        return self.groups * (self.key_size + self.value_size)


@dataclass
class Survey:
    """What one forward asked for.

    Attributes:
        calls: of attention, one per layer.
        deviations: where both kinds of attention were computed, how far the one by live lengths is
            from the masked one: as a share of the largest output, a tensor per call.
        shapes: of the layers of a cache; none where not all are known, or any has a state.
        state_bytes: of the states of one row.
    """

    calls: list[Call] = field(default_factory=list)
    deviations: list[Tensor] = field(default_factory=list)
    shapes: list[LayerShape] = field(default_factory=list)
    state_bytes: int = 0

    def why_masked(self) -> str | None:
        """Why attention by live lengths cannot give this, whatever the kernel; or None."""
        if not self.calls:
            return "its attention is not torch's scaled dot products"
        return next((call.why_masked for call in self.calls if call.why_masked), None)

    def deviation(self) -> float:
        """The largest one; infinite where there is none, or NaN. Asks the device."""
        if not self.deviations:
            return float("inf")
        largest = torch.stack([each.float().cpu() for each in self.deviations]).amax()
        return float(largest.nan_to_num(nan=torch.inf))
