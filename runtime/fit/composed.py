"""The log-likelihood of any formula, differentiated through the operators of a step themselves.

What a step would read is kept; the formula over it is evaluated anew for every value, with numbers
that have a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import functional
from torch.autograd.graph import allow_mutation_on_saved_tensors

from ...formula import Plan
from ...formula.nodes import Read, Staged
from ...formula.scalar import Parameter, Scalar
from ...formula.words.operators import Operator
from ..scores.context import Columns, Context, Reading, ScalarColumn
from ..scores.expressions import computed
from ..scores.logprobs import log_softmax
from ..scores.operators import scorer
from .differentiable import without_each, written
from .kept_scores import Block
from .likelihoods import PerText, TermRow, Texts, refuse_excluded

FLOATS = 2**20  # of one block's scores
POSITIVE = 1e-30


def parts_of(plan: Plan) -> list[tuple[Any, None]]:
    """What is kept of each position: the reads, and what only a step can evaluate."""
    nodes = dict.fromkeys(
        node for node in plan.nodes
        if isinstance(node, Staged) or (isinstance(node, Operator) and node.keeps_state)
    )  # fmt: skip
    return [(node, None) for node in (*plan.reads, *nodes)]


class ComposedLikelihood:
    """The log-likelihood of every text under a formula with operators.

    Args:
        plan: the formula.
        columns: of its numbers, as a step has them.
        vocabulary: tokens that are scored.
        names: of the parameters, in order; and ``fixed``, what the others are.
        texts: what was kept of the texts.
    """

    has_curvature = False

    def __init__(
        self,
        plan: Plan,
        columns: Columns,
        vocabulary: int,
        names: Sequence[str],
        fixed: Mapping[str, float],
        texts: Texts,
    ) -> None:
        self._plan, self._vocabulary, self._texts = plan, vocabulary, texts
        self._names, self._fixed = list(names), dict(fixed)
        self._columns = Columns(columns.items(), plan.all_reads)
        self._scores = scorer(plan.scores, self._columns)
        self._kept = [node for node, _ in parts_of(plan)]

    def per_text(self, values: np.ndarray, order: int, every: int = 1) -> PerText:
        """Of each text, and its gradient; there is no curvature: ``order`` is 0 or 1."""
        count, size = self._texts.count, len(self._names)
        value, gradient = np.zeros(count), np.zeros((count, size))
        for owner, block in self._pieces(every, bool(order)):
            theta = torch.tensor(np.asarray(values), dtype=torch.float64, requires_grad=bool(order))
            with torch.set_grad_enabled(bool(order)), allow_mutation_on_saved_tensors():
                own = self._logprobs(block, theta, self._scores)
                if order:
                    total = own.sum()
                    total.backward()  # type: ignore[no-untyped-call]
                    assert theta.grad is not None
                    gradient[owner] += theta.grad.numpy()
            np.add.at(value, block.owners.numpy(), own.detach().numpy())
        return PerText(value, gradient) if order else PerText(value)

    def summed(self, values: np.ndarray, texts: Sequence[int]) -> tuple[float, np.ndarray]:
        """The log-likelihood of some texts together, and its gradient."""
        theta = torch.tensor(np.asarray(values), dtype=torch.float64, requires_grad=True)
        chosen = torch.zeros(self._texts.count, dtype=torch.bool)
        chosen[list(texts)] = True
        value = 0.0
        for _, block in self._pieces(1, False):
            with torch.enable_grad(), allow_mutation_on_saved_tensors():
                total = self._logprobs(block, theta, self._scores)[chosen[block.owners]].sum()
                total.backward()  # type: ignore[no-untyped-call]
            value += float(total.detach())
        return value, np.asarray(theta.grad)

    def terms(self, values: np.ndarray) -> list[TermRow]:
        theta = torch.tensor(np.asarray(values), dtype=torch.float64)
        found = []
        for scalar, part, without in without_each(self._plan):

            def number(at: Tensor, scalar: Scalar = scalar) -> Tensor:
                return self._number(scalar, at) + 0 * at.sum()

            left = np.zeros(self._texts.count)
            reading = scorer(without, self._columns)
            for _, block in self._pieces(1, False):
                with torch.no_grad():
                    own = self._logprobs(block, theta, reading)
                np.add.at(left, block.owners.numpy(), own.numpy())
            slope: Any = functional.jacobian(number, theta)  # type: ignore[no-untyped-call]
            found.append(TermRow(written(part), float(number(theta)), np.asarray(slope), left))
        return found

    def _pieces(self, every: int, by_text: bool) -> Iterator[tuple[int, Block]]:
        """Blocks; or, ``by_text``, the positions of one text in each."""
        for block in self._texts.kept.blocks(max(1, FLOATS // self._texts.kept.width), every):
            if not by_text:
                yield 0, block
                continue
            for owner in sorted(set(block.owners.tolist())):
                rows = block.owners == owner
                kept = (block.features, block.targets, block.owners, block.steps)
                features, targets, owners, steps = (each[rows] for each in kept)
                yield owner, Block(features, targets, owners, steps, block.number)

    def _logprobs(self, block: Block, theta: Tensor, reading: Reading) -> Tensor:
        """``(n,)`` float64 log-probabilities of the tokens."""
        context = self._context(block, theta)
        scores = reading(context)[:, : self._vocabulary]
        for stage in self._plan.stages:  # temperature alone
            scores = scores / self._number(stage.t, theta).float()  # type: ignore[attr-defined]
        rows = torch.arange(len(scores))
        refuse_excluded(scores.detach()[rows, block.targets], block.owners)
        return log_softmax(scores)[rows, block.targets].double()

    def _context(self, block: Block, theta: Tensor) -> Context:
        """What a step knows at these positions, of numbers with a gradient."""
        count, width = len(block.targets), self._width
        widths = [1 if _is_number(node) else width for node in self._kept]
        parts = torch.split(block.features, widths, 1)
        held = dict(zip(self._kept, parts, strict=True))
        empty = torch.zeros(count, 1)
        reads: list[Reading] = [
            partial(_looked_up, held.get(read, empty)) for read in self._columns.reads
        ]
        values = [self._number(scalar, theta) for scalar in self._plan.scalars]
        row = torch.stack([value.float() for value in values]) if values else theta.float()[:0]
        table = row.expand(count, -1)
        numbers = [
            _column(table[:, i : i + 1], float(value.detach())) for i, value in enumerate(values)
        ]
        context = Context(
            table, numbers, self._columns, reads, block.steps, self._vocabulary, width
        )
        context.staged.update({n: t for n, t in held.items() if not isinstance(n, Read)})
        return context

    @property
    def _width(self) -> int:
        """Columns of scores."""
        numbers = sum(_is_number(node) for node in self._kept)
        return (self._texts.kept.width - numbers) // (len(self._kept) - numbers)

    def _number(self, scalar: Scalar, theta: Tensor) -> Tensor:
        """A number by the parameters, float64; NaN where it is another in each step."""
        if scalar.states:
            known = {**self._fixed, **dict(zip(self._names, theta.tolist(), strict=True))}
            return theta.new_tensor(self._plan.value(scalar, known))
        leaves: dict[Any, Tensor] = {
            Parameter(name): theta.new_tensor(value) for name, value in self._fixed.items()
        }
        leaves |= {Parameter(name): theta[i] for i, name in enumerate(self._names)}
        return torch.as_tensor(computed(scalar.expression, leaves.get), dtype=torch.float64)


def _looked_up(scores: Tensor, context: Context) -> Tensor:
    return scores


def _is_number(node: Any) -> bool:
    return isinstance(node, Read) and node.is_number


def _column(values: Tensor, value: float) -> ScalarColumn:
    """A number that no shortcut is taken for: at 0 it has a gradient, too."""
    if value != value:
        return ScalarColumn(values, 1e9, False, True, False, False, True)
    return ScalarColumn(values, value, False, False, value > POSITIVE, False, least=value)
