"""Gates: a formula's parameters as functions of a hidden state, by maximum likelihood.

A gate is one linear output of the state that a term has before a token, ``h = w·s + b``. With two
bounds a parameter is ``lower + (upper - lower)·sigmoid(h)``, and without any it is ``h``: what a
formula says as ``head(base, gate)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ...errors import ArgumentError

Bounds: TypeAlias = tuple[float, float] | None
# Some positions, and the ``(n,)`` log-likelihoods of their tokens by ``(n, parameters)`` values.
Piece: TypeAlias = tuple[slice, Callable[[Tensor], Tensor]]
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True)
class Gates:
    """Fitted gates.

    Attributes:
        weight: ``(parameters, hidden)`` float32, for states as they are.
        bias: ``(parameters,)``.
        penalty: the L2 penalty of ``weight`` on standardised states, that held-out tokens chose.
        loglikelihood: of the tokens that were learnt, in nats per token.
        held_out: likewise, of held-out tokens.
        constant: of held-out tokens, with the best constants in place of gates.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    loglikelihood: float
    held_out: float
    constant: float

    @property
    def helps(self) -> bool:
        """Whether gates are better than constants, on tokens that none of the two has seen."""
        return self.held_out > self.constant


def check_bounds(bounds: Mapping[str, Bounds]) -> None:
    """Refuse bounds that no gate has.

    Raises:
        ArgumentError: a bound on one side alone, or an empty range.
    """
    for name, pair in bounds.items():
        if pair is None:
            continue
        lower, upper = pair
        if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
            cure = f"write {name}: [lower, upper], two finite numbers, or {name}: null"
            raise ArgumentError(f"a gate of {name} has the bounds {lower} and {upper}; {cure}")


def gated(values: Tensor, bounds: Sequence[Bounds]) -> Tensor:
    """Parameters ``(n, parameters)`` of the gates' outputs."""
    columns = [
        value if pair is None else pair[0] + (pair[1] - pair[0]) * value.sigmoid()
        for value, pair in zip(values.unbind(-1), bounds, strict=True)
    ]
    return torch.stack(columns, dim=-1)


def in_formula(bounds: Bounds, head: str) -> str:
    """A gated parameter as a formula has it; ``head`` is ``head(base, gate)``."""
    if bounds is None:
        return head
    lower, upper = bounds
    if (lower, upper) == (0, 1):
        return f"sigmoid({head})"
    start = "" if lower == 0 else f"{_number(lower)} + "
    return f"({start}{_number(upper - lower)}*sigmoid({head}))"


def best_gates(
    pieces: Callable[[], Iterable[Piece]],
    states: Tensor,
    learnt: Tensor,
    bounds: Sequence[Bounds],
    start: Sequence[float],
    penalties: Sequence[float] = PENALTIES,
    say: Callable[[str], None] = lambda line: None,
) -> Gates:
    """Fit a gate for each parameter.

    ``sum of -log p(token) + penalty/2·|w|²`` is minimised by L-BFGS on standardised states, from
    gates that are constants and from the largest penalty on, until held-out tokens get no better.

    Args:
        pieces: goes through all positions, in their order.
        states: ``(positions, hidden)`` float32.
        learnt: ``(positions,)``, whether a position is learnt; the others are held out.
        bounds: of each parameter.
        start: values of the parameters, inside their bounds.
        penalties: of the weights, each at least 0.
        say: is called with a line for each penalty.

    Raises:
        ArgumentError: no position is learnt, or none is held out.
    """
    if not bool(learnt.any()) or bool(learnt.all()):
        raise ArgumentError("gates are fitted to some texts and chosen by others; set holdout")
    mean, deviation = states[learnt].mean(0), states[learnt].std(0).clamp(min=1e-6)
    problem = _Problem(pieces, (states - mean) / deviation, learnt, list(bounds))
    origin = torch.tensor([_inverse(v, b) for v, b in zip(start, bounds, strict=True)])
    constants = problem.fitted(origin, None)
    constant = problem.mean(constants, held_out=True)
    say(f"constants: {-constant:.4f} nats per held-out token")
    best: tuple[float, float, Tensor] | None = None
    solution = constants
    for penalty in sorted(penalties, reverse=True):  # each from the one before
        solution = problem.fitted(solution, penalty)
        held_out = problem.mean(solution, held_out=True)
        say(f"gates, l2 {penalty:g}: {-held_out:.4f} nats per held-out token")
        if best is not None and held_out <= best[0]:
            break  # smaller penalties fit the learnt texts alone
        best = held_out, penalty, solution
    assert best is not None
    held_out, penalty, solution = best
    weight = solution[:, 1:] / deviation
    bias = solution[:, 0] - weight @ mean
    found = problem.mean(solution, held_out=False)
    return Gates(weight, bias, penalty, found, held_out, constant)


class _Problem:
    """The likelihood of gates on standardised states: ``(parameters, 1 + hidden)`` numbers."""

    def __init__(
        self,
        pieces: Callable[[], Iterable[Piece]],
        states: Tensor,
        learnt: Tensor,
        bounds: Sequence[Bounds],
    ) -> None:
        self._pieces, self._states, self._learnt = pieces, states, learnt
        self._bounds = bounds

    def total(self, gates: Tensor, held_out: bool) -> Tensor:
        """The log-likelihood of one part; its gradient is summed up piece by piece."""
        leaf = gates.detach().requires_grad_()
        total = torch.zeros((), dtype=torch.float64)
        for piece, likelihood in self._pieces():
            counted = self._learnt[piece] != held_out
            if not bool(counted.any()):
                continue
            values = leaf[:, 0] + self._states[piece] @ leaf[:, 1:].T
            logprobs = likelihood(gated(values, self._bounds))
            part = torch.where(counted, logprobs, 0.0).double().sum()
            if gates.requires_grad:
                part.backward()  # type: ignore[no-untyped-call]
            total += part.detach()
        if gates.requires_grad and leaf.grad is not None:
            gates.grad = leaf.grad
        return total

    @torch.no_grad()
    def mean(self, gates: Tensor, held_out: bool) -> float:
        """The log-likelihood of one part, per token."""
        count = int((self._learnt != held_out).sum())
        return float(self.total(gates.detach(), held_out)) / count

    def fitted(self, start: Tensor, penalty: float | None) -> Tensor:
        """The best gates from a start; without a penalty, the best constants."""
        width = self._states.shape[1]
        if start.dim() == 1:
            start = torch.cat([start[:, None], torch.zeros(len(start), width)], dim=1)
        gates = start.clone().requires_grad_()
        optimiser = torch.optim.LBFGS(
            [gates], max_iter=100, history_size=20, line_search_fn="strong_wolfe",
            tolerance_grad=1e-3, tolerance_change=1e-6 * len(self._states),
        )  # fmt: skip

        def closure() -> Tensor:
            gates.grad = None
            loss = -self.total(gates, held_out=False)
            assert gates.grad is not None
            gates.grad.neg_()
            if penalty is None:
                gates.grad[:, 1:] = 0
                return loss
            gates.grad[:, 1:] += penalty * gates.detach()[:, 1:]
            return loss + 0.5 * penalty * gates.detach()[:, 1:].double().square().sum()

        optimiser.step(closure)  # type: ignore[no-untyped-call]
        return gates.detach()


def _inverse(value: float, bounds: Bounds) -> float:
    """The gate's output that gives a value; a value at its bound is moved inside."""
    if bounds is None:
        return value
    share = (value - bounds[0]) / (bounds[1] - bounds[0])
    share = min(max(share, 0.02), 0.98)
    return math.log(share / (1 - share))


def _number(value: float) -> str:
    return f"{value:.12g}"
