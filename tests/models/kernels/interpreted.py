"""Triton's interpreter in a process of its own: kernels are interpreted or compiled by the process.

The interpreter runs a kernel's thread blocks one after the other, on memory of the CPU. What they
read and write is counted on the way.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Counts(NamedTuple):
    """What a call did: thread blocks, kernels, and bytes, each once per thread block."""

    blocks: int
    launches: int
    read: int
    written: int


def prepare() -> None:
    """Before triton is imported."""
    os.environ["TRITON_INTERPRET"] = "1"


def launcher(operation: str) -> Callable[..., Any]:
    """What launches the kernels of an operation of ours: ``draw``, ``layers.norms:launch_sum``."""
    module, _, function = operation.partition(":")
    folder = "" if "." in module else "kernels."
    found = importlib.import_module(f"descant.models.{folder}{module}")
    launch: Callable[..., Any] = getattr(found, function or "launch")
    return launch


def launch(operation: str, *arguments: Any) -> Any:
    """The kernels' result, from CPU tensors.

    The interpreter multiplies the bits of bfloat16 numbers, and its manual says to cast them first:
    products of float32 are what a tensor core makes of them. It also cuts numbers to bfloat16 off,
    where a GPU rounds them.
    """
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle, interpreter_builder

    builder: Any = interpreter_builder
    dot, cast = builder.create_dot, builder.cast_impl

    def dot_of_float32(*operands: Any) -> Any:
        factors = [
            builder.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x
            for x in operands[:2]
        ]
        return dot(*factors, *operands[2:])

    def rounding(source: Any, kind: Any) -> Any:
        if (source.dtype.scalar, kind.scalar) != (tl.float32, tl.bfloat16):
            return cast(source, kind)
        numbers = torch.tensor(source.data).bfloat16()
        return TensorHandle(numbers.view(torch.uint16).numpy(), kind.scalar)

    builder.create_dot, builder.cast_impl = dot_of_float32, rounding
    try:
        return launcher(operation)(*arguments)
    finally:
        del builder.create_dot, builder.cast_impl


def launch_into(operation: str, *arguments: Any) -> tuple[Any, tuple[Any, ...]]:
    """The same, and the arguments, which kernels may write to."""
    return launch(operation, *arguments), arguments


def launch_in_place(operation: str, out: Tensor, *arguments: Any) -> Tensor:
    """The kernels' result, where they write it into their first argument."""
    launch(operation, out, *arguments)
    return out


def count(operation: str, *arguments: Any) -> Counts:
    """What ``launch`` does."""
    from triton.runtime.interpreter import interpreter_builder

    read, written = Memory(), Memory()
    grids: list[tuple[int, ...]] = []
    builder: Any = interpreter_builder
    set_grid_index, set_grid = builder.set_grid_idx, builder.set_grid_dim
    load, store = builder.create_masked_load, builder.create_masked_store

    def next_block(*index: int) -> None:
        read.end_block()
        written.end_block()
        grids[-1] += (1,)
        set_grid_index(*index)

    def next_grid(*dimensions: int) -> None:
        grids.append(())
        set_grid(*dimensions)

    def counted_load(pointers: Any, mask: Any, *rest: Any) -> Any:
        read.add(pointers, mask)
        return load(pointers, mask, *rest)

    def counted_store(pointers: Any, values: Any, mask: Any, *rest: Any) -> Any:
        written.add(pointers, mask)
        return store(pointers, values, mask, *rest)

    replaced: dict[str, Callable[..., Any]] = {
        "set_grid_idx": next_block, "set_grid_dim": next_grid,
        "create_masked_load": counted_load, "create_masked_store": counted_store,
    }  # fmt: skip
    for name, function in replaced.items():
        setattr(builder, name, function)
    try:
        launcher(operation)(*arguments)
    finally:
        for name in replaced:
            delattr(builder, name)
    read.end_block()
    written.end_block()
    blocks = sum(map(len, grids))
    return Counts(blocks, len(grids), read.total, written.total)


def tokens(formula: str, prompts: list[str], **settings: Any) -> list[list[int]]:
    """What demo models generate, where every token that can be is drawn by the kernels for sums."""
    from unittest.mock import patch

    import descant
    from descant.demo import models
    from descant.models.kernels.drawing.draw_sum import launch
    from descant.models.kernels.first_use import FirstUse
    from descant.runtime.engine import sampler

    calls: list[int] = []

    def counted(*arguments: Any) -> Any:
        calls.append(len(arguments[0]))
        return launch(*map(list, arguments[:9]), *arguments[9:])

    decoder = descant.compile(formula, models())
    with (
        patch.object(sampler, "KERNELS_ON", {"cpu", "cuda"}),
        patch.object(sampler, "draw_sum", counted),
        patch.object(FirstUse, "run", lambda self, device, kernel, *others: kernel()),
    ):
        drawn = [each.token_ids for each in decoder.generate(prompts, **settings)]
    assert calls
    return drawn


def examined(vocabulary: int) -> Any:
    """What the doctor finds of draws from a sum."""
    from unittest.mock import patch

    from descant.doctor import kernels
    from descant.models.kernels import gpu
    from descant.models.kernels.drawing import draw_sum

    with (
        patch.object(draw_sum, "draw_sum", draw_sum.launch),
        patch.object(gpu, "why_no_triton", lambda capability: None),
    ):
        return next(kernels.drawn_sums(vocabulary, "cpu"))


def noise(keys: Tensor, steps: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """``(n, vocabulary)`` the bits that the kernels draw by, and the noise that they make of them.

    ``keys`` and ``steps`` are those of a draw.
    """
    import noise_kernel

    shape = len(keys), vocabulary
    bits, made = torch.empty(shape, dtype=torch.int32), torch.empty(shape)
    blocks = -(-vocabulary // noise_kernel.BLOCK)
    noise_kernel.write_noise[len(keys), blocks](keys, steps, bits, made, vocabulary)
    return bits, made


class Memory:
    """Bytes at different addresses, summed over thread blocks."""

    def __init__(self) -> None:
        self.total = 0
        self._addresses: dict[int, set[int]] = {}  # by how many bytes are at each

    def add(self, pointers: Any, mask: Any) -> None:
        width = pointers.get_element_ty().primitive_bitwidth // 8
        self._addresses.setdefault(width, set()).update(pointers.data[mask.data].tolist())

    def end_block(self) -> None:
        self.total += sum(width * len(found) for width, found in self._addresses.items())
        self._addresses.clear()
