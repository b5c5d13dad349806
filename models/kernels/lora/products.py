"""What rows' adapters add to the outputs of modules that read the same input, side by side.

On a CPU it is torch's operations, adapter by adapter; on CUDA it is two launches, which read the
factors of those adapters that rows have.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..gpu import Cost
from .row_lists import ROWS, RowLists

COLUMNS = 16  # of an adapter, that are multiplied together
SPLIT = 512  # of the input, in one sum: results depend on it, and on nothing else of a launch
INPUTS, OUTPUTS = 128, 128  # of a block
LANES = 4  # thread blocks that share the adapters of a module
MOST = 512  # positions, beyond which products of whole matrices are faster
DTYPES = torch.float32, torch.bfloat16, torch.float16


class Factors(NamedTuple):
    """The factors of adapters on modules that lie side by side, and a run of those modules.

    Attributes:
        a: ``(columns, in)``, module after module, adapter after adapter.
        b: of each module ``(columns, out)``, all in one row of numbers.
        starts: ``(modules * loaded + 1,)`` int32, the first column of each module's adapters, and
            where the last ends.
        tiles: ``(tiles, 5)`` int64, of the run: a tile's module; where the module's B would begin
            were its first column column 0; the size of its output; where in it the tile begins, and
            where among the outputs of all modules.
        loaded: adapters of each module, those without columns there among them.
        modules: of the run: the first, and where the next begins; and alike
        columns: those of the run.
        outs: the run's outputs among those of all modules.
    """

    a: Tensor
    b: Tensor
    starts: Tensor
    tiles: Tensor
    loaded: int
    modules: tuple[int, int]
    columns: tuple[int, int]
    outs: tuple[int, int]


def tiles_of(ranges: Sequence[int], outs: Sequence[int], loaded: int) -> list[list[list[int]]]:
    """Of each module, its ``tiles`` as in ``Factors``.

    Args:
        ranges: the numbers of ``starts``.
        outs: the size of each module's output.
    """
    tiles, numbers, first = list[list[list[int]]](), 0, 0
    for module, out in enumerate(outs):
        column, last = ranges[module * loaded], ranges[(module + 1) * loaded]
        start = numbers - column * out
        places = range(0, out, OUTPUTS)
        tiles.append([[module, start, out, place, first + place] for place in places])
        numbers, first = numbers + (last - column) * out, first + out
    return tiles


def add_products(out: Tensor, x: Tensor, factors: Factors, rows: RowLists) -> None:
    """Add in place what rows' adapters add; sums are in float32.

    Args:
        out: ``(n, outs of the run)``, numbers of a row one after the other.
        x: ``(n, in)`` alike: the rows one after the other, each with as many positions. All have
            one type.
    """
    assert out.dtype == x.dtype == factors.a.dtype == factors.b.dtype
    assert out.stride(1) == x.stride(1) == 1 and len(x) % len(rows.numbers) == 0
    shape = [factors.loaded, *factors.modules, *factors.columns, *factors.outs]
    _add(out, x, *factors[:4], *rows, shape)


@torch.library.custom_op("descant::add_lora", mutates_args=("out",), device_types="cpu")
def _add(
    out: Tensor, x: Tensor, a: Tensor, b: Tensor, starts: Tensor, tiles: Tensor,
    numbers: Tensor, lists: Tensor, counts: Tensor, shape: Sequence[int],
) -> None:  # fmt: skip
    loaded, queries, bounds = shape[0], len(x) // len(numbers), starts.tolist()
    sums = torch.zeros_like(out, dtype=torch.promote_types(out.dtype, torch.float32))
    for module, start, size, first, place in tiles.tolist():
        inside = slice(place - shape[5], place - shape[5] + min(OUTPUTS, size - first))
        for adapter in range(loaded):
            column, last = bounds[module * loaded + adapter : module * loaded + adapter + 2]
            number = numbers[:, adapter].repeat_interleave(queries)
            if column == last or not number.any():
                continue
            low = x.to(sums) @ a[column:last].to(sums).T * number[:, None]
            low = low.masked_fill_(number[:, None] == 0, 0).to(b).to(sums)
            factor = b[start + column * size : start + last * size].view(-1, size)
            sums[:, inside] += low @ factor[:, first : first + OUTPUTS].to(sums)
    out.copy_(out + sums)


@_add.register_fake
def _result(out: Tensor, *others: Any) -> None:
    return None


def splits(size: int) -> int:
    """Parts of an input."""
    return -(-size // SPLIT)


def cost(
    added: Sequence[Sequence[int]], queries: int, size: int, ranks: Sequence[Sequence[int]],
    outs: Sequence[int], itemsize: int,
) -> Cost:  # fmt: skip
    """What a call reads, writes and computes, from numbers on the host.

    A thread block counts what it reads once.

    Args:
        added: of each row, the adapters that it has.
        queries: positions of each row.
        size: of the input.
        ranks: of each module, those of every adapter that is loaded.
        outs: of each module.
        itemsize: bytes of a number of the factors, the input and the output.
    """
    positions, loaded = len(added) * queries, len(ranks[0])
    parts, lanes, tiles = splits(size), min(loaded, LANES), -(-positions // ROWS)
    read = written = flops = weights = 0
    for tile in range(tiles):
        group = tile // queries * ROWS
        listed = sorted({one for row in added[group : group + ROWS] for one in row})
        places = range(tile * ROWS, min((tile + 1) * ROWS, positions))
        mine = [{*added[place // queries]} for place in places]
        entry = 4 * (3 + len({place // queries for place in places}))  # what says where, and who
        for module, out in zip(ranks, outs, strict=True):
            on = [one for one in listed if module[one] and any(one in row for row in mine)]
            columns, blocks = sum(module[one] for one in on), -(-out // OUTPUTS)
            kept = sum(module[one] for one in on for row in mine if one in row)
            shares = [{*listed[lane::lanes]}.intersection(on) for lane in range(lanes)]
            inputs = sum(not share.isdisjoint(row) for share in shares for row in mine)
            result = len(places) * out * itemsize * bool(on)
            weights += columns * (size + out) * itemsize
            read += inputs * size * itemsize + result
            read += blocks * kept * parts * 4 + (parts + blocks) * len(listed) * entry
            written += kept * parts * 4 + result
            flops += 2 * kept * (size + out)
    out_tiles = sum(-(-out // OUTPUTS) for out in outs)
    grids = tiles * (len(outs) * lanes * parts + out_tiles)
    return Cost(read + weights, written, 2, grids, flops, weights=weights)


@_add.register_kernel("cuda")
def launch(
    out: Tensor, x: Tensor, a: Tensor, b: Tensor, starts: Tensor, tiles: Tensor,
    numbers: Tensor, lists: Tensor, counts: Tensor, shape: Sequence[int],
) -> None:  # fmt: skip
    """Two launches on the current stream, without a wait; a graph can hold them."""
    from . import lora_kernel

    loaded, module, next_module, column, next_column, first_out, _ = shape
    (positions, size), columns = x.shape, next_column - column
    queries, parts, lanes = positions // len(numbers), splits(size), min(loaded, LANES)
    low = x.new_empty(parts, positions, columns, dtype=torch.float32)
    rows, count = (numbers, lists, counts), -(-positions // ROWS)
    guard: Any = torch.cuda.device(x.device) if x.is_cuda else nullcontext()
    with guard:
        lora_kernel.lower[count, (next_module - module) * lanes, parts](
            x, a, starts, *rows, low,
            x.stride(0), positions, queries, size, loaded, columns, module, column, lanes,
            ROWS=ROWS, COLUMNS=COLUMNS, SPLIT=SPLIT, BLOCK=INPUTS, num_warps=4, num_stages=3,
        )  # fmt: skip
        lora_kernel.raise_to[count, len(tiles)](
            low, b, out, starts, tiles, *rows,
            out.stride(0), positions, queries, loaded, columns, column, first_out, parts,
            ROWS=ROWS, COLUMNS=COLUMNS, BLOCK=OUTPUTS, num_warps=4,
        )  # fmt: skip
