"""Functions of one's own over the rows of a step: what they are given, and what they may return.

Scores and numbers come as the step has them; a function that asks for states, ids or where the
answer begins gets them for the rows in use alone. What it returns is looked at without asking the
device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ....errors import ArgumentError
from ..context import Context
from ..row_states import RowStates

Tensors: TypeAlias = Mapping[str, Tensor]  # arguments by their names
OFFERED = ("state", "ids", "start")


class Rows(NamedTuple):
    """What a function may ask for, of the rows that it is called for.

    Attributes:
        states: of each row.
        ids: ``(L,)`` int64 of each, what it has read.
        starts: where the answer begins in them.
    """

    states: Sequence[Any] = ()
    ids: Sequence[Tensor] = ()
    starts: Sequence[int] = ()


class OwnFunction:
    """A function, and how it is called.

    Args:
        kind: a stage, which has scores of its own to write to, or an operator, in words.
        name: of it.
        function: takes scores and numbers by their names.
        state: makes the state of a row, or None.
        asked: those of ``OFFERED`` that it takes.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        function: Callable[..., Any],
        state: Callable[[], Any] | None,
        asked: Sequence[str],
    ) -> None:
        self._what, self._name, self._function = f"the {kind} {name}", name, function
        self.make_state, self.asked, self._copies = state, asked, kind == "stage"

    def __call__(
        self,
        context: Context,
        owner: Hashable,
        scores: Tensors,
        numbers: Tensors,
        needing: Sequence[bool] | None = None,
    ) -> Tensor:
        """``(slots, V)`` what it makes of scores, ``(slots, V)``, and numbers, ``(slots, 1)``.

        Args:
            context: of the step.
            owner: whose states they are.
            scores, numbers: by the names of their parameters.
            needing: per slot in use, whether it needs the result; left out, all do. A function that
                is given rows is called for no others.
        """
        if not self.asked:
            return self.call(scores, numbers)[0]
        texts, starts = context.texts(), context.starts()
        states = context.row_states() if context.row_states and self.make_state else ()
        rows = [slot for slot in range(len(texts)) if needing is None or needing[slot]]
        first = next(iter(scores.values()))
        result: Tensor | None = None
        for wave in _waves(rows, texts, states):
            every = len(wave) == len(first)
            index = None if every else torch.tensor(wave, device=first.device)
            ids = [texts[slot] for slot in wave]
            own = [states[slot] for slot in wave] if states else []
            read = [tuple(each.tolist()) for each in ids] if own else []
            before = [self._state(row, owner, text) for row, text in zip(own, read, strict=True)]
            out, after = self.call(
                _picked(scores, index), _picked(numbers, index),
                Rows(before, ids, [starts[slot] for slot in wave]),
            )  # fmt: skip
            for row, text, state in zip(own, read, after, strict=True):
                row.keep(owner, text, state)
            if index is None:
                return out
            result = torch.zeros_like(first) if result is None else result
            result.index_copy_(0, index, out)
        return first if result is None else result

    def call(
        self, scores: Tensors, numbers: Tensors, rows: Rows | None = None
    ) -> tuple[Tensor, list[Any]]:
        """Its scores of some rows, and their states after them.

        Raises:
            ArgumentError: it writes to what it is given, or returns something else.
        """
        rows = rows or Rows()
        first = next(iter(scores.values()))
        extra: dict[str, Any] = {}
        if "ids" in self.asked:
            extra["ids"] = list(rows.ids)
        if "start" in self.asked:
            extra["start"] = list(rows.starts)
        if self.make_state is not None:
            extra["state"], objects = self._joined(rows.states, first.device)
            if objects:  # which may keep what they are given
                scores = {name: each.clone() for name, each in scores.items()}
        inputs = [*(() if self._copies else scores.items()), *numbers.items()]
        versions = [_version(each) for _, each in inputs]
        try:
            out = self._function(**scores, **numbers, **extra)
        except Exception as error:
            error.add_note(f"in {self._what}")
            raise
        for (name, each), version in zip(inputs, versions, strict=True):
            if _version(each) != version:
                problem = f"{self._what} writes to {name}, which others read"
                raise ArgumentError(f"{problem}; begin with {name} = {name}.clone()")
        states: list[Any] = []
        if self.make_state is not None:
            if not (type(out) is tuple and len(out) == 2):
                raise ArgumentError(f"{self._what} keeps a state; return (scores, state)")
            out, state = out
            states = self._parted(state, len(first))
        if self._copies and isinstance(out, Tensor):
            out = out.float()
        if not isinstance(out, Tensor) or out.shape != first.shape or out.dtype != first.dtype:
            wanted = f"not float32 scores {tuple(first.shape)}"
            raise ArgumentError(f"{self._what} returned {_described(out)}, {wanted}")
        return out, states

    def _state(self, row: RowStates, owner: Hashable, text: tuple[int, ...]) -> Any:
        """The state before a text, which no call changes.

        Raises:
            ArgumentError: there is none.
        """
        assert self.make_state is not None
        if row.drawn == 0:
            return self.make_state()
        if (read := row.before(owner, text)) is None:
            problem = f"{self._name} keeps a state, and that of token {row.drawn} is not there"
            raise ArgumentError(f"{problem}: begin again with the prompt")
        return row.at(owner, row.drawn - 1)[read]

    def _joined(self, states: Sequence[Any], device: torch.device) -> tuple[Any, bool]:
        """The states of rows as one, where they are tensors; or a list, and whether it is that."""
        if not all(map(_is_tensors, states)):
            return [deepcopy(state) for state in states], True
        try:
            return _stacked(states, device), False
        except (RuntimeError, KeyError, ValueError) as error:
            cure = "give each row one of the same shape, or put its tensors into a list"
            raise ArgumentError(
                f"the states of {self._name} do not stack: {error}; {cure}"
            ) from None

    def _parted(self, state: Any, rows: int) -> list[Any]:
        """The state of each row."""
        if _is_tensors(state) and all(each.shape[:1] == (rows,) for each in _tensors(state)):
            return [_of_row(state, row) for row in range(rows)]
        if isinstance(state, list) and len(state) == rows:
            return state
        problem = f"{self._what} returned the state {_described(state)}"
        raise ArgumentError(f"{problem}; return it as it came, for {rows} rows")


def _waves(
    rows: Sequence[int], texts: Sequence[Tensor], states: Sequence[RowStates]
) -> list[list[int]]:
    """Slots that may be called together: each of them after the one whose state it begins with."""
    if not states:
        return [list(rows)] if rows else []
    waves: list[list[int]] = []
    number = 0
    for i, slot in enumerate(rows):
        last = rows[i - 1]
        follows = i > 0 and states[last].states is states[slot].states
        follows = follows and states[last].drawn + 1 == states[slot].drawn
        number = number + 1 if follows else 0
        if number == len(waves):
            waves.append([])
        waves[number].append(slot)
    return waves


def _picked(tensors: Tensors, index: Tensor | None) -> Tensors:
    if index is None:
        return tensors
    return {name: each.index_select(0, index) for name, each in tensors.items()}


def _version(tensor: Tensor) -> int:
    """How often it was written to; a tensor of inference mode does not count."""
    return -1 if tensor.is_inference() else tensor._version


def _is_tensors(state: Any) -> bool:
    """Whether a state is a tensor, or a mapping or a tuple of such."""
    match state:
        case Tensor():
            return True
        case dict():
            return bool(state) and all(map(_is_tensors, state.values()))
        case tuple():
            return bool(state) and all(map(_is_tensors, state))
    return False


def _tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    inner = state.values() if isinstance(state, dict) else state
    return [each for part in inner for each in _tensors(part)]


def _stacked(states: Sequence[Any], device: torch.device) -> Any:
    first = states[0]
    if isinstance(first, Tensor):
        return torch.stack([state.to(device) for state in states])
    if isinstance(first, dict):
        return {key: _stacked([state[key] for state in states], device) for key in first}
    return _like(first, [_stacked(parts, device) for parts in zip(*states, strict=True)])


def _of_row(state: Any, row: int) -> Any:
    """One row's, in memory of its own."""
    if isinstance(state, Tensor):
        return state[row].clone()
    if isinstance(state, dict):
        return {key: _of_row(part, row) for key, part in state.items()}
    return _like(state, [_of_row(part, row) for part in state])


def _like(state: tuple[Any, ...], parts: list[Any]) -> Any:
    """A tuple of the same kind, named or not."""
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}"
