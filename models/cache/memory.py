"""Memory for keys and values."""

from __future__ import annotations

import math
import mmap
import os

import torch
from torch import Tensor


def mapped_zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros of a tensor's dtype and device.

    On a CPU they are a mapping of their own: a page takes memory when it is written to, all of
    it goes back to the system at once, and the allocator is left without a hole.

    Raises:
        MemoryError: the system maps no more.
    """
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < mmap.PAGESIZE:
        return like.new_zeros(shape)
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
    try:
        pages = mmap.mmap(-1, size, **private)
    except OSError as error:
        raise MemoryError(f"a cache of {size} bytes cannot be mapped: {error.strerror}") from error
    storage = torch.frombuffer(pages, dtype=torch.uint8).untyped_storage()
    return like.new_empty(0).set_(storage).view(shape)
