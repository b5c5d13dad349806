"""How prompts get their states: those of one length together, each token once.

What was read is kept where texts end, and where texts that begin alike part.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

from torch import Tensor

from ...cache.blocks.prefix_tree import common_prefix
from ...cache.blocks.state_store import STATE_BYTES, StateStore
from ...cache.blocks.states import StateBlocks
from ...cache.blocks.store import BYTES
from ...cache.kv_cache import RowCache
from ...cache.rows import Join
from ...checkpoint.architectures import BY_TOKEN, ONE_FORWARD
from .. import prefill
from ..transformers_lane import TransformersLane


class StatePromptLane(TransformersLane):
    """A lane's way into rows with states."""

    blocks: StateBlocks
    _store: StateStore | None = None
    pads = False

    @property
    def _pending(self) -> int:
        """0 where reading the prompts gives what follows each: they are read as they end."""
        return 0 if self._reads_all or self._says_logits else 1

    def _contiguous(self, rows: int, capacity: int) -> StateBlocks:
        if self._store is None and self._keeps_copies:
            self._store = StateStore()
        store = self._store if self._keeps_copies else None
        cache = RowCache(rows, capacity, 1, self._kinds)
        return StateBlocks(self.rows, cache, store, self._says_logits)

    @property
    def _may_share(self) -> bool:
        return self.shares_prefixes and not self._limits and not self._in_one

    @property
    def kept_bytes(self) -> int:
        return BYTES + STATE_BYTES if self._keeps_copies else 0

    def _read(
        self,
        pairs: Sequence[prefill.Pair],
        prompts: Sequence[Any],
        groups: Sequence[Any],
        waiting: Sequence[Any],
    ) -> Generator[int, None, Join]:
        """Read prompts; what follows each is kept with it."""
        while groups:
            for group in groups:
                logits = dict[prefill.Pair, Tensor]()
                yield from self._prefill(group, logits if self._says_logits else None)
                for prompt in group.prompts if logits else ():
                    self.blocks.say(prompt.block, prompt.ids, logits[prompt.pair])
            groups, waiting = self._next(waiting)
        return partial(self._join, pairs, prompts, None)

    def _next(self, prompts: Sequence[Any]) -> tuple[list[Any], Sequence[Any]]:
        groups, waiting = super()._next(prompts)
        for prompt in (prompt for group in groups for prompt in group.prompts):
            prompt.block.stops = self._stops(prompt, waiting) if self.blocks.shares else ()
        return groups, waiting

    def _stops(self, prompt: Any, waiting: Sequence[Any]) -> Sequence[int]:
        """Where a prompt parts from others that begin as it does: read before, or to be read."""
        own, ids = prompt.combination, prompt.ids[: prompt.combination.shared]
        lengths = {self.blocks.parts(prompt.block, ids)}
        alike = (other for other in waiting if other.combination.key == own.key)
        lengths |= {common_prefix(ids, other.ids) for other in alike}
        least = max(prompt.cached + prefill.ALIKE, len(own.images or ()))
        return [length for length in sorted(lengths) if least <= length < len(prompt.ids)]

    def _spans(self, prompts: Sequence[Any], first: int, end: int) -> Iterator[tuple[int, int]]:
        stops = sorted({stop for prompt in prompts for stop in prompt.block.stops if stop < end})
        spans = [
            span
            for start, stop in pairwise([first, *stops, end])
            for span in super(StatePromptLane, self)._spans(prompts, start, stop)
        ]
        while self._by_token and len(spans) > 1 and spans[-1][1] - spans[-1][0] == 1:
            spans[-2:] = [(spans[-2][0], end)]  # one token by itself is read by another rule
        yield from spans

    def _pass(self, prompts: Sequence[Any], end: int) -> None:
        for prompt in prompts:
            if end in prompt.block.stops:
                self.blocks.keep(prompt.block, prompt.ids[:end])

    def _grouped(self, prompts: Sequence[Any]) -> list[list[Any]]:
        groups = super()._grouped(prompts)
        if not self._in_one:
            return groups
        most = [max(1, prefill.CHUNK // len(group[0].ids)) for group in groups]
        pairs = zip(groups, most, strict=True)
        return [group[i : i + n] for group, n in pairs for i in range(0, len(group), n)]

    def _chunk(self, prompts: int) -> int:
        return sys.maxsize if self._in_one else super()._chunk(prompts)

    @cached_property
    def _in_one(self) -> bool:
        """Whether a prompt is read in one forward, however long it is."""
        return self.config.model_type in ONE_FORWARD

    @cached_property
    def _by_token(self) -> bool:
        """Whether rows read one token at a time."""
        return self.config.model_type in BY_TOKEN

    @cached_property
    def _says_logits(self) -> bool:
        """Whether the forwards that read prompts can give what follows each."""
        return not self._reads_all and prefill.gives_logits(self.model)
