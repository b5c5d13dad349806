"""What the runtime needs of a lane, whatever its weights are; lanes do not repeat it."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..cache.live import LiveAttention
from ..cache.row_items import Growing
from ..cache.rows import Join, Rows
from ..combinations import Combination
from ..footprint import Footprint
from ..heads.declared import DeclaredHead
from ..heads.layer_heads import HeadColumns
from ..layers.fused_layers import FusedLayers
from ..recordings import Recordings
from ..upload import Changes


class Lane(Protocol):
    """A set of weights on one device, and rows of texts."""

    device: torch.device

    @property
    def rows(self) -> Rows:
        """The rows in use."""

    free_pages: int | None
    """Pages that could be taken now; None where every row has all the room it needs."""

    all_pages: int | None
    """Pages that there are."""

    @property
    def pool(self) -> int:
        """Tells the memory that its pages are in from that of others."""

    def reserve(self, rows: int, capacity: int, tokens: int | None = None) -> None:
        """Make room for so many rows of so many tokens, empty.

        Args:
            rows, capacity: at most.
            tokens: of all rows together, where they share pages; None is all that they could have.
        """

    def grow(self, capacity: int, rows: int = 0, tokens: int | None = None) -> None:
        """Make room for longer texts and for more rows, and keep those there are.

        Arguments are those of ``reserve``.
        """

    def use_buckets(self, on: bool) -> None:
        """Run idle rows too, so that forwards have few sizes; where the lane can."""

    def admit(
        self, prompts: Sequence[Any], combinations: Sequence[Combination]
    ) -> Generator[int, None, Join]:
        """Take room for prompts; what reads them, yielding before each forward its tokens.

        Between forwards, rows in use may step and leave.

        Args:
            prompts: token ids, or text.
            combinations: what each adds to the weights, of the lane's ``adapters``.

        Raises:
            OutOfPages: there is no room.

        Returns:
            What puts the new rows in use, and returns their numbers.
        """

    shares_prefixes: bool
    """Whether what was read is found again."""

    weights_may_change: bool
    """Whether they belong to somebody who may change them between two runs."""

    @property
    def is_paged(self) -> bool:
        """Whether the rows that are reserved next have pages."""

    @property
    def keeps_pages(self) -> bool:
        """Whether the rows that are reserved next have the pages that there are, and no others."""

    def forget_prefixes(self) -> None:
        """Find nothing again that was read before now."""

    def cached_tokens(self, row: int) -> int:
        """Tokens of a row's prompt that were read before it came."""

    def discard(self) -> None:
        """Give up what was taken for prompts that will not be read."""

    def pages_of(self, tokens: int) -> int:
        """Pages that a text of so many tokens takes."""

    def shared_pages(self, tokens: int) -> int:
        """Those of them that copies of the text share, for they are full."""

    def pages_needed(self, tokens: Sequence[int], combination: Combination) -> int:
        """Pages that a prompt, and one token more, takes of those that are free."""

    def extend(self, ahead: int) -> int:
        """Room for so many more tokens after each text; or how many pages are lacking."""

    def release(self, row: int, text: Sequence[int] = ()) -> int:
        """Give a row up; the number of the row that took its place.

        Args:
            text: what of its tokens the host knows, for others that begin alike.
        """

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Make each target row, text and cache, what its source was."""

    def save(self) -> None:
        """Keep what has to be kept of every row for its text to be cut back, to here or beyond."""

    def changes(self) -> Changes:
        """What the host has changed of the rows, to be copied to the device before the next step.

        It is taken for done: a second call has nothing.
        """

    def footprint(self) -> Footprint:
        """What the lane costs now, in bytes; not for every step."""

    @property
    def why_eager(self) -> str | None:
        """Why a CUDA graph cannot hold its work: the same on one device, whatever the texts."""

    def graph_key(self, ahead: int) -> Hashable:
        """What the host decides for a forward of rows that each read ``ahead`` tokens at most."""


class LanguageLane(Lane, Protocol):
    """A lane of a language model."""

    vocabulary: int
    """Columns of the logits."""

    recordings: Recordings[Tensor] | None

    kept_logits: Tensor  # ``(most rows, V)``, where rows are bucketed

    @property
    def keeps_logits(self) -> bool:
        """Whether ``logits`` are in memory that stays, once ``record`` was called."""

    @property
    def memory(self) -> Hashable:
        """Another whenever the rows, or the logits that stay, are in other memory."""

    def logits_key(self) -> Hashable:
        """What the host decides about where ``logits`` are, and where tokens are fed."""

    @property
    def live(self) -> LiveAttention:
        """Which forwards attend by live lengths."""

    @property
    def fused(self) -> FusedLayers:
        """Whether those compute their layers in few launches."""

    def add_head(self, head: DeclaredHead) -> HeadColumns:
        """Give what a head says from the next forward on, beside the logits.

        Raises:
            ModelError: it cannot be read, or does not fit the model.
        """

    def record(self) -> None:
        """Record forwards from now on, in buckets of rows, where that can be."""

    @property
    def ready(self) -> bool:
        """Whether reading the prompts gave what follows every text: no step has to run."""

    def forward(self) -> bool:
        """Read every row's pending token, for ``logits``; once, until a text changes.

        False where reading the prompts gave what follows every text, and no forward had to run.
        """

    def logits(self) -> Tensor:
        """``(rows, V)`` logits of the next tokens, as ``forward`` gave them; it runs if need be.

        Behind them, and behind those of ``logits_of_last``, are the columns of the heads.
        """

    def logits_of_last(self, tokens: int) -> Tensor:
        """Every row reads its unread tokens: ``(rows, tokens, V)`` after its text's last tokens."""

    def feed(self, tokens: Tensor, growing: Growing | None = None) -> None:
        """``(rows,)`` tokens to be read at the next step, by all rows or those ``growing``."""


class RewardLane(Lane, Protocol):
    """A lane of a reward model."""

    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rewards of each row's text followed by each of ``(rows, k)`` candidates.

        Returns:
            ``(rows, k, labels)`` float32; and ``(rows, labels)``, those of the texts themselves,
            where that costs nothing more.
        """

    def rewards_along(self, candidates: Tensor, after: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """The same at several positions of each text, which stays as it is.

        Every row reads its unread tokens. None of the candidates is kept.

        Args:
            candidates: ``(rows, positions, k)``.
            after: ``(rows, positions)`` int64, how many tokens of the text come after each
                position: its candidates follow the text without them. A row with fewer positions
                repeats one.
            most: no position has more tokens after it, and at least one comes before.

        Returns:
            ``(rows, positions, k, labels)`` float32; and ``(rows, positions, labels)``, those of
            the texts up to each position.
        """

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """Go on with ``(rows,)`` tokens; ``choice``, their indices in the last ``rewards``."""

    def feed(self, tokens: Tensor, growing: Growing | None = None) -> None:
        """``(rows,)`` tokens to be read with the next candidates, as of a language lane."""

    def plan_line(self, candidates: str) -> str:
        """How candidates are scored, for the plan."""
