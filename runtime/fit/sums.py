"""The log-likelihood of a sum of scores, with its gradient and curvature in closed form.

Of ``s = Σ c_i x_i`` and the token y, ``log p = s_y - logsumexp s``: its gradient by the
coefficients is ``x_y - E[x]``, and its curvature minus the covariance of x, both under ``softmax
s``. It is concave in the coefficients, which are expressions of the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import functional

from ...formula.scalar import Parameter
from ..scores.expressions import computed
from .differentiable import Summand
from .likelihoods import PerText, TermRow, Texts, refuse_excluded

FLOATS = 2**18  # of one block's scores; what a core's cache holds


class SumLikelihood:
    """The log-likelihood of every text under a sum.

    Args:
        summands: of the sum.
        names: of the parameters, in order; and ``fixed``, what the others are.
        texts: passes over what was kept of the texts.
    """

    has_curvature = True

    def __init__(
        self,
        summands: Sequence[Summand],
        names: Sequence[str],
        fixed: Mapping[str, float],
        texts: Texts,
    ) -> None:
        self._summands, self._names, self._fixed, self._texts = summands, names, fixed, texts

    def per_text(self, values: np.ndarray, order: int, every: int = 1) -> PerText:
        """Of each text, and up to the second derivatives by the parameters; ``order``: 0, 1, 2."""
        theta = torch.tensor(np.asarray(values), dtype=torch.float64)
        at = self._coefficients(theta)
        found = self._by_coefficients(at[None], order, every)
        if order == 0:
            return PerText(found.value)
        jacobian = self._jacobian(theta)
        gradient = found.gradient @ jacobian
        if order == 1:
            return PerText(found.value, gradient)
        bends = np.stack([self._bend(theta, i) for i in range(len(self._summands))])
        curvature = np.einsum("tij,ip,jq->tpq", found.curvature, jacobian, jacobian)
        curvature += np.einsum("ti,ipq->tpq", found.gradient, bends)
        return PerText(found.value, gradient, curvature)

    def terms(self, values: np.ndarray) -> list[TermRow]:
        theta = torch.tensor(np.asarray(values), dtype=torch.float64)
        at = self._coefficients(theta)
        jacobian = self._jacobian(theta)
        without = at.repeat(len(at), 1) * (1 - torch.eye(len(at), dtype=torch.float64))
        left = self._values(without).numpy()
        return [
            TermRow(each.name, float(c), gradient, rest)
            for each, c, gradient, rest in zip(self._summands, at, jacobian, left, strict=True)
        ]

    def _coefficients(self, theta: Tensor) -> Tensor:
        """``(m,)`` float64, by the parameters ``(P,)``."""
        known: dict[Any, Tensor] = {
            Parameter(name): theta.new_tensor(value) for name, value in self._fixed.items()
        }
        known |= {Parameter(name): theta[i] for i, name in enumerate(self._names)}
        each = [computed(summand.coefficient, known.get) for summand in self._summands]
        zero = 0 * theta.sum()  # a constant has a gradient, too
        return torch.stack([torch.as_tensor(c, dtype=torch.float64) + zero for c in each])

    def _jacobian(self, theta: Tensor) -> np.ndarray:
        """``(m, P)`` the derivatives of the coefficients."""
        slopes: Any = functional.jacobian(self._coefficients, theta)  # type: ignore[no-untyped-call]
        return np.asarray(slopes)

    def _bend(self, theta: Tensor, index: int) -> np.ndarray:
        """``(P, P)`` the second derivatives of a coefficient."""

        def coefficient(at: Tensor) -> Tensor:
            return self._coefficients(at)[index]

        bend: Any = functional.hessian(coefficient, theta)  # type: ignore[no-untyped-call]
        return np.asarray(bend)

    def _by_coefficients(self, at: Tensor, order: int, every: int) -> PerText:
        count, m = self._texts.count, len(self._summands)
        value = torch.zeros(count, dtype=torch.float64)
        gradient = torch.zeros(count, m, dtype=torch.float64)
        curvature = torch.zeros(count, m, m, dtype=torch.float64)
        weights = at[0].float()
        for block in self._texts.kept.blocks(self._most(), every):
            scores = block.features.view(len(block.targets), m, -1)
            scores, hidden = self._parted(scores)
            total = torch.matmul(weights, scores)
            if hidden is not None:
                total = total.masked_fill_(hidden, -torch.inf)
            rows = torch.arange(len(total))
            of_target = total[rows, block.targets]
            refuse_excluded(of_target, block.owners)
            highest = total.amax(dim=1, keepdim=True)
            p = total.sub_(highest).exp_()
            mass = p.sum(dim=1, keepdim=True)
            own = of_target.double() - highest[:, 0].double() - mass[:, 0].double().log()
            value.index_add_(0, block.owners, own)
            if order == 0:
                continue
            p.div_(mass)
            mean = torch.bmm(scores, p[:, :, None])[:, :, 0]
            first = scores[rows, :, block.targets] - mean
            gradient.index_add_(0, block.owners, first.double())
            if order == 2:
                centred = scores - mean[:, :, None]
                second = torch.bmm(centred * p[:, None], centred.mT)
                curvature.index_add_(0, block.owners, -second.double())
        return PerText(value.numpy(), gradient.numpy(), curvature.numpy())

    def _values(self, several: Tensor) -> Tensor:
        """``(k, T)`` float64 log-likelihoods of each text, at ``(k, m)`` coefficients."""
        totals = torch.zeros(len(several), self._texts.count, dtype=torch.float64)
        weights, m = several.float(), len(self._summands)
        for block in self._texts.kept.blocks(self._most()):
            scores, hidden = self._parted(block.features.view(len(block.targets), m, -1))
            sums = torch.matmul(weights, scores)
            if hidden is not None:
                sums = sums.masked_fill_(hidden[:, None], -torch.inf)
            own = sums[torch.arange(len(sums)), :, block.targets] - sums.logsumexp(dim=2)
            totals.index_add_(1, block.owners, own.double().T)
        return totals

    def _most(self) -> int:
        return max(1, FLOATS // self._texts.kept.width)

    def _parted(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """``(n, m, V)`` without what any part excludes; and ``(n, V)`` bool, what that is."""
        if not self._texts.masked:
            return scores, None
        hidden = scores == -torch.inf
        return scores.masked_fill(hidden, 0.0), hidden.any(dim=1)
