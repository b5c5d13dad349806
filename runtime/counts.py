"""What the formulas of a service have counted since its start, added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Counts:
    """The counts of a service, which has decoders and says whether prefixes are cached."""

    cache: Any
    _decoders: Sequence[Any]

    def prefix_cache_counts(self) -> tuple[int, int]:
        """Tokens of prompts that its formulas have looked up in prefix caches, and found there."""
        if not self.cache.enable_prefix_caching:
            return 0, 0
        stats = [decoder.session.engine.stats for decoder in self._decoders]
        return sum(each.prompt_tokens for each in stats), sum(each.cached_tokens for each in stats)

    @property
    def preempted(self) -> int:
        """How often a request of its formulas had to wait again, for others needed what it had."""
        return sum(decoder.session.engine.stats.preempted for decoder in self._decoders)

    def draft_counts(self) -> tuple[int, int, int]:
        """Drafts that were verified, their tokens, and how many of these were accepted."""
        stats = [decoder.session.engine.stats for decoder in self._decoders]
        counts = [(0, 0, 0), *((each.rounds, each.drafted, each.accepted) for each in stats)]
        return tuple(map(sum, zip(*counts, strict=True)))  # type: ignore[return-value]
