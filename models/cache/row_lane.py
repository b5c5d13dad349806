"""A lane's rows, as ``lanes.protocols`` describes them: what every lane of texts has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..combinations import Combination
from ..errors import ModelError
from ..upload import Changes
from .row_items import Growing
from .rows import Rows


class RowLane:
    """The rows of a lane, as ``lanes.protocols`` describes them: texts on one device."""

    device: torch.device
    rows: Rows
    keeps_logits = False
    memory = 0
    free_pages: int | None = None
    all_pages: int | None = None
    shares_prefixes = is_paged = keeps_pages = weights_may_change = False

    @property
    def pool(self) -> int:
        return id(self)

    @property
    def ready(self) -> bool:
        return self.rows.next_logits is not None

    def reserve(self, rows: int, capacity: int, tokens: int | None = None) -> None:
        self.rows = Rows(rows, capacity, self.device)

    def grow(self, capacity: int, rows: int = 0, tokens: int | None = None) -> None:
        self.rows.grow(capacity, rows)

    def add_head(self, head: Any) -> Any:
        """Refused, where there are no layers."""
        raise ModelError(f"{head.name} is a head on a table, which has no layers", "", head.name)

    def use_buckets(self, on: bool) -> None:
        """Run idle rows too, so that forwards have few sizes; where the lane can."""

    def changes(self) -> Changes:
        return self.rows.changes()

    def extend(self, ahead: int) -> int:
        return 0

    def pages_of(self, tokens: int) -> int:
        return 0

    def shared_pages(self, tokens: int) -> int:
        return 0

    def pages_needed(self, tokens: Sequence[int], combination: Combination) -> int:
        return 0

    def cached_tokens(self, row: int) -> int:
        return 0

    def discard(self) -> None:
        pass

    def forget_prefixes(self) -> None:
        pass

    def release(self, row: int, text: Sequence[int] = ()) -> int:
        return self.rows.release(row)

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        self.rows.copy(sources, targets)

    def save(self) -> None:
        """Nothing: lengths tell."""

    def feed(self, tokens: Tensor, growing: Growing | None = None) -> None:
        self.rows.feed(tokens, growing)
