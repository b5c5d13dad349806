"""What adapters add to rows: the Triton kernels.

Rows go in groups of 16, each with a list of the adapters that any of its rows has. One launch
computes ``x A^T`` for those, of parts of the input, and a second adds ``B`` times the sum of the
parts. (Punica's shrink and expand: Chen et al. 2023, arXiv:2310.18547.) Which adapters rows have is
read on the device: a CUDA graph can be replayed for others. A sum has one order, whatever else is
in the batch: parts are of one size, and adapters are added one after the other.

This file imports triton. ``row_lists`` and ``products`` choose the shapes, and import it when they
launch.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "loaded", "width"])
def list_adapters(
    table, slots, numbers, lists, counts, rows, loaded, width,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A group's numbers, and the adapters that any of its rows has, in their order."""
    group = tl.program_id(0)
    row = group * ROWS + tl.arange(0, ROWS)
    live = row < rows
    slot = tl.load(slots + row, mask=live, other=0)
    count = 0
    for first in range(0, loaded, BLOCK):
        adapter = first + tl.arange(0, BLOCK)
        mask = live[:, None] & (adapter < loaded)[None, :]
        number = tl.load(table + slot[:, None] * width + adapter[None, :], mask=mask, other=0.0)
        tl.store(numbers + row[:, None] * loaded + adapter[None, :], number, mask=mask)
        has = tl.max((number != 0.0).to(tl.int32), 0)
        place = count + tl.cumsum(has, 0) - has
        tl.store(lists + group * loaded + place, adapter, mask=has > 0)
        count += tl.sum(has, 0)
    tl.store(counts + group, count)


@triton.jit(do_not_specialize=["positions", "queries", "loaded", "columns", "first_module",
                               "first_column", "lanes"])  # fmt: skip
def lower(
    x, a, starts, numbers, lists, counts, low,
    x_row, positions, queries, size, loaded, columns, first_module, first_column, lanes,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``x A^T`` of 16 positions and one part of the input, for every other adapter of a module."""
    tile = tl.program_id(0)
    module = tl.program_id(1) // lanes + first_module
    split = tl.program_id(2)
    group = tile // queries
    place = tile * ROWS + tl.arange(0, ROWS)
    live = place < positions
    row = place // queries
    end = tl.minimum((split + 1) * SPLIT, size)
    for i in range(tl.program_id(1) % lanes, tl.load(counts + group), lanes):
        adapter = tl.load(lists + group * loaded + i)
        column = tl.load(starts + module * loaded + adapter)
        last = tl.load(starts + module * loaded + adapter + 1)
        number = tl.load(numbers + row * loaded + adapter, mask=live, other=0.0)
        mine = live & (number != 0.0)
        if tl.max(mine.to(tl.int32), 0) > 0:
            for first in range(column, last, COLUMNS):
                c = first + tl.arange(0, COLUMNS)
                total = tl.zeros([ROWS, COLUMNS], tl.float32)
                for start in range(split * SPLIT, end, BLOCK):
                    k = start + tl.arange(0, BLOCK)
                    hidden = tl.load(
                        x + place.to(tl.int64)[:, None] * x_row + k[None, :],
                        mask=mine[:, None] & (k < end)[None, :], other=0.0,
                    )  # fmt: skip
                    factor = tl.load(
                        a + c.to(tl.int64)[None, :] * size + k[:, None],
                        mask=(c < last)[None, :] & (k < end)[:, None], other=0.0,
                    )  # fmt: skip
                    total = tl.dot(hidden, factor, total, input_precision="ieee")
                out = (split * positions + place) * columns
                tl.store(
                    low + out[:, None] + (c - first_column)[None, :], total,
                    mask=mine[:, None] & (c < last)[None, :],
                )  # fmt: skip


@triton.jit(do_not_specialize=["positions", "queries", "loaded", "columns", "first_column",
                               "first_out", "splits"])  # fmt: skip
def raise_to(
    low, b, out, starts, tiles, numbers, lists, counts,
    out_row, positions, queries, loaded, columns, first_column, first_out, splits,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add to 16 positions of one tile of the output: the parts summed, times a row's number, B."""
    tile = tl.program_id(0)
    group = tile // queries
    count = tl.load(counts + group)
    if count == 0:
        return
    place = tile * ROWS + tl.arange(0, ROWS)
    live = place < positions
    row = place // queries
    entry = tiles + tl.program_id(1) * 5
    module = tl.load(entry)
    start = tl.load(entry + 1)  # of the module's B, were its first column the first of all
    size = tl.load(entry + 2)
    n = tl.load(entry + 3) + tl.arange(0, BLOCK)
    at = tl.load(entry + 4) - first_out + tl.arange(0, BLOCK)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    added = 0
    for i in range(count):
        adapter = tl.load(lists + group * loaded + i)
        column = tl.load(starts + module * loaded + adapter)
        last = tl.load(starts + module * loaded + adapter + 1)
        number = tl.load(numbers + row * loaded + adapter, mask=live, other=0.0)
        mine = live & (number != 0.0)
        if tl.max(mine.to(tl.int32), 0) > 0:
            for first in range(column, last, COLUMNS):
                c = first + tl.arange(0, COLUMNS)
                mask = mine[:, None] & (c < last)[None, :]
                lows = low + place[:, None] * columns + (c - first_column)[None, :]
                summed = tl.zeros([ROWS, COLUMNS], tl.float32)
                for split in range(splits):
                    summed += tl.load(lows + split * positions * columns, mask=mask, other=0.0)
                factor = tl.load(
                    b + start + c.to(tl.int64)[:, None] * size + n[None, :],
                    mask=(c < last)[:, None] & (n < size)[None, :], other=0.0,
                )  # fmt: skip
                weighted = (summed * number[:, None]).to(b.dtype.element_ty)
                total = tl.dot(weighted, factor, total, input_precision="ieee")
                added = 1
    if added > 0:
        outs = out + place.to(tl.int64)[:, None] * out_row + at[None, :]
        mask = live[:, None] & (n < size)[None, :]
        before = tl.load(outs, mask=mask, other=0.0)
        tl.store(outs, before + total, mask=mask)
