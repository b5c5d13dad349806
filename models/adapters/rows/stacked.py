"""The adapters of a model's modules, put together in memory.

A module has a column for each rank of each adapter: ``A`` is (columns, in) and ``B`` (columns,
out), adapter after adapter. Modules of one parent with inputs of one size lie one after the other,
so that those which read the same input are one piece of memory, and one launch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ...kernels.lora.products import Factors, tiles_of
from ..placed import PlacedLayer, linear_sizes

Loaded: TypeAlias = Sequence[Mapping[str, PlacedLayer]]  # by column; nothing, of a vector


@dataclass(frozen=True)
class Stacked:
    """Every adapter's part of one module.

    Attributes:
        a, b: ``(columns, in)`` and ``(columns, out)``; A is transposed for an embedding. None where
            there are biases alone.
        ranges: of each adapter on it, by its column in the rows' numbers: its first column here,
            and where the next begins.
        gain, shift: ``(loaded, out)``: DoRA's scale of the bare output less 1, and what is added
            to it; None where all are 0.
        embedding: whether A is looked up by token.
    """

    a: Tensor | None
    b: Tensor | None
    ranges: Mapping[int, tuple[int, int]]
    gain: Tensor | None
    shift: Tensor | None
    embedding: bool

    @property
    def plain(self) -> bool:
        """Whether what it adds is ``B A x`` and nothing else."""
        return self.gain is None and self.shift is None and not self.embedding

    @cached_property
    def owners(self) -> tuple[int, ...]:
        """The adapter that each column is of."""
        pairs = ((column, range(*ends)) for column, ends in self.ranges.items())
        return tuple(column for column, mine in pairs for _ in mine)

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


@dataclass(frozen=True)
class Side:
    """Modules side by side in memory: of one parent, with inputs of one size.

    Attributes:
        paths: in their order; some may have no adapter.
        outs: the size of each one's output.
        ranges: of each module, as in ``Stacked``.
        loaded: adapters, those of other modules and of vectors among them.
        a: ``(columns, in)``, module after module.
        b: of each module ``(columns, out)``, all in one row of numbers.
    """

    paths: tuple[str, ...]
    outs: tuple[int, ...]
    ranges: tuple[Mapping[int, tuple[int, int]], ...]
    loaded: int
    a: Tensor
    b: Tensor

    def parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A and B of each module that has any."""
        made, number = {}, 0
        for place, (path, out) in enumerate(zip(self.paths, self.outs, strict=True)):
            first, end = self._columns(place, place + 1)
            if first < end:
                b = self.b[number : number + (end - first) * out].view(-1, out)
                made[path] = self.a[first:end], b
            number += (end - first) * out
        return made

    def run(self, paths: Sequence[str]) -> Factors | None:
        """What kernels read for modules that lie in this order, one after the other; else None."""
        first = self.paths.index(paths[0]) if paths[0] in self.paths else 0
        last = first + len(paths)
        if self.paths[first:last] != tuple(paths):
            return None
        starts, tiles, ends = self._tables
        outs = sum(self.outs[:first]), sum(self.outs[:last])
        mine = tiles[ends[first] : ends[last]]
        modules, columns = (first, last), self._columns(first, last)
        return Factors(self.a, self.b, starts, mine, self.loaded, modules, columns, outs)

    @cached_property
    def _starts(self) -> list[int]:
        """The first column of each module's adapters, and where the last ends."""
        starts = [0]
        for ranges in self.ranges:
            for column in range(self.loaded):
                first, end = ranges.get(column, (0, 0))
                starts.append(starts[-1] + end - first)
        return starts

    def _columns(self, first: int, last: int) -> tuple[int, int]:
        """Those of modules from the first to before the last."""
        starts = self._starts
        return starts[first * self.loaded], starts[last * self.loaded]

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor, list[int]]:
        """Both tables of ``Factors`` for all modules, and where the tiles of each begin."""
        starts, device = self._starts, self.a.device
        tiles = tiles_of(starts, self.outs, self.loaded)
        ends = [0, *accumulate(map(len, tiles))]
        tables = torch.tensor([*chain(*tiles)], device=device)
        return torch.tensor(starts, dtype=torch.int32, device=device), tables, ends


def stack(
    model: nn.Module, loaded: Loaded, like: Callable[[nn.Module], Tensor]
) -> tuple[dict[str, Stacked], list[Side]]:
    """The parts of every module that has any, and which of them lie side by side.

    Args:
        loaded: the adapters.
        like: a tensor of the device and the type that a module's parts are to have.
    """
    modules, paths = dict(model.named_modules()), {path for adapter in loaded for path in adapter}
    sides, factors = [], dict[str, tuple[Tensor, Tensor]]()
    for group in _groups(model, modules, paths, like):
        if (side := _side(group, modules, loaded, like(modules[group[0]]))) is not None:
            sides.append(side)
            factors |= side.parts()
    stacked = {}
    for path in sorted(paths):
        layers = [adapter.get(path) for adapter in loaded]
        stacked[path] = _stacked(layers, like(modules[path]), factors.get(path))
    return stacked, sides


def _groups(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    paths: set[str],
    like: Callable[[nn.Module], Tensor],
) -> list[list[str]]:
    """Linear modules of one parent and device, with inputs of one size, some with adapters."""
    groups = list[list[str]]()
    for name, parent in model.named_modules():
        alike = defaultdict[Any, list[str]](list)
        for own, module in parent.named_children():
            path = f"{name}.{own}" if name else own
            if path in modules and (sizes := linear_sizes(module)) is not None:
                alike[sizes[0], like(module).device].append(path)
        groups += [group for group in alike.values() if not paths.isdisjoint(group)]
    return groups


def _side(
    group: Sequence[str], modules: Mapping[str, Any], loaded: Loaded, like: Tensor
) -> Side | None:
    """Modules with the adapters on them; None where there are biases alone."""
    a, b, ranges = list[Tensor](), list[Tensor](), list[Mapping[int, tuple[int, int]]]()
    for path in group:
        layers = [adapter.get(path) for adapter in loaded]
        ranges.append(_ranges(layers))
        a += [layer.a for layer in layers if layer is not None and layer.a is not None]
        b += [layer.b.T.flatten() for layer in layers if layer is not None and layer.b is not None]
    if not a:
        return None
    outs = [sizes[1] for path in group if (sizes := linear_sizes(modules[path])) is not None]
    joined = torch.cat(a).to(like), torch.cat(b).to(like)
    return Side(tuple(group), tuple(outs), tuple(ranges), len(loaded), *joined)


def _stacked(
    layers: Sequence[PlacedLayer | None], like: Tensor, factors: tuple[Tensor, Tensor] | None
) -> Stacked:
    """The adapters' parts of one module, with its factors where they lie beside those of others."""
    embedding = any(layer.embedding for layer in layers if layer is not None)
    if embedding:
        pairs = [(x.a, x.b) for x in layers if x is not None and x.a is not None]
        looked_up = torch.cat([a for a, _ in pairs if a is not None]).T.contiguous()
        onward = torch.cat([b.T for _, b in pairs if b is not None])
        factors = looked_up.to(like), onward.to(like)
    gains = [None if x is None or x.gain is None else x.gain - 1 for x in layers]
    shifts = [None if layer is None else layer.shift for layer in layers]
    a, b = factors or (None, None)
    gain, shift = _rows(gains, like), _rows(shifts, like)
    return Stacked(a, b, _ranges(layers), gain, shift, embedding)


def _ranges(layers: Sequence[PlacedLayer | None]) -> dict[int, tuple[int, int]]:
    """The columns of each adapter that has any, one after the other."""
    ranges, end = dict[int, tuple[int, int]](), 0
    for column, layer in enumerate(layers):
        if layer is not None and layer.a is not None:
            ranges[column] = end, end + len(layer.a)
            end += len(layer.a)
    return ranges


def _rows(parts: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    """``(loaded, out)``, zeros for an adapter without; None where no adapter has any."""
    first = next((part for part in parts if part is not None), None)
    if first is None:
        return None
    exact = torch.promote_types(like.dtype, torch.float32)  # 1 + 2**-9 is 1 in bfloat16
    rows = [torch.zeros_like(first) if part is None else part for part in parts]
    return torch.stack(rows).to(like.device, exact)
