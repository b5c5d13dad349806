"""What adapters add to a module's output, row by row: hooks that read the chosen rows' masks.

The adapters of a module are stacked, ``A`` as (adapters x rank, in) and ``B`` as
(out, adapters x rank); a row's mask keeps the columns of its own adapter. Two matrix products, no
loop over adapters, no gathered weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .placed import PlacedLayer


@dataclass
class ForwardRows:
    """The adapters of the rows of the forward that runs now; None where it is of bare weights.

    Attributes:
        numbers: ``(rows,)``, 0 for none.
        mask: ``(rows, 1, adapters x rank)``, 1 for the columns of a row's own adapter.
    """

    numbers: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Stacked:
    """Every adapter's part of one module.

    Attributes:
        a, b: ``(adapters x rank, in)`` and ``(out, adapters x rank)``; A is transposed for an
            embedding. None where there are biases alone.
        gain, shift: ``(1 + adapters, out)``, of the bare output too; None where all are 1 and 0.
        embedding: whether A is looked up by token.
    """

    a: Tensor | None
    b: Tensor | None
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


def stacked(layers: Sequence[PlacedLayer | None], rank: int, like: Tensor) -> Stacked:
    """The adapters' parts of one module as one, with the device and type of ``like``."""
    present = [layer for layer in layers if layer is not None]
    pairs = [None if x is None or x.a is None or x.b is None else (x.a, x.b) for x in layers]
    embedding = any(layer.embedding for layer in present)
    a = b = gain = shift = None
    if any(pair is not None for pair in pairs):
        a, b = _stacked_pairs(pairs, rank, like)
        a = a.T.contiguous() if embedding else a
    if any(layer.gain is not None or layer.shift is not None for layer in present):
        exact = torch.promote_types(like.dtype, torch.float32)  # 1 + 2**-9 is 1 in bfloat16
        size = next(len(x) for p in present for x in (p.b, p.shift) if x is not None)
        gain, shift = torch.ones(1 + len(layers), size), torch.zeros(1 + len(layers), size)
        for number, layer in enumerate(layers, 1):
            if layer is not None and layer.gain is not None:
                gain[number] = layer.gain
            if layer is not None and layer.shift is not None:
                shift[number] = layer.shift
        gain, shift = gain.to(like.device, exact), shift.to(like.device, exact)
    return Stacked(a, b, gain, shift, embedding)


def _stacked_pairs(
    pairs: Sequence[tuple[Tensor, Tensor] | None], rank: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """``(adapters x rank, in)`` and ``(out, adapters x rank)``; zeros for an adapter without."""
    a, b = next(pair for pair in pairs if pair is not None)
    stacked_a = torch.zeros(len(pairs), rank, a.shape[1])
    stacked_b = torch.zeros(len(pairs), rank, b.shape[0])
    for number, pair in enumerate(pairs):
        if pair is not None:
            stacked_a[number, : len(pair[0])] = pair[0]
            stacked_b[number, : len(pair[0])] = pair[1].T
    return stacked_a.flatten(0, 1).to(like), stacked_b.flatten(0, 1).T.contiguous().to(like)


def hook(parts: Stacked, rows: ForwardRows) -> Any:
    """A forward hook of one module; it leaves the output of bare weights alone."""
    if parts.gain is None and not parts.embedding:
        return _plain_hook(parts, rows)
    return _full_hook(parts, rows)


def _plain_hook(parts: Stacked, rows: ForwardRows) -> Any:
    a, b = parts.a, parts.b
    assert a is not None and b is not None

    def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        mask = rows.mask
        if mask is None:
            return None
        # The layer's own device and dtype: a base may span devices or mix types.
        low = functional.linear(args[0].to(a), a)
        # By row again: OPT's feed-forward layers flatten rows and positions.
        low.view(mask.shape[0], -1, low.shape[-1]).mul_(mask.to(a))
        if (output.dtype, output.device) != (b.dtype, b.device):
            return output + functional.linear(low, b).to(output)
        flat = output.reshape(-1, output.shape[-1])
        return flat.addmm_(low.view(-1, low.shape[-1]), b.T).view_as(output)

    return add


def _full_hook(parts: Stacked, rows: ForwardRows) -> Any:
    """With gains and shifts, and for embeddings."""

    def change(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if rows.numbers is None or rows.mask is None:
            return None
        changed = output.reshape(len(rows.numbers), -1, output.shape[-1])
        if parts.gain is not None and parts.shift is not None:
            numbers = rows.numbers.to(parts.gain.device)
            changed = changed * parts.gain[numbers, None] + parts.shift[numbers, None]
        if parts.a is not None and parts.b is not None:
            read = functional.embedding if parts.embedding else _linear
            low = read(args[0], parts.a)
            low = low.view(len(rows.numbers), -1, low.shape[-1]) * rows.mask.to(low)
            more = functional.linear(low, parts.b)
            if parts.embedding and hasattr(module, "embed_scale"):  # Gemma's, in the layer's type
                more = more * torch.as_tensor(module.embed_scale, dtype=more.dtype)
            changed = changed + more.to(changed)
        return changed.to(output.dtype).view_as(output)

    return change


def _linear(hidden: Tensor, a: Tensor) -> Tensor:
    return functional.linear(hidden.to(a), a)
