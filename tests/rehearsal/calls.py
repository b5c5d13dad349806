"""Python's calls on fake tensors, before they become operations: what a driver would do for them.

Without CUDA, torch can make fake tensors of it and operate on them, but a few calls ask for the
current device. They are answered here; and attention becomes one kernel, as it is on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from . import costs

if TYPE_CHECKING:
    from .device import Device

FIRST = torch.device("cuda", 0)
# Calls that set the current device to that of their tensor, which needs a driver.
GUARDED = frozenset(
    """
    __getitem__ __setitem__ item __bool__ __int__ __float__ __index__ nonzero contiguous
    __invert__ new_tensor is_nonzero copy_
    """.split()  # noqa: SIM905
)


class Calls(TorchFunctionMode):
    """Does in Python what needs a driver."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device
        self._bent: dict[str, Callable[..., Any]] = {
            "__getitem__": self._getitem,
            "__setitem__": self._setitem,
            "scaled_dot_product_attention": self._attention,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        args = tuple(map(_numbered, args))
        kwargs = {name: _numbered(value) for name, value in (kwargs or {}).items()}
        bent = self._bent.get(getattr(func, "__name__", ""))
        if bent is not None and args and isinstance(args[0], FakeTensor):
            return bent(func, *args, **kwargs)
        if kwargs.pop("pin_memory", False):
            out = func(*args, **kwargs)
            self._device.pin(out)
            return out
        return self._call(func, *args, **kwargs)

    def _call(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        before, device = self._device.guarded, self._device
        device.guarded = getattr(func, "__name__", "") in GUARDED
        try:
            return func(*args, **kwargs)
        finally:
            device.guarded = before

    def _getitem(self, func: Any, tensor: Tensor, index: Any) -> Any:
        return self._call(func, tensor, _on_device(tensor, index))

    def _setitem(self, func: Any, tensor: Tensor, index: Any, value: Any) -> None:
        index = _on_device(tensor, index)
        if tensor.device.type == "cuda" and not isinstance(value, Tensor):
            if not _gathers(index):
                self._call(Tensor.__getitem__, tensor, index).fill_(value)
                return
            value = torch.tensor(value, dtype=tensor.dtype).to(tensor.device)  # as torch does
        self._call(func, tensor, index, value)

    def _attention(
        self, func: Any, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None,
        dropout_p: float = 0.0, is_causal: bool = False, **settings: Any,
    ) -> Tensor:  # fmt: skip
        """One kernel; a mask of bools is made one of numbers first, at every call."""
        if query.device.type != "cuda":
            return func(query, key, value, attn_mask, dropout_p, is_causal, **settings)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            options: Any = {"dtype": query.dtype, "device": query.device}
            shown, hidden = (torch.scalar_tensor(x, **options) for x in (0.0, -torch.inf))
            attn_mask = torch.where(attn_mask, shown, hidden)
        shape = (*query.shape[:-1], value.shape[-1])
        out = query.new_empty(shape[0], *reversed(shape[1:3]), shape[3]).transpose(1, 2)
        self._device.launch(
            "scaled_dot_product_attention", costs.attention(query, key, value, attn_mask, out)
        )
        return out


def _numbered(value: Any) -> Any:
    """``cuda`` as ``cuda:0``: which is the current device would be asked of the driver."""
    if isinstance(value, str | torch.device) and str(value) == "cuda":
        return FIRST
    return value


def _parts(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _gathers(index: Any) -> bool:
    return any(isinstance(part, Tensor | list) for part in _parts(index))


def _on_device(tensor: Tensor, index: Any) -> Any:
    """An index whose lists of numbers are tensors where the indexed one is: a copy to there."""
    if tensor.device.type != "cuda" or not _gathers(index):
        return index
    parts = []
    for part in _parts(index):
        if isinstance(part, list):
            made = torch.tensor(part) if part else torch.empty(0, dtype=torch.long)
            part = made.to(tensor.device)
        parts.append(part)
    return tuple(parts)
