"""The kernels as a named GPU gets them, compiled on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .live_attention import CHUNK, MAX_QUERIES, SPLITS, launches, padded_size


class Compiled(NamedTuple):
    """Both kernels, as Triton's compiler returns them: ``asm`` and ``metadata``."""

    partial: Any
    merge: Any


def compiled(
    capability: int, query_shape: Sequence[int], groups: int, capacity: int, page: int = CHUNK
) -> Compiled:
    """What a launch of these shapes runs on a GPU of a capability, 80 or 90, in bfloat16.

    Args:
        capability: of the GPU, ten times: 90 for 9.0.
        query_shape: ``(n, heads, q, size)``.
        groups: heads of keys.
        capacity: keys that each row's table has room for.
        page: keys of a page.

    Raises:
        ImportError: triton is not installed.
        Exception: what Triton's compiler raises.
    """
    from .decode_kernel import compiled_for

    _, heads, _, size = query_shape
    plan = launches(query_shape, groups, 2, capacity)
    sizes = {"VALUE_SIZE": size, "BLOCK_VALUE": padded_size(size), "SPLITS": SPLITS}
    constants = {
        **sizes, "EACH": heads // groups, "SIZE": size, "BLOCK_SIZE": padded_size(size),
        "ROWS": plan.rows, "KEYS": plan.keys, "PAGE": page, "CHUNK": CHUNK,
        "QUERIES": MAX_QUERIES,
    }  # fmt: skip
    options = {"num_warps": plan.warps, "num_stages": plan.stages}
    return Compiled(
        compiled_for("partial_attention", capability, constants, options),
        compiled_for("merge_parts", capability, sizes, {}),
    )
