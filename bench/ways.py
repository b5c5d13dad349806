"""The timed ways of a case of the suite: ours in several forms, and theirs.

The clock, plain transformers and the bare loops are those of ``descant bench``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from bench.benchmarks import Case
from bench.joining import arrivals, in_slots, in_static_batches
from descant.bench import plain
from descant.bench.measure import Clock, Settings, Way, ours, theirs
from descant.bench.workloads import WORKLOADS, Pool


class Ways:
    """Everything that a case times, over one pool of models.

    Attributes:
        case: what is measured.
        settings: with the case's changes.
        prompts: ``(rows, length)`` token ids.
        decoder: ours, eager; ``captured`` the same, captured, with ``settings.capture``.
    """

    def __init__(self, case: Case, pool: Pool, settings: Settings) -> None:
        self.case, self._pool = case, pool
        self.settings = replace(settings, **case.changes)
        self.prompts = pool.prompts(self.settings.batch_size, self.settings.prompt_length)
        options: dict[str, Any] = {"params": {"a": 0.5}} if case.vectors else {}
        self.decoder = pool.decoder(case.workload, False, **options)
        self.captured = pool.decoder(case.workload, True, **options) if settings.capture else None
        self.arrivals = None
        if case.joining:
            texts = pool.prompts(case.joining, self.settings.prompt_length)
            self.arrivals = arrivals(texts, self.settings.batch_size)

    @property
    def best(self) -> Any:
        """Ours, captured if possible."""
        return self.captured or self.decoder

    def by_name(self) -> dict[str, Way]:
        """The ways of the case; ``captured`` comes after ``ours``."""
        ways: dict[str, Way] = {}
        for name in self.case.ways:
            ways[name] = self._way(name)
            if name == "ours" and self.captured is not None:
                ways["captured"] = self._ours(self.captured)
        return ways

    def _way(self, name: str) -> Way:
        match name:
            case "ours":
                return self._ours(self.decoder)
            case "one model":
                alone = self._pool.decoder(WORKLOADS[name], self.settings.capture)
                return ours(alone, self.prompts)
            case "one row":
                return ours(self.best, self.prompts[:1])
            case "plain" if self.arrivals is not None:
                return in_static_batches(self.arrivals, self._pool, self.case.workload)
            case "plain" if self.case.vectors:
                return self._one_by_one()
            case _:
                return theirs(self.case.workload, self._pool, self.prompts)[name]

    def _ours(self, decoder: Any) -> Way:
        if self.arrivals is not None:
            return in_slots(decoder, self.arrivals)
        if not self.case.vectors:
            return ours(decoder, self.prompts)
        rows = self.prompts.repeat_interleave(self.case.vectors, dim=0)
        return ours(decoder, rows, params={"a": self._weights() * len(self.prompts)})

    def _one_by_one(self) -> Way:
        """Plain transformers, over again for every preference vector."""
        base, arms = self._pool["base"], self._pool.arms(self.case.workload)

        def act(new: int, clock: Clock) -> list[Tensor]:
            return [
                plain.generate(base, self.prompts, new, list(zip(arms, (1 - a, a), strict=True)))
                for a in self._weights()
            ]

        return act

    def _weights(self) -> list[float]:
        return [i / (self.case.vectors - 1) for i in range(self.case.vectors)]
