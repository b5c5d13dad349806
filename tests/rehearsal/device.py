"""The fake device: every operation on fake tensors passes here, and is written down.

torch has fake tensors of its own (``FakeTensorMode``). Two modes stand around it. ``_Operations``
sees each operation that would launch a kernel, copy or wait; ``Calls`` sees Python's calls before
they become operations.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from . import costs
from .account import ATTENTION, Launch, Step
from .calls import Calls
from .costs import Cost, Declared
from .memory import CACHES, WEIGHTS, Memory

aten = torch.ops.aten
COMPARISONS = (aten.equal.default, aten.allclose.default)  # of which the answer is one bool
OURS = ("descant.", "transformers.")


class Unaccounted(RuntimeError):
    """An operation of which nobody has said what it costs, or that needs numbers."""


class Device:
    """Fake GPUs, and the account of what they are given.

    Args:
        declared: the costs of operations that are not torch's, by their qualified names.

    Attributes:
        step: the account that is being written.
        answer: what a question about numbers is answered; every number is 0.
        lengths: the tokens in the cache of each row of the forward that runs.
        prompts: whether prompts are being read.
        guarded: whether a call is under way that takes its tensor's device for the current one.
    """

    def __init__(self, declared: Mapping[str, Declared] | None = None) -> None:
        self.step, self.memory = Step(), Memory()
        self.answer, self.guarded, self.prompts = True, False, False
        self.declared: dict[str, Declared] = {**VARIABLE_LENGTH, **(declared or {})}
        self.lengths: list[int] = []
        self._stack = ExitStack()
        self._pinned: set[int] = set()

    def __enter__(self) -> Device:
        for mode in (FakeTensorMode(allow_non_fake_inputs=True), _Operations(self), Calls(self)):
            self._stack.enter_context(mode)
        # Fake tensors ask for their numbers one by one; real ones are copied together.
        self._stack.enter_context(patch.object(FakeTensor, "tolist", self._listed))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    @contextmanager
    def into(self, account: Step) -> Iterator[Step]:
        """In this context, everything is written into another account."""
        before, self.step = self.step, account
        try:
            yield account
        finally:
            self.step = before

    def launch(self, name: str, cost: Cost) -> None:
        """Write down launches."""
        read = {WEIGHTS: 0, CACHES: 0}
        other = 0
        for tensor, size in cost.read:
            if (kind := self.memory.kind_of(tensor)) in read:
                read[kind] += size
            else:
                other += size
        line = place()
        parts = read[WEIGHTS], read[CACHES], other, cost.written, cost.flops
        for number in range(cost.launches):  # what does not divide is the first one's
            share = [
                part // cost.launches + (part % cost.launches) * (not number) for part in parts
            ]
            blocks = None if cost.blocks is None else cost.blocks // cost.launches
            launch = Launch(name, line, cost.kind, *share, blocks, self.prompts)
            self.step.launches.append(launch)

    def wait(self) -> None:
        """Write down that the host waits here."""
        self.step.waits.append(place())

    def copied(self, source: Tensor, target: Tensor, non_blocking: bool) -> None:
        """Write down a copy between host and device. Without pinned memory, the host waits."""
        if not source.numel():
            return
        out = target.device.type == "cpu"
        (self.step.d2h if out else self.step.h2d).append(place())
        if not (non_blocking and self.is_pinned(target if out else source)):
            self.wait()

    @property
    def _listed(self) -> Any:
        device = self

        def tolist(tensor: FakeTensor) -> Any:
            """All numbers, at the cost of one wait."""
            if tensor.constant is not None:
                return tensor.constant.tolist()
            if tensor.device.type == "cuda":
                device.copied(tensor, torch.empty(0), False)
            return _nested(device.number(tensor.dtype), [*tensor.shape])

        return tolist

    def number(self, dtype: torch.dtype) -> Any:
        """What stands for a number that nobody knows."""
        if dtype == torch.bool:
            return self.answer
        return 0.0 if dtype.is_floating_point else 0

    def pin(self, tensor: Tensor) -> None:
        """A tensor of the host is in pinned memory."""
        self._pinned.add(tensor.untyped_storage()._cdata)

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._pinned


class _Operations(TorchDispatchMode):
    """Writes down what launches a kernel, and what crosses between host and device."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return torch.device("meta") if self._device.guarded else args[0].fake_device
        if func is aten._local_scalar_dense.default:
            return self._asked(func, args[0])
        try:
            out = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            if func in COMPARISONS:
                self._device.wait()
                return self._device.answer
            raise Unaccounted(f"{func} at {place()} needs numbers: the host would wait") from error
        self._account(func, args, kwargs, out)
        return out

    def _asked(self, func: Any, tensor: Tensor) -> Any:
        """One number of a tensor; a made up one, unless the host has written it there."""
        if tensor.device.type == "cuda":
            self._device.wait()
        else:
            try:
                return func(tensor)
            except DataDependentOutputException:
                pass
        return self._device.number(tensor.dtype)

    def _account(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        device, name = self._device, func.overloadpacket.__name__
        given, made = costs.tensors((args, kwargs)), costs.tensors(out)
        kinds = {tensor.device.type for tensor in (*given, *made)}
        if "cuda" not in kinds:
            return
        for tensor in made:
            device.memory.made(tensor)
        if func.namespace not in ("aten", "prims"):
            self._declared(func, args, kwargs)
            return
        if func.is_view or name in costs.FREE:
            return
        if name in ("_to_copy", "copy_") and "cpu" in kinds:
            source = given[-1] if name == "copy_" else given[0]
            number = source.dim() == 0 and name == "copy_" and source.device.type == "cpu"
            if not number:  # which is an argument of a kernel
                waits = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
                device.copied(source, made[0], bool(waits))
                return
        if "attention" in name:
            raise Unaccounted(f"{func} at {place()}: say in costs what it reads")
        if name in costs.INDEXED:
            for index in costs.tensors(args[1]):
                if index.device.type == "cpu":
                    device.copied(index, made[0], False)
        mixed = any(tensor.device.type == "cpu" and tensor.dim() for tensor in given)
        if mixed and name not in costs.INDEXED:
            raise Unaccounted(f"{func} at {place()} mixes host and device")
        device.launch(name, costs.cost(func, args, kwargs, out))

    def _declared(self, func: Any, args: Any, kwargs: Any) -> None:
        name = f"{func.namespace}::{func.overloadpacket.__name__}"
        if name not in self._device.declared:
            known = ", ".join(sorted(self._device.declared)) or "none"
            raise Unaccounted(f"{name} at {place()} has not declared its cost; known: {known}")
        cost = self._device.declared[name](self._device.lengths, *args, **kwargs)
        self._device.launch(name, cost)


def place() -> str:
    """The innermost line of descant or transformers on the stack."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(OURS):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _nested(number: Any, shape: list[int]) -> Any:
    return [_nested(number, shape[1:]) for _ in range(shape[0])] if shape else number


def _variable_length(
    lengths: list[int], query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Any,
    max_q: int, max_k: int, *settings: Any,
) -> Cost:  # fmt: skip
    """``torch.nn.attention.varlen`` over pages: every text reads what the longest has."""
    each = [math.prod(pool.shape[2:]) * pool.itemsize for pool in (key, value)]  # of a key
    keys = (len(cu_seq_q) - 1) * max_k
    read = [(key, keys * each[0]), (value, keys * each[1]), (query, costs.extent(query))]
    flops = 2 * query.numel() * max_k * (1 + value.shape[3] // key.shape[3])
    return Cost(read, costs.extent(query), flops, kind=ATTENTION)


VARIABLE_LENGTH: dict[str, Declared] = {"torch_attn::_varlen_attn": _variable_length}
