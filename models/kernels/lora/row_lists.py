"""The adapters that rows have: a row's number of each, and those of every 16 rows as a list."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..gpu import Cost

ROWS = 16  # of a group
BLOCK = 128  # adapters that are looked at together


class RowLists(NamedTuple):
    """What the rows of a forward add, on the device.

    Attributes:
        numbers: ``(rows, loaded)`` float32: a row's number of each adapter.
        lists: ``(groups, loaded)`` int32: the adapters that any of 16 rows has, in their order;
            what follows is undefined.
        counts: ``(groups,)`` int32: how many there are.
    """

    numbers: Tensor
    lists: Tensor
    counts: Tensor


def list_adapters(table: Tensor, slots: Tensor, loaded: int) -> RowLists:
    """What rows add.

    Args:
        table: ``(slots, columns)`` float32: of each combination, the number of each adapter.
        slots: ``(rows,)`` int64, the rows' combinations.
        loaded: columns that are of adapters; at least 1.
    """
    return RowLists(*_list(table, slots, loaded))


@torch.library.custom_op("descant::list_adapters", mutates_args=(), device_types="cpu")
def _list(table: Tensor, slots: Tensor, loaded: int) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(listed(table, slots, loaded))  # type: ignore[return-value]


def listed(table: Tensor, slots: Tensor, loaded: int) -> RowLists:
    """The same by torch's operations."""
    numbers = table[:, :loaded].index_select(0, slots)
    padded = torch.nn.functional.pad(numbers, (0, 0, 0, -len(slots) % ROWS))
    has = (padded.view(-1, ROWS, loaded) != 0).any(dim=1)
    lists = torch.argsort(has.logical_not().int(), dim=1, stable=True)
    return RowLists(numbers, lists.int(), has.sum(dim=1, dtype=torch.int32))


@_list.register_fake
def _result(table: Tensor, slots: Tensor, loaded: int) -> tuple[Tensor, Tensor, Tensor]:
    groups = -(-len(slots) // ROWS)
    lists = slots.new_empty(groups, loaded, dtype=torch.int32)
    counts = slots.new_empty(groups, dtype=torch.int32)
    return table.new_empty(len(slots), loaded), lists, counts


def cost(rows: int, loaded: int, used: int) -> Cost:
    """What a call reads and writes.

    Args:
        used: entries of all lists.
    """
    groups = -(-rows // ROWS)
    read = rows * (8 + loaded * 4)
    written = rows * loaded * 4 + (used + groups) * 4
    return Cost(read, written, launches=1, blocks=groups)


@_list.register_kernel("cuda")
def launch(table: Tensor, slots: Tensor, loaded: int) -> tuple[Tensor, Tensor, Tensor]:
    """One launch on the current stream, without a wait; a graph can hold it."""
    from . import lora_kernel

    slots = slots.contiguous()
    made: tuple[Tensor, Tensor, Tensor] = _result(table, slots, loaded)
    guard: Any = torch.cuda.device(table.device) if table.is_cuda else nullcontext()
    with guard:
        lora_kernel.list_adapters[len(made[2]),](
            table, slots, *made, len(slots), loaded, table.stride(0), ROWS=ROWS, BLOCK=BLOCK
        )
    return made
