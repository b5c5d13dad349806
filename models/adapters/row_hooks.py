"""What LoRA adapters add to a module's output, row by row: hooks that read the rows' weights.

The adapters of a module are stacked, ``A`` as (columns, in) and ``B`` as (out, columns), with a
column for each rank of each adapter. A row multiplies each column by its number of that adapter:
two matrix products, no loop over adapters, no gathered weights. The output is
``(1 + sum w_i (gain_i - 1)) * bare + sum w_i shift_i + sum w_i B_i A_i x``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .placed import PlacedLayer


@dataclass
class ForwardRows:
    """What the rows add in the forward that runs now; None where they add nothing.

    Attributes:
        weights: ``(rows, adapters)`` float32.
        columns: ``(rows, 1, columns)`` float32 for each layout of columns: a row's number of the
            adapter that each column is of.
        steering: ``(rows, positions, vectors)`` float32, a row's number of each vector where that
            steers; or of one position, for all.
    """

    weights: Tensor | None = None
    columns: list[Tensor] = field(default_factory=list)
    steering: Tensor | None = None


@dataclass(frozen=True)
class Stacked:
    """Every adapter's part of one module.

    Attributes:
        a, b: ``(columns, in)`` and ``(out, columns)``; A is transposed for an embedding. None where
            there are biases alone.
        owners: the index of the adapter that each column is of.
        gain, shift: ``(adapters, out)``: DoRA's scale of the bare output less 1, and what is added
            to it; None where all are 0.
        embedding: whether A is looked up by token.
    """

    a: Tensor | None
    b: Tensor | None
    owners: tuple[int, ...]
    gain: Tensor | None
    shift: Tensor | None
    embedding: bool

    @property
    def parts(self) -> list[Tensor]:
        """The tensors that there are, at least one."""
        parts = (self.a, self.b, self.gain, self.shift)
        return [part for part in parts if part is not None]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def device(self) -> torch.device:
        return self.parts[0].device


def stacked(layers: Sequence[PlacedLayer | None], like: Tensor) -> Stacked:
    """The adapters' parts of one module as one, with the device and type of ``like``."""
    present = [layer for layer in layers if layer is not None]
    factors = [
        (index, layer.a, layer.b)
        for index, layer in enumerate(layers)
        if layer is not None and layer.a is not None and layer.b is not None
    ]
    embedding = any(layer.embedding for layer in present)
    a = b = None
    if factors:
        a = torch.cat([a for _, a, _ in factors]).to(like)
        a = a.T.contiguous() if embedding else a
        b = torch.cat([b for _, _, b in factors], dim=1).to(like)
    owners = tuple(index for index, a, _ in factors for _ in range(len(a)))
    gains = [None if x is None or x.gain is None else x.gain - 1 for x in layers]
    shifts = [None if layer is None else layer.shift for layer in layers]
    return Stacked(a, b, owners, _rows(gains, like), _rows(shifts, like), embedding)


def _rows(parts: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    """``(adapters, out)``, zeros for an adapter without; None where no adapter has any."""
    first = next((part for part in parts if part is not None), None)
    if first is None:
        return None
    exact = torch.promote_types(like.dtype, torch.float32)  # 1 + 2**-9 is 1 in bfloat16
    rows = [torch.zeros_like(first) if part is None else part for part in parts]
    return torch.stack(rows).to(like.device, exact)


def hook(parts: Stacked, layout: int, rows: ForwardRows) -> Any:
    """A forward hook of one module; it leaves the output of bare weights alone.

    Args:
        layout: the index of its columns among those of ``ForwardRows``.
    """
    if parts.gain is None and parts.shift is None and not parts.embedding:
        return _plain_hook(parts, layout, rows)
    return _full_hook(parts, layout, rows)


def _plain_hook(parts: Stacked, layout: int, rows: ForwardRows) -> Any:
    a, b = parts.a, parts.b
    assert a is not None and b is not None

    def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if rows.weights is None:
            return None
        columns = rows.columns[layout]
        # The layer's own device and dtype: a base may span devices or mix types.
        low = functional.linear(args[0].to(a), a)
        # By row again: OPT's feed-forward layers flatten rows and positions.
        low.view(columns.shape[0], -1, low.shape[-1]).mul_(columns.to(a.device))
        if (output.dtype, output.device) != (b.dtype, b.device):
            return output + functional.linear(low, b).to(output)
        flat = output.reshape(-1, output.shape[-1])
        return flat.addmm_(low.view(-1, low.shape[-1]), b.T).view_as(output)

    return add


def _full_hook(parts: Stacked, layout: int, rows: ForwardRows) -> Any:
    """With gains and shifts, and for embeddings."""

    def change(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if (weights := rows.weights) is None:
            return None
        changed = output.reshape(len(weights), -1, output.shape[-1])
        if parts.gain is not None:
            changed = changed * (1 + weights.to(parts.gain) @ parts.gain)[:, None]
        if parts.shift is not None:
            changed = changed + (weights.to(parts.shift) @ parts.shift)[:, None]
        if parts.a is not None and parts.b is not None:
            read = functional.embedding if parts.embedding else _linear
            low = read(args[0], parts.a)
            low = low.view(len(weights), -1, low.shape[-1])
            more = functional.linear(low.mul_(rows.columns[layout].to(low.device)), parts.b)
            if parts.embedding and hasattr(module, "embed_scale"):  # Gemma's, in the layer's type
                more = more * torch.as_tensor(module.embed_scale, dtype=more.dtype)
            changed = changed + more.to(changed)
        return changed.to(output.dtype).view_as(output)

    return change


def _linear(hidden: Tensor, a: Tensor) -> Tensor:
    return functional.linear(hidden.to(a), a)
