"""The sums ``w_i B_i A_i x`` that rows add to the outputs of modules which read the same input.

On a GPU, kernels add them to few positions. Otherwise, where the host knows the rows, an adapter
costs what the rows that have it cost. A recording is replayed for other rows: without kernels,
every column of every adapter is computed there, times a row's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ...kernels.lora.products import Factors
from ...kernels.lora.row_lists import RowLists
from .on_gpu import add_on_gpu, takes
from .shares import Share
from .stacked import Stacked


@dataclass
class ForwardRows:
    """What the rows add in the forward that runs now.

    Attributes:
        numbers: ``(rows, loaded)`` float32, a row's number of each adapter; None where no row has
            any.
        shares: who has which adapter; None where this is recorded.
        lists: the same on a GPU, where kernels add it.
        columns: by what each column of a module is of, ``(rows, 1, columns)`` float32: a row's
            number of it.
        steering: ``(rows, positions, vectors)`` float32, a row's number of each vector where that
            steers; or of one position, for all; None where none steers.
        owners: by what each column of a module is of, the same on the device.
    """

    numbers: Tensor | None = None
    shares: Sequence[Share] | None = None
    lists: RowLists | None = None
    columns: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    steering: Tensor | None = None
    owners: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def forget(self) -> None:
        """The forward is over."""
        self.numbers = self.shares = self.lists = self.steering = None
        self.columns = {}


class Joined(NamedTuple):
    """Modules that read the same input, in the order of their outputs' columns.

    Attributes:
        parts: of each, or None where no adapter is on it.
        outs: the size of each one's output.
        factors: what kernels read of them, where they lie side by side in memory on a GPU.
    """

    parts: tuple[Stacked | None, ...]
    outs: tuple[int, ...]
    factors: Factors | None


def add(joined: Joined, rows: ForwardRows, x: Tensor, out: Tensor) -> Tensor:
    """Add in place what the rows' adapters add.

    Args:
        x: ``(…, in)``, the rows one after the other, each with as many positions.
        out: ``(…, sum of outs)``; a row of its numbers is contiguous, and rows are equally far
            apart.

    Returns:
        ``out``.
    """
    lists, factors = rows.lists, joined.factors
    if lists is not None and factors is not None:
        hidden, into = x.reshape(-1, x.shape[-1]), out.view(-1, out.shape[-1])
        if takes(factors, hidden, into):
            add_on_gpu(factors, lists, hidden, into, lambda out: _add(joined, rows, hidden, out))
            return out
    return _add(joined, rows, x, out)


def _add(joined: Joined, rows: ForwardRows, x: Tensor, out: Tensor) -> Tensor:
    """The same by torch's operations."""
    assert rows.numbers is not None
    count, first = len(rows.numbers), 0
    inputs = x.reshape(count, -1, x.shape[-1])
    outputs = out.view(count, -1, out.shape[-1])
    for parts, size in zip(joined.parts, joined.outs, strict=True):
        if parts is not None:
            one = outputs if size == outputs.shape[2] else outputs[..., first : first + size]
            if rows.shares is None:
                _add_all(parts, rows, inputs, one)
            else:
                _add_shares(parts, rows, rows.shares, inputs, one)
        first += size
    return out


def columns_of(parts: Stacked, rows: ForwardRows) -> Tensor:
    """``(rows, 1, columns)`` float32, a row's number of what each column of a module is of."""
    assert rows.numbers is not None
    owners = parts.owners
    if owners not in rows.columns:
        rows.columns[owners] = rows.numbers.index_select(1, rows.owners[owners])[:, None]
    return rows.columns[owners].to(parts.device)


def _add_all(parts: Stacked, rows: ForwardRows, x: Tensor, out: Tensor) -> None:
    """Every column, times the rows' numbers: ``(rows, q, in)`` and ``(rows, q, out)``."""
    assert parts.a is not None and parts.b is not None
    low = torch.nn.functional.linear(x.to(parts.a), parts.a).mul_(columns_of(parts, rows))
    _add_product(out, low, parts.b, 1.0)


def _add_shares(
    parts: Stacked, rows: ForwardRows, shares: Sequence[Share], x: Tensor, out: Tensor
) -> None:
    """Each adapter, to the rows that have it."""
    assert parts.a is not None and parts.b is not None and rows.numbers is not None
    for column, mine, number in shares:
        if column not in parts.ranges:
            continue
        first, end = parts.ranges[column]
        a, b = parts.a[first:end], parts.b[first:end]
        hidden, into = x[mine].to(a), out[mine]
        if number is not None and hidden.shape[:2] == (1, 1) and _is_exact(a, into):
            # A product with a vector is computed by another, faster way than with a matrix
            into[0, 0].addmv_(b.t(), a.mv(hidden[0, 0]), alpha=number)
            continue
        low = torch.nn.functional.linear(hidden, a)
        if number is None:
            low.mul_(rows.numbers[mine, column, None, None].to(low.device))
        _add_product(into, low, b, 1.0 if number is None else number)


def _is_exact(a: Tensor, out: Tensor) -> bool:
    """Whether products with vectors are summed in the type of their numbers without loss."""
    return a.dtype == out.dtype and a.dtype in (torch.float32, torch.float64) and not a.is_cuda


def _add_product(out: Tensor, low: Tensor, b: Tensor, number: float) -> None:
    """``out += number * low @ b``, of ``(rows, q, out)``, which may lie anyhow, in its own type."""
    same = (out.dtype, out.device) == (b.dtype, b.device)
    if same and (out.shape[1] == 1 or out.stride(0) == out.shape[1] * out.stride(1)):
        out.view(-1, out.shape[2]).addmm_(low.view(-1, low.shape[2]), b, alpha=number)
    else:
        out.add_((low @ b).to(out), alpha=number)
