"""Faults that are planted in descant: each must be seen by the rules of ``test_steps``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from descant.models.lanes.transformers_lane import TransformersLane
from rehearsal import Rehearsal, Step
from rehearsal.patches import why_eager


def planted(monkeypatch: Any, fault: Callable[[Any, Any], Any], **options: Any) -> Any:
    """Steps with a fault after every forward; and without, and why steps are eager."""

    def steps() -> tuple[list[Step], str | None]:
        with Rehearsal() as gpu:
            decoder = gpu.compile("m", {"m": gpu.language_model("tiny")}, **options)
            done = gpu.steps(decoder, [40], 3, room=128)
            return done, why_eager(decoder)

    (clean, _), logits = steps(), TransformersLane.logits

    def faulty(self: Any) -> Any:
        out = logits(self)
        fault(self, out)
        return out

    monkeypatch.setattr(TransformersLane, "logits", faulty)
    broken, why = steps()
    return clean[-1], broken[-1], why


def test_a_wait(monkeypatch) -> None:
    clean, broken, _ = planted(monkeypatch, lambda lane, out: out.max().item(), capture=False)
    assert not clean.waits and len(broken.waits) == 1


def test_a_copy_to_the_device(monkeypatch) -> None:
    fault = lambda lane, out: torch.tensor([1.0], device=out.device)  # noqa: E731
    clean, broken, _ = planted(monkeypatch, fault, capture=False)
    assert not clean.h2d and len(broken.h2d) == 1


def test_a_second_copy_to_the_host(monkeypatch) -> None:
    clean, broken, _ = planted(monkeypatch, lambda lane, out: out[0].cpu(), capture=False)
    assert (len(clean.d2h), len(broken.d2h)) == (1, 2)


@pytest.mark.parametrize("fault", [
    lambda lane, out: out.max().item(), lambda lane, out: torch.tensor([1], device=out.device),
])  # fmt: skip
def test_what_cannot_be_recorded(monkeypatch, fault) -> None:
    """It is in what follows the forward, which is replayed."""
    clean, broken, why = planted(monkeypatch, fault)
    assert (clean.replayed, broken.replayed) == (2, 1)
    assert "not permitted when stream is capturing" in why


def test_a_read_of_the_cache(monkeypatch) -> None:
    def fault(lane: Any, out: Any) -> None:
        lane.blocks.cache.layers[0].keys.sum()

    clean, broken, _ = planted(monkeypatch, fault, capture=False)
    more = sum(launch.caches for launch in broken.launches)
    more -= sum(launch.caches for launch in clean.launches)
    assert more == 2 * 16 * 2 * 2 * 256  # one layer's keys: heads, size, bytes, and two pages


def test_a_launch(monkeypatch) -> None:
    clean, broken, _ = planted(monkeypatch, lambda lane, out: out + 1, capture=False)
    assert len(broken.launches) == len(clean.launches) + 1
