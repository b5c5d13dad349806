"""What one operation costs: the bytes it reads and writes, its arithmetic, its thread blocks.

An operation of torch reads all that it is given and writes all that it gives, once. The exceptions
are here: what only changes the view, what takes some rows of a table, what fills. Arithmetic is
counted by torch's own flop counter. Operations of our own declare what they cost (``Declared``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from .account import ATTENTION

# Operations that launch nothing although they are no views: they make memory, or give it a name.
FREE = frozenset(
    """
    empty empty_like empty_strided new_empty new_empty_strided detach alias lift lift_fresh
    _unsafe_view _reshape_alias set_ resize_ view_as_real view_as_complex
    """.split()  # noqa: SIM905
)
GATHER = frozenset(("index", "index_select", "gather", "embedding", "take"))
SCATTER = frozenset(("index_put_", "scatter_", "index_copy_", "index_add_", "scatter_reduce_"))
INDEXED = frozenset(("index", "index_put_"))  # their indices come as a list, from anywhere
OVER = frozenset(("fill_", "zero_", "copy_", "uniform_", "normal_"))  # what was there is not read
COPIES = frozenset(("_to_copy", "copy_", "clone", "cat", "stack"))


class Cost(NamedTuple):
    """What launches cost together.

    Attributes:
        read: pairs of a tensor, and the bytes that are read of it.
        written: bytes.
        blocks: thread blocks of all launches; None of a library's kernels.
    """

    read: Sequence[tuple[Tensor, int]]
    written: int
    flops: int = 0
    launches: int = 1
    blocks: int | None = None
    kind: str = "other"


# What an operation of our own costs: of the tokens that each row of the lane that runs has in its
# cache, known on the host, and of the operation's arguments.
Declared: TypeAlias = Callable[..., Cost]


def extent(tensor: Tensor) -> int:
    """Bytes of a tensor's distinct numbers: what is expanded counts once."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return prod(size if stride else min(size, 1) for size, stride in pairs) * tensor.itemsize


def tensors(values: Any) -> list[Tensor]:
    """The tensors in arguments or results."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return []
    return [tensor for value in values for tensor in tensors(value)]


def cost(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Cost:
    """What an operation of torch costs."""
    name = func.overloadpacket.__name__
    given, made = tensors((args, kwargs)), tensors(out)
    written = sum(map(extent, made))
    read = [(tensor, extent(tensor)) for tensor in given]
    if name in GATHER:
        return Cost([(given[0], written), *read[1:]], written, kind="copy")
    if name in SCATTER:
        return Cost(read[1:], extent(given[-1]), kind="copy")
    if name == "_foreach_copy_":  # one kernel for all, or so many as torch packs into one
        written = sum(map(extent, tensors(args[0])))
        return Cost([(each, extent(each)) for each in tensors(args[1])], written, kind="copy")
    if name in OVER:
        read = read[1:]
    flops = arithmetic(func, args, kwargs, out)
    kind = "product" if flops else "copy" if name in COPIES else "other"
    return Cost(read, written, flops, kind=kind)


def arithmetic(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Operations on numbers, of products and convolutions; 0 of everything else."""
    packet = func.overloadpacket
    if packet not in flop_registry:  # in place is as much
        packet = getattr(torch.ops.aten, packet.__name__.removesuffix("_"), None)
    counted = flop_registry.get(packet)
    return int(counted(*args, **kwargs, out_val=out)) if counted else 0


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, out: Tensor) -> Cost:
    """What a library's attention costs that reads all keys it is given: ``(…, q, size)`` each."""
    read = [(each, extent(each)) for each in (query, key, value, mask) if each is not None]
    per_product = 2 * query.numel() * key.shape[-2]
    more = per_product * value.shape[-1] // query.shape[-1]
    return Cost(read, extent(out), per_product + more, kind=ATTENTION)
