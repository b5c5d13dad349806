"""The masks of a step: of all rows and constraints in one call, and in one copy to the device.

The host works them out when the first of them is needed, while the device runs the forwards that
were launched before. On a GPU a bit for every token goes there, and never a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...formula.nodes import StageAddress
from ...models.upload import Mirror
from .states import ENDED, MASKED, OF_REQUEST, OPEN, SPELT, AnswerStates, Cursor
from .tokens import ConstraintTokens, library

Numbers: TypeAlias = npt.NDArray[np.int32]
_STUCK, _LOOSE = 1, 2  # of a row, by a constraint: it allows nothing; it does not bind


class Constraints(Protocol):
    """The constraints of a plan and its requests (``PlanConstraints``)."""

    @property
    def tokens(self) -> ConstraintTokens:
        """Those of the vocabulary."""

    def of(self, request: Any) -> Mapping[StageAddress, Any]:
        """Those that a request's answer meets."""

    def binding(self, request: Any) -> set[StageAddress]:
        """Those that every token of it has to fit."""

    def states(self, request: Any, address: StageAddress) -> AnswerStates:
        """The matchers of its answers, for one of them."""


class Noting(Protocol):
    """The context of a step, as far as its masks go."""

    broken: dict[Any, Tensor]
    record: Any
    mass_temperatures: Tensor | None
    kept_mass: list[Tensor]


@dataclass(frozen=True)
class Masks:
    """The masks of one step.

    Args:
        constraints: of the plan.
        requests: per row, and ``answers``, what gives the tokens of each.
        width: rows of the step, with idle ones, which come last.
        device: of the scores.
    """

    constraints: Constraints
    requests: Sequence[Any]
    answers: Callable[[], Sequence[Sequence[int]]]
    width: int
    device: torch.device
    _binding: dict[tuple[float, ...], set[StageAddress]] = field(default_factory=dict)

    @cached_property
    def addresses(self) -> list[StageAddress]:
        """Of every constraint that any row has."""
        every = (address for each in self.requests for address in self.constraints.of(each))
        return list(dict.fromkeys(every))

    @property
    def over(self) -> Tensor:
        """``(width,)`` bool, the rows of which nothing is to be drawn any more."""
        return self._made[1][0].bool()

    def allowed(self, address: StageAddress) -> Tensor:
        """``(width,)`` int64, how many tokens a constraint allows in each row."""
        masks, _ = self._made
        size = self.constraints.tokens.size
        return unpacked(masks[self.addresses.index(address)], size).sum(dim=-1)

    def applied(self, scores: Tensor, context: Noting, address: StageAddress) -> Tensor:
        """``(width, V)`` scores without the tokens that a constraint masks."""
        if address not in self.addresses:
            return scores
        masks, flags = self._made
        number = self.addresses.index(address)
        kept = unpacked(masks[number], scores.shape[1])
        masked = scores.masked_fill(~kept, -torch.inf)
        if context.record is not None and address == OF_REQUEST:  # no stage of the formula
            context.record.stages[address] = scores, masked
        before, after, flag = scores.amax(dim=-1), masked.amax(dim=-1), flags[1 + number]
        left_none = (after == -torch.inf) & (before != -torch.inf)
        context.broken[SPELT, address] = flag == _STUCK
        context.broken[MASKED, address] = left_none & (flag == 0) & (flags[0] == 0)
        if context.mass_temperatures is not None and address[0] is None:
            context.kept_mass.append(_mass(scores, kept, context.mass_temperatures))
        return masked

    def _binding_of(self, request: Any) -> set[StageAddress]:
        key = tuple(request.values)
        if key not in self._binding:
            self._binding[key] = self.constraints.binding(request)
        return self._binding[key]

    @cached_property
    def _made(self) -> tuple[Tensor, Tensor]:
        """``(constraints, width, words)`` int32, and ``(1 + constraints, width)`` flags: rows that
        are over, and those that are stuck, by each constraint."""
        tokens, addresses = self.constraints.tokens, self.addresses
        count, words = len(addresses), tokens.words
        total = count * self.width * words
        packed = np.full(total + (1 + count) * self.width, -1, dtype=np.int32)
        masks = packed[:total].reshape(count, self.width, words)
        flags = packed[total:].reshape(1 + count, self.width)
        flags[:] = 0
        self._fill(masks, flags)
        there = self._sent(torch.from_numpy(packed))
        return there[:total].view(masks.shape), there[total:].view(flags.shape)

    def _sent(self, packed: Tensor) -> Tensor:
        """The same on the device, once the copy that begins here has ended."""
        if Mirror.on_host(self.device):
            return packed
        pinned = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
        return pinned.copy_(packed).to(self.device, non_blocking=True)

    def _fill(self, masks: Numbers, flags: Numbers) -> None:
        """Work out every mask, on the host."""
        answers, words = self.answers(), masks.shape[-1]
        waves: list[list[tuple[AnswerStates, Cursor, Sequence[int], int, int]]] = []
        used: dict[int, tuple[AnswerStates, list[Cursor]]] = {}
        for number, address in enumerate(self.addresses):
            last: tuple[AnswerStates, Cursor, Sequence[int], int] | None = None
            for row, (request, answer) in enumerate(zip(self.requests, answers, strict=True)):
                if address not in self.constraints.of(request):
                    last = None
                    continue
                states = self.constraints.states(request, address)
                if (constrained := states.constrained(answer)) is None:
                    self._allow_thought(masks[number, row], states)
                    last = None
                    continue
                answer = constrained
                if (
                    last is not None
                    and last[0] is states
                    and list(last[2]) == answer[:-1] != answer
                ):
                    cursor, wave = last[1], last[3] + 1  # the same row, a token on
                else:
                    _, taken = used.setdefault(id(states), (states, []))
                    cursor, wave = states.own(answer, taken), 0
                if wave == len(waves):
                    waves.append([])
                waves[wave].append((states, cursor, answer, number, row))
                last = states, cursor, answer, wave
        for steps in waves:
            places = []
            for states, cursor, answer, number, row in steps:
                cursor.go(answer, states.ends)
                if cursor.state == OPEN:
                    places.append((cursor.matcher, number * self.width + row))
            _fill(places, masks.reshape(-1, words))
            for states, cursor, _, number, row in steps:
                self._finish(masks[number, row], flags, states, cursor, number, row)
        for states, cursors in used.values():
            states.keep(cursors)

    def _allow_thought(self, mask: Numbers, states: AnswerStates) -> None:
        """Allow every token but those that end the answer."""
        octets = mask.view(np.uint8)
        for token in states.ends:
            if token < self.constraints.tokens.size:
                octets[token >> 3] &= 0xFF ^ (1 << (token & 7))

    def _finish(
        self,
        mask: Numbers,
        flags: Numbers,
        states: AnswerStates,
        cursor: Cursor,
        number: int,
        row: int,
    ) -> None:
        """Allow the ends of an answer where it may end, and say what kind of row it is."""
        binds = self.addresses[number] in self._binding_of(self.requests[row])
        octets, size = mask.view(np.uint8), self.constraints.tokens.size
        going, complete = cursor.state == OPEN and not cursor.failed, cursor.complete
        if not going:
            octets[:] = 0
        ends = [token for token in states.ends if token < size]
        for token in (*ends, size):
            octets[token >> 3] &= 0xFF ^ (1 << (token & 7))
        goes_on = going and bool(octets.any())
        if complete or cursor.state == ENDED:
            for token in ends:
                octets[token >> 3] |= 1 << (token & 7)
        flags[1 + number, row] = 0 if binds else _LOOSE
        if binds and not goes_on:
            if complete or cursor.state != OPEN:
                flags[0, row] = 1
            else:
                flags[1 + number, row] = _STUCK
                states.why = _first_line(cursor.failed)


def unpacked(masks: Tensor, size: int) -> Tensor:
    """``(rows, words)`` int32 to ``(rows, size)`` bool: whether each bit is set."""
    if masks.device.type == "cpu":
        octets = masks.numpy().view(np.uint8)
        return torch.from_numpy(
            np.unpackbits(octets, axis=-1, count=size, bitorder="little").view(bool)
        )
    shifts = torch.arange(32, dtype=torch.int32, device=masks.device)
    bits = (masks[:, :, None] >> shifts) & 1
    return bits.flatten(1)[:, :size].bool()


def _fill(places: Sequence[tuple[Any, int]], masks: Numbers) -> None:
    """Have each matcher write its mask to a row of ``(rows, words)``: side by side, if several."""
    size, first = masks.strides[0], masks.ctypes.data
    if len(places) == 1:
        [(matcher, row)] = places
        matcher.unsafe_compute_mask_ptr(first + row * size, size)
    elif places:
        _executor().unsafe_compute_mask_ptr(list(places), first, size, len(masks))


@cache
def _executor() -> Any:
    """The threads that work masks out."""
    return library().LLExecutor()


def _mass(scores: Tensor, kept: Tensor, temperatures: Tensor) -> Tensor:
    """``(rows,)`` the logarithm of the probability that a mask keeps, at each row's temperature."""
    warm = temperatures[: len(scores), None]
    logprobs = torch.log_softmax(scores / torch.where(warm > 0, warm, 1.0), dim=-1)
    return logprobs.masked_fill(~kept, -torch.inf).logsumexp(dim=-1)


def _first_line(message: str) -> str:
    """What went wrong, where it is no dead end that llguidance found in the mask itself."""
    lines = message.splitlines()
    return lines[0] if lines and "NoExtension" not in lines[0] else ""
