"""What one step knows: the rows' numbers, the lanes to read, and what has gone wrong so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ..formula.nodes import Place, Scalar, Staged
from ..formula.terms import Term
from .scored import Scored


class Rewarder(Protocol):
    """The rewards of candidates, and going on with one of them."""

    def rewards(self, candidates: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """``(slots, k)`` ids to ``(slots, k)`` per reward model, and ``(slots,)`` of the texts."""

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """``(slots,)`` which candidate each slot goes on with, and the tokens themselves."""


@dataclass
class Context:
    """Everything that a step's operators and stages may look at besides scores.

    Attributes:
        values: ``(slots, scalars)`` float32, the plan's numbers for each row.
        columns: which column of ``values`` holds which number.
        terms: the scores of each term; calling one reads its lane, if any row needs it.
        most: for the plan's whole numbers, the largest over the rows; known on the host.
        idle: columns that are zero for every row; known on the host.
        steps: ``(slots,)`` int64, tokens that each row has drawn.
        vocabulary: tokens that are scored.
        seen: ``(slots, V)`` bool, tokens read so far; where a stage of the plan needs them.
        rewarders: per stage that reranks, where any row has a weight on it.
        forced: ``(slots,)`` the tokens that come next whatever the scores, when scoring a text.
        texts: per slot, ``(L,)`` the ids that the formula's first term has read.
        wanted: ``(slots, 1)`` bool, the rows that take the side of a condition that is being
            evaluated; None for every row. What the others get there is never looked at.
        staged: formulas in parentheses with stages, once evaluated.
        judges: the seats of the language models that a search judges by, and their scores.
        unsure: ``(slots,)`` int64, whether the scores were unsure, where a search asks for it.
        asked: per stage that reranks, the ``(slots, k)`` candidates of this step.
        broken: ``(slots,)`` bool tensors, one per source that can give NaN, filled as they come.
    """

    values: Tensor
    columns: Mapping[Scalar, int]
    terms: Mapping[Term, Callable[[], Scored]]
    most: Mapping[int, int]
    idle: frozenset[int]
    steps: Tensor
    vocabulary: int
    seen: Tensor | None = None
    rewarders: Mapping[Place, Rewarder] = field(default_factory=dict)
    forced: Tensor | None = None
    texts: Callable[[], list[Tensor]] = list
    wanted: Tensor | None = None
    staged: dict[Staged, Scored] = field(default_factory=dict)
    judges: list[tuple[Any, Callable[[], Scored]]] = field(default_factory=list)
    unsure: list[Tensor] = field(default_factory=list)
    asked: dict[Place, Tensor] = field(default_factory=dict)
    broken: dict[tuple[str, object], Tensor] = field(default_factory=dict)

    @contextmanager
    def only(self, rows: Tensor | None) -> Iterator[None]:
        """Evaluate for these rows, ``(slots, 1)`` bool, or for all of them."""
        before, self.wanted = self.wanted, rows
        yield
        self.wanted = before

    def nothing(self) -> Scored:
        """Zeros: a sum in which no row has a coefficient, or a term that no row depends on."""
        shape = (self.values.shape[0], self.vocabulary)
        return Scored(self.values.new_zeros(shape), None)

    def number(self, scalar: Scalar) -> Tensor:
        """``(slots, 1)`` a number's value for each row."""
        column = self.columns[scalar]
        return self.values[:, column : column + 1]

    def widest(self, scalar: Scalar, limit: int) -> int:
        """The largest value over the rows of a number that counts tokens, at most ``limit``."""
        return min(self.most[self.columns[scalar]], limit)

    def runs(self, scalar: Scalar | None) -> bool:
        """Whether what this number multiplies matters to any row."""
        return scalar is None or self.columns[scalar] not in self.idle
