"""Plan and lanes to tokens: binding, the one batched step, and the decoder that users hold.

Importing this imports neither torch nor transformers: what needs them is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .binding.bind import bind
    from .binding.bound import Bound
    from .binding.draft import DraftBinder
    from .binding.term_parallel import TermParallel
    from .binding.weight_pool import WeightPool
    from .decoder import Decoder
    from .explain.inspection import Inspection
    from .explain.plan_report import Report
    from .loops.loglikelihood import Likelihood
    from .requests.request import Completion, Request
    from .service import Served, Service

__all__ = [
    "Bound",
    "Completion",
    "Decoder",
    "DraftBinder",
    "Inspection",
    "Likelihood",
    "Report",
    "Request",
    "Served",
    "Service",
    "TermParallel",
    "WeightPool",
    "bind",
]

_MODULES = {
    ".binding.bind": ("bind",),
    ".binding.bound": ("Bound",),
    ".binding.draft": ("DraftBinder",),
    ".binding.term_parallel": ("TermParallel",),
    ".binding.weight_pool": ("WeightPool",),
    ".decoder": ("Decoder",),
    ".explain.inspection": ("Inspection",),
    ".explain.plan_report": ("Report",),
    ".loops.loglikelihood": ("Likelihood",),
    ".requests.request": ("Completion", "Request"),
    ".service": ("Served", "Service"),
}
_LAZY = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use."""
    from importlib import import_module

    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name], __name__), name)
    return value
