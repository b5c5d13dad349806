"""What one step knows: the rows' numbers, the lanes to read, and what has gone wrong so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

from torch import Tensor
from torch.nn.functional import pad

from ...formula.nodes import Scalar, StageAddress, Staged
from ...formula.terms import Term

TINY = 1e-37  # float32 holds what is larger than this with all its digits


class Range(NamedTuple):
    """What the host knows of a number: its least and its largest value over the rows."""

    least: float
    most: float

    @property
    def idle(self) -> bool:
        """Whether it is 0 for every row."""
        return self == (0, 0)

    @property
    def splits(self) -> bool:
        """Whether it may be 0 for some rows and not for others."""
        return self.least <= 0 <= self.most and self.least != self.most

    @property
    def positive(self) -> bool:
        """Whether it is above 0 for every row, in float32 too."""
        return self.least > TINY

    @property
    def one(self) -> bool:
        """Whether it is 1 for every row."""
        return self == (1, 1)


Reading: TypeAlias = "Callable[[Context], Tensor]"  # given the context, which must not hold itself


class Rewarder(Protocol):
    """The rewards of candidates, and going on with one of them."""

    def rewards(self, candidates: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """``(slots, k)`` ids to ``(slots, k)`` per reward model, and ``(slots,)`` of the texts."""

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """``(slots,)`` which candidate each slot goes on with, and the tokens themselves."""


@dataclass
class Record:
    """What the stages of a step did, for those who ask.

    Attributes:
        stages: per stage, the ``(slots, V)`` scores that it was given and those that it gave.
        rewards: per stage that reranks, the ``(slots, k)`` candidates, what each of its models said
            of them, and what was added to their scores.
    """

    stages: dict[StageAddress, tuple[Tensor, Tensor]] = field(default_factory=dict)
    rewards: dict[StageAddress, tuple[Tensor, list[Tensor], Tensor]] = field(default_factory=dict)


@dataclass
class Context:
    """Everything that a step's operators and stages may look at besides scores.

    Attributes:
        values: ``(slots, scalars)`` float32, the plan's numbers for each row.
        columns: which column of ``values`` holds which number.
        terms: the scores of each term; calling one reads its lane, if any row needs it. Nothing
            here holds the context: a step's tensors go when the step ends, and not later.
        ranges: what the host knows of each column.
        steps: ``(slots,)`` int64, tokens that each row has drawn.
        vocabulary: tokens that are scored.
        width: columns of the scores: one more than tokens, where a model has another vocabulary.
        seen: ``(slots, V)`` bool, tokens read so far; where a stage of the plan needs them.
        rewarders: per stage that reranks, where any row has a weight on it.
        forced: ``(slots,)`` the tokens that come next whatever the scores, when scoring a text.
        texts: per slot, ``(L,)`` the ids that the formula's first term has read.
        ahead: reads the lanes that the step reads whatever its conditions say.
        asks: whether the step may ask the device which sides of a condition are needed.
        wanted: ``(slots, 1)`` bool, the rows that take the side of a condition that is being
            evaluated; None for every row. What the others get there is never looked at.
        staged: formulas in parentheses with stages, once evaluated.
        judges: the seats of the language models that a search judges by, and their scores.
        unsure: ``(slots,)`` int64, whether the scores were unsure, where a search asks for it.
        asked: per stage that reranks, the ``(slots, k)`` candidates of this step.
        broken: ``(slots,)`` bool tensors, one per source that can give NaN, filled as they come.
        record: what the stages did, where somebody asks for it.
    """

    values: Tensor
    columns: Mapping[Scalar, int]
    terms: Mapping[Term, Reading]
    ranges: Sequence[Range]
    steps: Tensor
    vocabulary: int
    width: int
    seen: Tensor | None = None
    rewarders: Mapping[StageAddress, Rewarder] = field(default_factory=dict)
    next_tokens: Tensor | None = None
    texts: Callable[[], list[Tensor]] = list
    ahead: Callable[[Context], None] = lambda context: None
    asks: bool = True
    wanted: Tensor | None = None
    staged: dict[Staged, Tensor] = field(default_factory=dict)
    search_terms: list[tuple[Any, Reading]] = field(default_factory=list)
    unsure: list[Tensor] = field(default_factory=list)
    asked: dict[StageAddress, Tensor] = field(default_factory=dict)
    broken: dict[tuple[str, object], Tensor] = field(default_factory=dict)
    record: Record | None = None

    @contextmanager
    def only(self, rows: Tensor | None) -> Iterator[None]:
        """Evaluate for these rows, ``(slots, 1)`` bool, or for all of them."""
        before, self.wanted = self.wanted, rows
        yield
        self.wanted = before

    def nothing(self) -> Tensor:
        """Zeros: a sum in which no row has a coefficient, or a term that no row depends on."""
        return self.values.new_zeros(self.values.shape[0], self.width)

    def tokens(self, scores: Tensor) -> Tensor:
        """``(slots, V)`` of scores: without the column for what is no token."""
        return scores[:, : self.vocabulary]

    def padded(self, scores: Tensor) -> Tensor:
        """``(slots, V)`` scores of tokens as scores, in which nothing else has probability."""
        more = self.width - self.vocabulary
        return pad(scores, (0, more), value=-float("inf")) if more else scores

    def number(self, scalar: Scalar) -> Tensor:
        """``(slots, 1)`` a number's value for each row."""
        column = self.columns[scalar]
        return self.values[:, column : column + 1]

    def widest(self, scalar: Scalar, limit: int) -> int:
        """The largest value over the rows of a number that counts tokens, at most ``limit``."""
        return min(int(self.range(scalar).most), limit)

    def runs(self, scalar: Scalar | None) -> bool:
        """Whether what this number multiplies matters to any row."""
        return scalar is None or not self.range(scalar).idle

    def range(self, scalar: Scalar) -> Range:
        """What the host knows of a number."""
        return self.ranges[self.columns[scalar]]
