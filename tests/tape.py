"""CUDA graphs played on a CPU: the operations of a recording, done again over the same memory.

Nothing but the operations comes again: no line of Python that chose them, and no number of the
host. What a step does that a graph would not hold (asking the device, a new size, another address)
therefore shows as wrong tokens, or as an error while it is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from plain_varlen import documented
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from descant.models import cuda_graph
from descant.models.cache.kv_cache import RowCache
from descant.models.kernels import noise
from descant.models.lanes.transformers_lane import TransformersLane
from descant.models.layers.fused_layers import FusedLayers
from descant.models.upload import Mirror
from descant.runtime.engine import engine as engines
from descant.runtime.engine import launch, sampler
from descant.runtime.scores import logprobs, stages

ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")


class Recorder(TorchDispatchMode):
    """Notes operations, and keeps what was in the memory that they write to."""

    def __init__(self) -> None:
        super().__init__()
        self.tape: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._made: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in ASKING:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        for value, argument in zip(args, func._schema.arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._keep(value)
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._keep(kwargs.get(argument.name))
        out = func(*args, **kwargs)
        storages = {one.untyped_storage()._cdata for one in tensors((args, kwargs))}
        fresh = [one for one in tensors(out) if one.untyped_storage()._cdata not in storages]
        for one in fresh:
            self._made[one.untyped_storage()._cdata] = one.untyped_storage()
        self.tape.append((func, args, kwargs, fresh))
        return out

    def _keep(self, value: Any) -> None:
        for one in tensors(value):
            storage = one.untyped_storage()
            if storage._cdata not in self._made and storage._cdata not in self.before:
                self.before[storage._cdata] = storage, storage.clone()


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Tape:
    """Stands for ``cuda_graph.CudaGraph``."""

    made: ClassVar[list[Tape]] = []

    def __init__(self, device: torch.device, pool: Any) -> None:
        self.replays = 0
        Tape.made.append(self)

    @staticmethod
    def new_pool() -> None:
        return None

    def record(self, work: Callable[[], Any]) -> Any:
        with Recorder() as recorder:
            result = work()
        self._tape = recorder.tape
        for storage, kept in recorder.before.values():
            storage.copy_(kept)
        return result

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, fresh in self._tape:
            made = [
                one
                for one in tensors(func(*args, **kwargs))
                if all(
                    one.untyped_storage()._cdata != a.untyped_storage()._cdata
                    for a in tensors((args, kwargs))
                )
            ]
            for one, other in zip(fresh, made, strict=True):
                one.copy_(other)


def on_tape(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """As on a GPU: what is called in this test records its steps, and attends by live lengths.

    What the host writes is in other memory than what steps read.

    Returns:
        What makes the lanes of a decoder go without masks.
    """
    Tape.made = []
    monkeypatch.setattr(cuda_graph, "CudaGraph", Tape)
    monkeypatch.setattr(Mirror, "on_host", lambda device: False)
    monkeypatch.setattr(engines, "on_gpu", lambda bound: True)
    copied = lambda drawn: [(each.results.clone(), None) for each in drawn]  # noqa: E731
    monkeypatch.setattr(launch, "to_host", copied)
    monkeypatch.setattr(RowCache, "clear", lambda self: None)
    monkeypatch.setattr(TransformersLane, "page_size", 16)  # so that texts have several
    for module in (logprobs, sampler):
        monkeypatch.setattr(module, "best", lambda scores: scores.argmax(dim=-1))
    for module in (logprobs, stages):
        monkeypatch.setattr(module, "ascending", lambda scores: scores.sort(dim=-1).values)
    monkeypatch.setattr(noise, "_uniform", _uniform)
    monkeypatch.setattr(varlen, "varlen_attn", documented)

    def live(decoder: Any, on: bool = True) -> Any:
        for lane in decoder.session.bound.lanes:
            lane = getattr(lane, "lane", lane)
            lane.exact_length = False
            if hasattr(lane, "live"):
                if on:
                    lane.live.why_masked = lane.live.why_chunks_masked = None
                    lane.fused = FusedLayers(lane.model, torch.device("cuda"), lane.adapters)
                else:
                    lane.page_size = 0
        return decoder

    return live


def _uniform(keys: torch.Tensor, steps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """``noise._uniform`` as it is on a GPU: by torch's operations."""
    bits = torch.empty(len(keys), len(tokens), dtype=torch.int32)
    noise._write(bits, keys.clone(), steps.to(torch.int32), tokens)
    return bits.float().add_(0.5).mul_(2.0**-23)
