"""One copy brings what the host wrote: here to other memory of a CPU, in the same steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from descant.models import upload as uploads
from descant.models.upload import ALIGNED, Mirror, fill, staged, upload

CPU = torch.device("cpu")
FIELDS: dict[str, Any] = {
    "numbers": ((2, 3), torch.long), "none": ((0, 4), torch.int32), "flag": ((1,), torch.bool),
    "weights": ((5,), torch.float32),
}  # fmt: skip


@pytest.fixture
def unpinned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Pinned memory needs CUDA: what asks for it, and gets memory that is not."""
    asked, empty = list[dict[str, Any]](), torch.empty

    def plain(*shape: Any, pin_memory: bool = False, **more: Any) -> torch.Tensor:
        if pin_memory:
            asked.append({"shape": shape, **more})
        return empty(*shape, **more)

    monkeypatch.setattr(torch, "empty", plain)
    return asked


def test_a_cpu_reads_what_the_host_writes() -> None:
    mirror = Mirror(CPU, **FIELDS)
    mirror.host.numbers[1, 2] = 7
    mirror.stale = True
    assert mirror.device.numbers[1, 2] == 7 and mirror.changes() == [] and not mirror.stale


def test_another_memory_gets_everything_in_one_piece(monkeypatch) -> None:
    monkeypatch.setattr(Mirror, "on_host", lambda device: False)
    mirror = Mirror(CPU, **FIELDS)
    for name, (shape, dtype) in FIELDS.items():
        for side in (mirror.host, mirror.device):
            tensor = getattr(side, name)
            assert tensor.shape == shape and tensor.dtype == dtype and not tensor.any()
            assert tensor.storage_offset() * tensor.itemsize % ALIGNED == 0
    mirror.host.numbers[:] = torch.arange(6).view(2, 3)
    mirror.host.flag[0], mirror.host.weights[:] = True, 0.5
    assert not mirror.device.numbers.any() and mirror.changes() == []
    mirror.stale = True
    changes = mirror.changes()
    assert len(changes) == 1 and mirror.changes() == []
    upload(changes)
    for name in FIELDS:
        assert torch.equal(getattr(mirror.device, name), getattr(mirror.host, name))


def test_what_is_packed_is_aligned_and_handed_out_as_it_was(unpinned) -> None:
    tensors = [
        torch.arange(5, dtype=torch.int32), torch.tensor([True]), torch.empty(0, 3),
        torch.arange(12).view(3, 4).T, torch.tensor([[1.5]], dtype=torch.float64),
    ]  # fmt: skip
    parts = uploads._sent(CPU, tensors)
    assert len(unpinned) == 1 and unpinned[0] == {"shape": (160,), "dtype": torch.uint8}
    for part, tensor in zip(parts, tensors, strict=True):
        assert part.storage_offset() % ALIGNED == 0
        assert torch.equal(part.view(tensor.dtype).view(tensor.shape), tensor)


def test_the_host_may_write_again_at_once() -> None:
    source, target = torch.arange(4), torch.zeros(4, dtype=torch.long)
    upload([(target, source)])
    source.zero_()
    assert target.tolist() == [0, 1, 2, 3]


def test_a_cpu_is_sent_nothing() -> None:
    one, other = torch.arange(3), torch.zeros(0)
    room, changes = staged(CPU, one, other)
    assert room[0] is one and room[1] is other and changes == []


def test_a_buffer_is_filled_from_its_beginning() -> None:
    buffer = torch.full((4,), 9, dtype=torch.int32)
    fill(buffer, [])
    assert buffer.tolist() == [9] * 4
    fill(buffer, [1, 2])
    assert buffer.tolist() == [1, 2, 9, 9]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    device = torch.device("cuda")
    mirror = Mirror(device, **FIELDS)
    mirror.host.numbers[:] = torch.arange(6).view(2, 3)
    mirror.host.weights[:], mirror.stale = 0.5, True
    text = torch.zeros(9, dtype=torch.long, device=device)
    upload([*mirror.changes(), (text[2:5], torch.tensor([4, 5, 6]))])
    mirror.host.weights.zero_()
    assert mirror.device.numbers.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert mirror.device.weights.tolist() == [0.5] * 5
    assert text.tolist() == [0, 0, 4, 5, 6, 0, 0, 0, 0]
    sent = torch.arange(3), torch.eye(2)
    room, changes = staged(device, *sent)
    upload(changes)
    for got, expected in zip(room, sent, strict=True):
        assert got.device.type == "cuda" and torch.equal(got.cpu(), expected)
