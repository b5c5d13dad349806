"""An operator of one's own, tried before any formula has it: on two rows, together and alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ....errors import ArgumentError
from ....formula.words.signature import Shift
from .functions import OwnFunction, Rows

Numbers: TypeAlias = Mapping[str, tuple[float, float]]

SIZES = 7, 11  # vocabularies; a function may be for one alone, and says so
STEPS, TOLERANCE = 3, 1e-4  # of float32, whose sums are rounded otherwise in another shape
TEXTS = [3, 1, 4, 1, 5], [2, 6]  # what the rows have read; a token more at each step


@torch.no_grad()
def try_rows(
    name: str,
    function: OwnFunction,
    scores: Sequence[str],
    numbers: Numbers,
    vocabulary: int | None = None,
    on_shift: Shift = Shift.FELT,
) -> None:
    """Refuse a function that does not treat each row by itself, or returns no scores.

    Args:
        name: of the operator.
        function: its function.
        scores: the names of its parameters that are scores.
        numbers: the others, each with two values that it may have.
        vocabulary: tokens, where it is for so many alone.
        on_shift: what one number added to all scores of a parameter is to do.

    Raises:
        ArgumentError: says what is wrong, and how to write it.
    """
    for size in (vocabulary,) if vocabulary else SIZES:
        try:
            _try(name, function, scores, numbers, size)
            if on_shift is not Shift.FELT:
                _shift(name, function, scores, numbers, size, on_shift)
        except ArgumentError:
            raise
        except Exception as error:
            problem = f"the operator {name} fails on two rows of {size} tokens: {error}"
            cure = "" if vocabulary else "; give vocabulary= where it is for so many tokens alone"
            raise ArgumentError(problem + cure) from error


def _try(
    name: str, function: OwnFunction, scores: Sequence[str], numbers: Numbers, size: int
) -> None:
    random = torch.Generator().manual_seed(size)
    states: list[list[Any]] = [[], [], []]  # of both rows, and of each alone
    if function.make_state is not None:
        states = [[function.make_state() for _ in rows] for rows in ((0, 1), (0,), (1,))]
    for step in range(STEPS):
        last = step == STEPS - 1  # with another number in each row, of which it may make NaN
        inputs, values = _drawn(scores, numbers, size, random, int(last))
        ids = [torch.tensor([*text, *range(step)]) % size for text in TEXTS]
        found = []
        for which, rows in enumerate(((0, 1), (0,), (1,))):
            picked = torch.tensor(rows)
            out, states[which] = function.call(
                {key: each[picked] for key, each in inputs.items()},
                {key: each[picked] for key, each in values.items()},
                Rows(states[which], [ids[row] for row in rows], [len(TEXTS[row]) for row in rows]),
            )
            found.append(out)
        _compare(name, found[0], torch.cat(found[1:]), finite=not last)


def _drawn(
    scores: Sequence[str], numbers: Numbers, size: int, random: torch.Generator, other: int = 0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Scores and numbers for two rows; the second has the ``other`` value of each number."""
    inputs = {
        each: torch.randn(2, size, generator=random).mul_(2).log_softmax(-1) for each in scores
    }
    pairs = {each: (values[0], values[other]) for each, values in numbers.items()}
    return inputs, {each: torch.tensor(pair)[:, None] for each, pair in pairs.items()}


def _shift(
    name: str,
    function: OwnFunction,
    scores: Sequence[str],
    numbers: Numbers,
    size: int,
    on_shift: Shift,
) -> None:
    """Refuse a word on shifts that does not hold."""
    inputs, values = _drawn(scores, numbers, size, torch.Generator().manual_seed(size))

    def called(shifted: str) -> Tensor:
        make = function.make_state
        rows = Rows(
            [make() for _ in TEXTS] if make else [],
            [torch.tensor(text) % size for text in TEXTS],
            [len(text) for text in TEXTS],
        )
        more = {key: each + 1.5 * (key == shifted) for key, each in inputs.items()}
        return function.call(more, values, rows)[0]

    before = called("")
    for each in scores:
        after = called(each)
        change = torch.where(after == before, 0.0, after - before)  # also where both are -inf
        kept = before > -torch.inf
        if on_shift is Shift.PASSED:
            number = change.sum(-1, keepdim=True) / kept.sum(-1, keepdim=True)
            change = torch.where(kept, change - number, change)
        if not bool((change.abs() <= TOLERANCE).all()):
            problem = f"a number added to all of {each} changes {name} in other ways"
            raise ArgumentError(f'{problem}; leave out on_shift, which is then "felt"')


def _compare(name: str, together: Tensor, alone: Tensor, finite: bool) -> None:
    for scores in (together, alone):
        if finite and not bool((scores < torch.inf).all()):
            problem = f"the operator {name} gives NaN or infinity for finite scores"
            raise ArgumentError(f"{problem}; of an excluded token the score is -inf")
    if not torch.allclose(together, alone, TOLERANCE, TOLERANCE, equal_nan=True):
        problem = f"the operator {name} gives a row other scores beside another row than alone"
        cure = "treat each row by itself (dim=-1, keepdim=True), and draw nothing at random"
        raise ArgumentError(f"{problem}; {cure}")
