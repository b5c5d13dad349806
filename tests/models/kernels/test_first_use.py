"""A kernel's first use: what it gives is held against another way, once on each device."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch

from descant.models.cache.live import LiveAttention
from descant.models.kernels import gpu
from descant.models.kernels.first_use import FirstUse
from descant.runtime.engine import sampler

CPU, META = torch.device("cpu"), torch.device("meta")


class Calls:
    """A kernel and the other way, which say who was called."""

    def __init__(self, error: Exception | None = None) -> None:
        self.made: list[str] = []
        self._error = error

    def kernel(self) -> str:
        self.made.append("kernel")
        if self._error is not None:
            raise self._error
        return "kernel"

    def plain(self) -> str:
        self.made.append("plain")
        return "plain"


def runner(first: FirstUse[str], calls: Calls, why: str | None = None) -> Callable[..., str]:
    return lambda device=CPU: first.run(device, calls.kernel, calls.plain, lambda *pair: why)


def test_what_agrees_is_used_from_then_on_there() -> None:
    calls = Calls()
    run = runner(FirstUse("a sum", lambda device: None), calls)
    assert [run() for _ in range(3)] == ["plain", "kernel", "kernel"]
    assert calls.made == ["plain", "kernel", "kernel", "kernel"]
    assert [run(META), run(META), run()] == ["plain", "kernel", "kernel"]


@pytest.mark.parametrize(("error", "why", "said"), [
    (None, "its kernel is off", "its kernel is off"),
    (RuntimeError("no such\nthing"), None, "its kernel fails: no such"),
    (OSError(), None, "its kernel fails: OSError"),
])  # fmt: skip
def test_what_disagrees_or_fails_is_not_used_and_said_once(error, why, said, caplog) -> None:
    calls = Calls(error)
    run = runner(FirstUse("a sum", lambda device: None), calls, why)
    with caplog.at_level(logging.WARNING, "descant"):
        assert [run() for _ in range(3)] == ["plain"] * 3
    assert calls.made == ["plain", "kernel", "plain", "plain"]
    assert caplog.messages == [
        f"a sum on cpu goes on with torch's operations, for {said}; "
        "please report this with the output of `descant doctor --gpu`"
    ]


def test_what_cannot_be_used_is_not_called(caplog) -> None:
    calls = Calls()
    run = runner(FirstUse("a sum", lambda device: "an old GPU"), calls)
    assert [run(), run()] == calls.made == ["plain", "plain"]
    assert not caplog.messages


def test_a_recording_leaves_it_for_later(monkeypatch) -> None:
    calls, gpu, recording = Calls(), torch.device("cuda", 0), [True]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recording[0])
    run = runner(FirstUse("a sum", lambda device: None), calls)
    assert [run(gpu), run(gpu)] == calls.made == ["plain", "plain"]
    recording[0] = False
    assert [run(gpu), run(gpu)] == ["plain", "kernel"]
    recording[0] = True
    assert run(gpu) == "kernel"


def test_kernels_are_switched_off_by_name(monkeypatch) -> None:
    monkeypatch.setenv("DESCANT_DISABLE_KERNELS", "draw, attention")
    monkeypatch.setattr(gpu, "_disabled", gpu._disabled.__wrapped__)
    assert [name for name in ("attention", "draw", "layers", "lora") if gpu.is_disabled(name)] == [
        "attention", "draw",
    ]  # fmt: skip
    live = LiveAttention(torch.device("cuda"), torch.bfloat16)
    assert live.why_masked == "DESCANT_DISABLE_KERNELS names attention"
    assert not live.takes(1) and not live.takes_chunks
    assert sampler._why_not(torch.device("cuda")) == "DESCANT_DISABLE_KERNELS names draw"
