"""What one step knows: the rows' numbers, the lanes to run, and what has gone wrong so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

from torch import Tensor
from torch.nn.functional import pad

from ...formula.nodes import Read, StageAddress, Staged
from ...formula.scalar import Scalar, StateNumber
from ...formula.words.operators import Operator
from ...formula.words.signature import MOST

TINY = 1e-37  # float32 holds what is larger than this with all its digits


class ScalarColumn(NamedTuple):
    """A number of the plan over the rows of a batch: its values, and what the host knows of them.

    Attributes:
        values: ``(slots, 1)`` float32.
        most: the largest.
        idle: whether it is 0 for every row.
        splits: whether it may be 0 for some rows and not for others.
        positive: whether it is above 0 for every row, in float32 too.
        one: whether it is 1 for every row.
        varies: whether it is another in each step, for any row; NaN until that is worked out.
        least: the smallest, where it is known.
    """

    values: Tensor
    most: float
    idle: bool
    splits: bool
    positive: bool
    one: bool
    varies: bool = False
    least: float = -math.inf


def numbers_of(values: Tensor, rows: Sequence[Sequence[float]]) -> list[ScalarColumn]:
    """The numbers of a batch, one per column of ``(slots, columns)``; ``rows``: on the host."""
    numbers = []
    for number, host in enumerate(zip(*rows, strict=True)):
        column = values[:, number : number + 1]
        if any(map(math.isnan, host)):
            numbers.append(ScalarColumn(column, MOST, False, True, False, False, True))
            continue
        low, high = min(host), max(host)
        splits = low <= 0 <= high and low != high
        numbers.append(
            ScalarColumn(
                column, high, low == high == 0, splits, low > TINY, low == high == 1, least=low
            )
        )
    return numbers


class Columns(dict[Scalar, int]):
    """Where a plan's numbers are among those of a batch.

    Attributes:
        states: what gives each number of the state, ``(slots, 1)``, made once.
        biases: per stage, the ids of its tokens and the columns of their numbers, on the device.
        reads: where what the plan reads is among the ``reads`` of a context.
    """

    def __init__(self, columns: Iterable[tuple[Scalar, int]], reads: Iterable[Read] = ()) -> None:
        super().__init__(columns)
        self.reads = {read: number for number, read in enumerate(reads)}
        self.states: dict[StateNumber, Reading] = {}
        self.biases: dict[Any, tuple[Tensor, Tensor]] = {}


Reading: TypeAlias = "Callable[[Context], Tensor]"  # given the context, which must not hold itself


class Rewarder(Protocol):
    """The rewards of candidates, and going on with one of them."""

    def ask(self, candidates: Tensor) -> bool:
        """Say what ``rewards`` will be asked for; whether it may be had with that of others."""

    def rewards(self, candidates: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """``(slots, k)`` ids to ``(slots, k)`` per reward model, and ``(slots,)`` of the texts."""

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """``(slots,)`` which candidate each slot goes on with, and the tokens themselves."""


@dataclass
class Record:
    """What the stages of a step did, for those who ask.

    Attributes:
        stages: per stage, the ``(slots, V)`` scores that it was given and those that it gave.
        rewards: per stage that reranks, the ``(slots, k)`` candidates, the rewards by each of its
            models, and what was added to their scores.
    """

    stages: dict[StageAddress, tuple[Tensor, Tensor]] = field(default_factory=dict)
    rewards: dict[StageAddress, tuple[Tensor, list[Tensor], Tensor]] = field(default_factory=dict)


class Needing(NamedTuple):
    """The rows that need an operator with a state: its coefficients are not all 0 for them.

    Attributes:
        rows: per slot in use.
        mask: ``(slots, 1)`` bool, the same with idle slots; None where all need it.
    """

    rows: Sequence[bool]
    mask: Tensor | None


@dataclass
class Context:
    """Everything that a step's operators and stages may look at besides scores.

    Attributes:
        values: ``(slots, numbers)`` float32, the plan's numbers for each row.
        numbers: the same, a column each, with what the host knows of it.
        columns: which column holds which number.
        reads: the scores of each term, and what heads give; calling one runs its lane, if any row
            needs it. Nothing
            here holds the context: a step's tensors are freed when the step ends.
        steps: ``(slots,)`` int64, tokens that each row has drawn.
        keys: ``(slots, 2)`` int32, of each row's noise; None where nothing is drawn.
        vocabulary: tokens that are scored.
        width: columns of the scores: one more than tokens, where a model has another vocabulary.
        tables: by ``TokenTable``, ``(slots, V)`` each, that stages of the plan look at.
        thoughts: where each text is among the marks of thought (``TextThoughts``); None where no
            number of the plan needs it.
        unreadable: ``(slots, V)`` bool, tokens that may not be drawn, for some model of the row
            cannot read them; None where every model reads every token.
        rewarders: per stage that reranks, where any row has a weight on it.
        search_terms: the row maps of the language models that a search judges by, and their scores.
        texts: per slot, ``(L,)`` the ids that the formula's first term has read.
        starts: per slot, how many of those ids come before the answer.
        row_states: per slot, the ``RowStates`` of its stages and operators; None in a draft, which
            goes without.
        needing: per operator with a state, the rows that need it.
        masks: of the rows' constraints; None without any, and in a draft, which goes without.
        mass_temperatures: ``(slots,)``, where it is wanted what masks keep: ``kept_mass`` has then
            ``(slots,)`` per constraint of a request or after the last bar: the logarithm of the
            probability of what it allows, by the scores that it is given, at that temperature (1
            where it is 0).
        next_tokens: ``(slots,)`` the tokens that come next whatever the scores, when scoring a
            text.
        syncs: whether the step may ask the device which sides of a condition are needed.
        logits: the lanes' ``Logits``, by their numbers, once they have run.
        wanted: ``(slots, 1)`` bool, the rows that take the side of a condition that is being
            evaluated; None for every row. What the others get there is never looked at.
        staged: formulas in parentheses with stages, and operators with a state, once evaluated.
        state_numbers: those that are worked out: for which rows, as ``wanted``, and the value.
        own: ``(slots, V)`` what the formula's own stages gave, without any that a request adds;
            ``own_apart``, whether somebody looks at it, for what a request masks comes before them.
        unsure: ``(slots,)`` int64, whether the scores were unsure, where a search needs it.
        candidates: per stage that reranks, the ``(slots, k)`` candidates of this step; and
            ``asked``, the best scores of those whose rewards were asked for, and the tokens.
        broken: ``(slots,)`` bool tensors, one per source that can give NaN, filled as they come.
        record: what the stages did, for an explanation.
        components: ``(rows, 1)`` int64, the part of the final mixture that each row has drawn, or
            -1 for all of it; and ``drawn``, on the host, those that any has. None where all rows
            have all of it.
    """

    values: Tensor
    numbers: Sequence[ScalarColumn]
    columns: Columns
    reads: Sequence[Reading]
    steps: Tensor
    vocabulary: int
    width: int
    tables: Mapping[Any, Tensor] = field(default_factory=dict)
    unreadable: Tensor | None = None
    rewarders: Mapping[StageAddress, Rewarder] = field(default_factory=dict)
    search_terms: Sequence[tuple[Any, Reading]] = ()
    texts: Callable[[], list[Tensor]] = list
    next_tokens: Tensor | None = None
    syncs: bool = True
    logits: dict[Any, Any] = field(default_factory=dict)
    wanted: Tensor | None = None
    staged: dict[Staged | Operator, Tensor] = field(default_factory=dict)
    state_numbers: dict[StateNumber, tuple[Tensor | None, Tensor]] = field(default_factory=dict)
    own: Tensor | None = None
    unsure: list[Tensor] = field(default_factory=list)
    candidates: dict[StageAddress, Tensor] = field(default_factory=dict)
    asked: dict[StageAddress, Any] = field(default_factory=dict)
    broken: dict[tuple[str, object], Tensor] = field(default_factory=dict)
    record: Record | None = None
    components: Tensor | None = None
    drawn: Collection[int] = ()
    starts: Callable[[], list[int]] = list
    row_states: Callable[[], list[Any]] | None = None
    needing: Mapping[Operator, Needing] = field(default_factory=dict)
    keys: Tensor | None = None
    own_apart: bool = False
    masks: Any = None
    mass_temperatures: Tensor | None = None
    kept_mass: list[Tensor] = field(default_factory=list)
    thoughts: Any = None

    @contextmanager
    def only(self, rows: Tensor | None) -> Iterator[None]:
        """Evaluate for these rows, ``(slots, 1)`` bool, or for all of them."""
        before, self.wanted = self.wanted, rows
        yield
        self.wanted = before

    def note(self, source: tuple[str, object], wrong: Tensor) -> None:
        """``(slots,)`` bool, the rows for which a source went wrong, of those that want it."""
        if self.wanted is not None:
            wrong = wrong & self.wanted[:, 0]
        before = self.broken.get(source)
        self.broken[source] = wrong if before is None else before | wrong

    def zeros(self) -> Tensor:
        """Scores of a sum in which no row has a coefficient, or of a term that no row needs."""
        return self.values.new_zeros(self.values.shape[0], self.width)

    def tokens(self, scores: Tensor) -> Tensor:
        """``(slots, V)`` of scores: without the column for what is no token."""
        return scores[:, : self.vocabulary]

    def padded(self, scores: Tensor) -> Tensor:
        """``(slots, V)`` scores of tokens as scores, in which nothing else has probability."""
        more = self.width - self.vocabulary
        return pad(scores, (0, more), value=-float("inf")) if more else scores

    def known(self, scalar: Scalar) -> ScalarColumn:
        """A number of the plan, with what the host knows of it."""
        return self.numbers[self.columns[scalar]]

    def number(self, scalar: Scalar) -> Tensor:
        """``(slots, 1)`` a number's value for each row."""
        return self.known(scalar).values

    def widest(self, scalar: Scalar, limit: int) -> int:
        """The largest value over the rows of a number that counts tokens, at most ``limit``."""
        return min(int(self.known(scalar).most), limit)

    def runs(self, scalar: Scalar | None) -> bool:
        """Whether what this number multiplies matters to any row."""
        return scalar is None or not self.known(scalar).idle
