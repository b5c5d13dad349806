"""What our Triton kernels take of a GPU, and what they need there."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch


class Cost(NamedTuple):
    """What a call takes of a GPU.

    Attributes:
        read: bytes of memory, those of caches among them.
        written: bytes.
        launches: of kernels.
        blocks: thread blocks of all launches.
        flops: of products.
        cached: bytes of keys and values that are read.
        weights: bytes of weights that are read.
    """

    read: int
    written: int
    launches: int
    blocks: int
    flops: int = 0
    cached: int = 0
    weights: int = 0


def is_disabled(name: str) -> bool:
    """Whether ``DESCANT_DISABLE_KERNELS`` names this kernel; it is read once.

    Args:
        name: ``attention``, ``draw``, ``layers`` or ``lora``.
    """
    return name in _disabled()


@cache
def _disabled() -> frozenset[str]:
    names = os.environ.get("DESCANT_DISABLE_KERNELS", "").split(",")
    return frozenset(name.strip() for name in names)


def why_disabled(name: str) -> str | None:
    """The same in words, as of a kernel that cannot be used."""
    return f"DESCANT_DISABLE_KERNELS names {name}" if is_disabled(name) else None


def why_no_triton(capability: tuple[int, int] | None = None) -> str | None:
    """Why no Triton kernel runs here, in words; None where they do, and where torch has no GPU.

    Args:
        capability: of the GPU, for CUDA; None leaves it unasked.
    """
    if capability is not None and capability < (8, 0):
        version = ".".join(map(str, capability))
        return f"a GPU of compute capability {version}: Triton takes 8.0 and later"
    if torch.version.hip is not None:
        return "a GPU of AMD: the kernels are compiled for NVIDIA's"
    if torch.version.cuda is None:
        return None
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "no C compiler, which Triton builds its launcher with: install gcc"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "no Python.h, which Triton builds its launcher with: install python3-dev"
    return None
