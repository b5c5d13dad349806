"""What a lane asks of the memory that its rows' keys and values are in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from ...combinations import Combination
from ..window import Window

Block = TypeVar("Block")


class BlockManager(Protocol, Generic[Block]):
    """Blocks of memory, one for the text of each row, made before the row is in use.

    A row's keys lie side by side (``ContiguousBlocks``), with states of one size where layers have
    them (``StateBlocks``), or in pages (``PagedBlocks``).

    Attributes:
        held: the blocks of the rows in use, by the rows' numbers.
        cache: what transformers' models write to and read.
    """

    held: list[Block]
    cache: Any

    @property
    def shares(self) -> bool:
        """Whether what was read is found again."""

    @property
    def nbytes(self) -> int:
        """Bytes in use."""

    @property
    def free_pages(self) -> int | None:
        """Pages that could be taken now; None where every row has all the room it needs."""

    @property
    def all_pages(self) -> int | None:
        """Pages that there are."""

    def make(self, tokens: Sequence[int], combination: Combination) -> Block:
        """A block with room for a text.

        Args:
            tokens: of the text.
            combination: what sets it apart from others with the same tokens, and how much of it
                may be shared.

        Raises:
            OutOfPages: there is no room.
        """

    def known(self, block: Block, tokens: Sequence[int]) -> int:
        """How many of the first tokens of its text were read before."""

    def share(self, block: Block, tokens: Sequence[int]) -> int:
        """Put them there, for the rest to be read now; how many. In the order of the forwards."""

    def keep(self, block: Block, tokens: Sequence[int]) -> None:
        """Let others share what a block holds: the beginning of a text."""

    def join(self, blocks: Sequence[Block]) -> Sequence[Block]:
        """Put blocks in use, after those that are; the same ones in the order of their rows."""

    def fork(self, sources: Sequence[int]) -> None:
        """Rows more, after those in use, each as its source is."""

    def extend(self, ahead: int) -> int:
        """Room for so many more tokens after the text of each row; or how many pages it lacks."""

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Make each target row what its source was."""

    def rewind(self, row: int, length: int) -> None:
        """Of a row's text, only the first tokens count any more."""

    def drop(self, row: int) -> None:
        """Give a row's block up; the last row becomes this one."""

    def discard(self) -> None:
        """Give the blocks up that were made and are not in use."""

    def pages_of(self, tokens: int) -> int:
        """Pages that a text of so many tokens takes."""

    def pages_needed(self, tokens: Sequence[int], combination: Combination) -> int:
        """Pages that a block for a text, and one token more, takes of those that are free."""

    def clear(self) -> None:
        """Give all blocks up; what was read before may be found again."""

    def forget(self) -> None:
        """Let nothing be found that was read before: the weights are others."""

    def tables(self, blocks: Sequence[Block]) -> Tensor:
        """``(n, most)`` int32 on the host, the pages of blocks that are not in use yet."""

    def window(self, window: Window, blocks: Sequence[Block] | None = None) -> Window:
        """Write into a window where its rows' keys are, and return it.

        Of blocks that are not in use yet, it has their ``tables``, on the device.
        """

    def move_tokens(self, source: Tensor, target: Tensor) -> None:
        """Copy one token of each row, from cache position ``(n, 1)`` to ``(n, 1)``."""
