"""A lane's rows, and the memory that their keys and values are in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ...combinations import Combination
from ...errors import OutOfPages
from ...footprint import Footprint, on_one_device
from ...kernels.live_attention import CHUNK
from ...recordings import Recordings
from ..kv_cache import RowCache
from ..layers.states import LayerKind
from ..live import LiveAttention
from ..row_lane import RowLane
from ..rows import Rows
from ..survey import LayerShape
from .contiguous import ContiguousBlocks
from .manager import BlockManager
from .paged import PagedBlocks
from .paged_cache import PagedCache
from .store import BYTES, PrefixStore


class BlockLane(RowLane):
    """Rows of texts, with a block of memory each.

    Attributes:
        page_size: positions of a page where they are in pages, 0 where side by side; None is a
            page on a GPU whose attention reads tables, and 0 elsewhere.
        shares_prefixes: whether what was read is found again.
        recordings: of forwards, once ``record`` was called.
        kept_logits: ``(rows, V)``, where recordings write and find logits, in the model's dtype on
            a GPU and else float32; and ``last_logits``, ``(rows, tokens, V)`` by tokens and rows,
            after the last of texts.
        memory: another whenever rows or logits are in other memory.
    """

    page_size: int | None = None
    shares_prefixes = True
    model: Any
    dtype: torch.dtype
    live: LiveAttention
    recordings: Recordings[Tensor] | None = None
    kept_logits: Tensor
    last_logits: dict[tuple[int, int], Tensor]
    blocks: BlockManager[Any]
    _kinds: Sequence[LayerKind] = ()  # of layers, where any keeps more than keys and values
    _reads_all: bool
    _limits: Sequence[int]
    _store: Any = None  # of copies of what was read
    _logits: Tensor | None  # of the rows' version ``_read_at``
    _read_at: int

    @property
    def is_paged(self) -> bool:  # type: ignore[override]
        """Whether the rows that are reserved next have pages."""
        return self._size_of_pages() > 0

    @property
    def free_pages(self) -> int | None:  # type: ignore[override]
        return self.blocks.free_pages

    @property
    def all_pages(self) -> int | None:  # type: ignore[override]
        return self.blocks.all_pages

    @torch.no_grad()
    def reserve(self, rows: int, capacity: int, tokens: int | None = None) -> None:
        self._logits, self._read_at = None, -1
        size = self._size_of_pages() if rows else 0
        if not rows:
            self._store = None
        if self._has(rows, capacity, tokens, size):
            self.rows.clear()  # over the same memory, so that recordings go on
            self._clear_blocks()
            return
        recorded, pages = self.recordings is not None, -(-capacity // size) if size else 0
        self.rows = Rows(rows, capacity, self.device, self._pending, self._limits, recorded, pages)
        if size:
            self._reserve_pages(rows, capacity, tokens, size)
        else:
            self.blocks = self._contiguous(rows, capacity)
        self._moved()

    def _contiguous(self, rows: int, capacity: int) -> BlockManager[Any]:
        """Rows that lie side by side."""
        if self._store is None and self._keeps_copies:
            self._store = PrefixStore()
        store = self._store if self._keeps_copies else None
        cache = RowCache(rows, capacity, int(self.recordings is not None), self._kinds)
        return ContiguousBlocks(self.rows, cache, store)

    def _has(self, rows: int, capacity: int, tokens: int | None, size: int) -> bool:
        """Whether the memory that there is serves again; a CPU takes it as it comes."""
        if not 0 < rows <= self.rows.most or not 0 < capacity <= self.rows.capacity:
            return False
        if isinstance(self.blocks, PagedBlocks):
            enough = self.blocks.all_pages >= _pages(rows, capacity, tokens, size)
            return size == self.blocks.cache.size and enough
        return not size and self.recordings is not None

    def _reserve_pages(self, rows: int, capacity: int, tokens: int | None, size: int) -> None:
        """Pages for new rows: those that there are and what was read, as far as that can be."""
        pages, blocks = _pages(rows, capacity, tokens, size), getattr(self, "blocks", None)
        if isinstance(blocks, PagedBlocks) and blocks.cache.size == size:
            self._clear_blocks()
            blocks.rows = self.rows
            with suppress(torch.OutOfMemoryError):  # for a moment there are both
                blocks.grow(pages)
                return
        del blocks
        self.blocks = ContiguousBlocks(self.rows, RowCache(0, 0))  # the old ones are freed first
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        cache = PagedCache(self._shapes, 1 + pages, size, like)
        self.blocks = PagedBlocks(self.rows, cache, self._may_share)

    def _clear_blocks(self) -> None:
        self.blocks.clear()
        if isinstance(self.blocks, PagedBlocks):
            self.blocks.shares = self._may_share  # it may have been said anew

    @torch.no_grad()
    def grow(self, capacity: int, rows: int = 0, tokens: int | None = None) -> None:
        if isinstance(self.blocks, PagedBlocks):
            self.rows.grow(capacity, rows, self.blocks.pages_of(capacity))
            self.blocks.grow(_pages(self.rows.most, capacity, tokens, self.blocks.cache.size))
        else:
            super().grow(capacity, rows)
            self.blocks.cache.grow(capacity, rows)
        self._logits = None
        self._moved()

    @torch.no_grad()
    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        super().copy_rows(sources, targets)
        self.blocks.copy(sources, targets)

    @torch.no_grad()
    def release(self, row: int, text: Sequence[int] = ()) -> int:
        if text:
            self.blocks.keep(self.blocks.held[row], text[: self.rows.counts()[0][row]])
        self.blocks.drop(row)
        return super().release(row)

    def extend(self, ahead: int) -> int:
        return self.blocks.extend(ahead)

    def pages_of(self, tokens: int) -> int:
        return self.blocks.pages_of(tokens)

    def shared_pages(self, tokens: int) -> int:
        return 0 if self._limits else max(0, self.blocks.pages_of(tokens + 1) - 1)

    def pages_needed(self, tokens: Sequence[int], combination: Combination) -> int:
        return self.blocks.pages_needed(tokens, combination)

    def cached_tokens(self, row: int) -> int:
        cached: int = self.blocks.held[row].cached
        return cached

    def discard(self) -> None:
        self.blocks.discard()

    def forget_prefixes(self) -> None:
        """Find nothing again that was read before now."""
        self.blocks.forget()

    def _make_room(self, ahead: int) -> None:
        """Have the device know all rows, and room for so many tokens after each text.

        Raises:
            OutOfPages: there is none.
        """
        if self.rows.pages and (lacking := self.blocks.extend(ahead)):
            problem = f"the texts take {lacking} pages more than the {self.all_pages} there are"
            raise OutOfPages(problem, "decode fewer rows at once")
        if self.rows.stale:
            self.rows.flush()

    def _goes_live(self, queries: int) -> bool:
        """Whether a step of so many queries per row attends by live lengths."""
        return self.rows.pages > 0 and self.live.takes(queries)

    @property
    def _pending(self) -> int:
        """Tokens at the end of a text that the next step reads."""
        return 0 if self._reads_all else 1

    @property
    def kept_bytes(self) -> int:
        """Of copies of what was read, at most."""
        return BYTES if self._keeps_copies and not self._size_of_pages() else 0

    @property
    def _keeps_copies(self) -> bool:
        """Whether what was read is copied, where rows cannot share it: on a CPU."""
        return self._may_share and self.device.type == "cpu"

    @property
    def _may_share(self) -> bool:
        """Whether the keys of a text's beginning are all there is, and the same in every text."""
        return self.shares_prefixes and not self._limits and not self._kinds

    @property
    def _footprint(self) -> Footprint:
        """What the lane costs without rows; to ask for it surveys the model's attention."""
        raise NotImplementedError

    @property
    def _shapes(self) -> Sequence[LayerShape]:
        raise NotImplementedError

    def _size_of_pages(self) -> int:
        """Positions of a page; 0 where keys lie side by side."""
        if self._kinds or (self.page_size is None and self.device.type != "cuda"):
            return 0
        if not self._footprint or not self._shapes or not on_one_device(self.model):
            return 0
        if self.page_size is None:
            return 0 if self.live.why_masked else CHUNK
        return self.page_size

    def _in_buffer(self, logits: Tensor) -> Tensor:
        """``(rows, V)`` logits of the first rows, where they stay; idle rows keep what they had."""
        if not len(self.kept_logits):
            shape = (self.rows.most, logits.shape[-1])
            dtype = logits.dtype if self.device.type == "cuda" else torch.float32
            self.kept_logits = torch.zeros(shape, dtype=dtype, device=self.device)
        self.kept_logits[: len(logits)] = logits
        return self.kept_logits[: self.rows.width]

    def _moved(self) -> None:
        """Rows and logits are in other memory than before."""
        self.kept_logits, self.last_logits = torch.empty(0), {}
        self.memory += 1
        if self.recordings is not None:
            self.recordings.clear()


def _pages(rows: int, capacity: int, tokens: int | None, size: int) -> int:
    """Pages for so many rows of so many tokens, or for fewer tokens in all: one text at least."""
    one = -(-capacity // size)
    return rows * one if tokens is None else max(one, min(rows * one, -(-tokens // size)))
