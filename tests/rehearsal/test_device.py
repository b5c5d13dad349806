"""The harness itself: what it writes down of an operation, and that nothing escapes it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from rehearsal import Rehearsal
from rehearsal.account import EAGER, IN_A_GRAPH, Step
from rehearsal.costs import Cost
from rehearsal.device import Device, Unaccounted
from rehearsal.graphs import Forbidden, PlayedGraph
from rehearsal.memory import CACHES, WEIGHTS


@pytest.fixture
def device() -> Iterator[Device]:
    with Device() as fake:
        yield fake


def on_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="cuda:0")


def test_bytes_are_of_what_an_operation_touches(device) -> None:
    table, rows = on_gpu(1000, 16), on_gpu(4, dtype=torch.long)
    device.memory.label([table], WEIGHTS)
    read = table[rows]
    table[rows] = read
    (read + read[:, :1].expand(4, 16)).to(torch.bfloat16)
    taken, put, add, cast = device.step.launches
    assert (taken.weights, taken.other, taken.written) == (4 * 64, 32, 4 * 64)
    assert (put.weights, put.other, put.written) == (0, 32 + 4 * 64, 4 * 64)
    assert (add.other, add.written) == (4 * 64 + 16, 4 * 64)  # what is expanded counts once
    assert (cast.other, cast.written, cast.kind) == (4 * 64, 4 * 32, "copy")


def test_views_and_new_memory_launch_nothing(device) -> None:
    a = on_gpu(4, 6)
    a.view(2, 12).t().unsqueeze(0).expand(3, 12, 2)[0, 1:, None].detach()
    torch.empty_like(a)
    assert device.step == Step()


def test_arithmetic_is_that_of_products(device) -> None:
    a, b = on_gpu(8, 16), on_gpu(32, 16)
    torch.nn.functional.linear(a, b)
    on_gpu(8, 32).addmm_(a, b.T)
    a.sigmoid()
    assert [each.flops for each in device.step.launches] == [2 * 8 * 16 * 32] * 2 + [0]


def test_a_launch_is_no_faster_than_its_bytes_or_its_arithmetic() -> None:
    with Device() as device:
        small, large = on_gpu(16), on_gpu(3_000_000_000 // 4)
        small.neg(), large.neg(), on_gpu(65_000, 1000) @ on_gpu(1000, 5000)
    times = [each.seconds(IN_A_GRAPH) for each in device.step.launches]
    assert times == pytest.approx([2e-6, 2e-3, 1e-3], rel=1e-6)
    assert device.step.seconds(EAGER) == pytest.approx(8e-6 + 3e-3)


@pytest.mark.parametrize("ask", [
    lambda a: a.sum().item(), lambda a: bool((a > 0).any()), lambda a: int(a[0]),
    lambda a: a.tolist(), lambda a: a.cpu(), lambda a: torch.equal(a, a),
    lambda a: torch.allclose(a, a), lambda a: torch.empty(4).copy_(a),
    lambda a: torch.empty(4).copy_(a, non_blocking=True),
])  # fmt: skip
def test_the_host_waits(device, ask) -> None:
    ask(on_gpu(4))
    assert len(device.step.waits) == 1


def test_a_copy_to_pinned_memory_is_no_wait(device) -> None:
    torch.empty(4, pin_memory=True).copy_(on_gpu(4), non_blocking=True)
    assert (len(device.step.d2h), device.step.waits, device.step.h2d) == (1, [], [])


@pytest.mark.parametrize("send", [
    lambda: torch.tensor([1.0, 2.0], device="cuda"), lambda: torch.tensor([1, 2]).to("cuda"),
    lambda: on_gpu(4)[[1, 2]], lambda: on_gpu(4)[torch.tensor([1, 2])],
    lambda: on_gpu(4).copy_(torch.tensor([1.0] * 4)), lambda: on_gpu(4).new_tensor([1, 2]),
    lambda: on_gpu(4).__setitem__([0, 1], 3.0),
])  # fmt: skip
def test_a_copy_to_the_device_is_seen(device, send) -> None:
    send()
    assert device.step.h2d and len(device.step.waits) == len(device.step.h2d)


def test_a_number_is_an_argument_and_no_copy(device) -> None:
    a = on_gpu(4)
    a[1:] = 2.0
    a * 3 + torch.tensor(2.0)
    assert (device.step.h2d, len(device.step.launches)) == ([], 3)


@pytest.mark.parametrize("meet", [
    lambda a: a.nonzero(), lambda a: a.masked_select(a > 0),
    lambda a: torch.ops.aten._scaled_dot_product_flash_attention(*[on_gpu(1, 2, 4, 8)] * 3),
    lambda a: torch.ops.rehearsed.unknown(a),
])  # fmt: skip
def test_what_cannot_be_accounted_for_is_an_error(device, meet) -> None:
    with pytest.raises(Unaccounted):
        meet(on_gpu(4))


def test_attention_is_a_launch_and_a_mask_of_bools_three_more(device) -> None:
    query, keys = (on_gpu(2, 4, n, 8, dtype=torch.bfloat16) for n in (1, 100))
    device.memory.label([keys], CACHES)
    scaled_dot_product_attention(query, keys, keys)
    scaled_dot_product_attention(query, keys, keys, on_gpu(2, 1, 1, 100, dtype=torch.bool))
    plain, *mask, masked = device.step.launches
    assert [each.kind for each in device.step.launches] == [
        "attention",
        *["other"] * 3,
        "attention",
    ]
    assert plain.caches == masked.caches == 2 * keys.nbytes
    assert masked.bytes == plain.bytes + 2 * 100 * 2 and len(mask) == 3
    assert plain.flops == 4 * query.numel() * 100


def test_an_operation_on_host_and_device_is_an_error(device) -> None:
    with pytest.raises(Exception, match=r"two devices|host and device"):
        on_gpu(4) + torch.ones(4)


def test_memory_is_counted_until_it_is_let_go() -> None:
    with Device() as device:
        first = torch.device("cuda", 0)
        a = on_gpu(1000)
        b = a[:10]
        del a
        assert device.memory.held(first) == 4000  # the view holds it
        del b
        c = torch.empty(2000, device="cuda:1") + 1
        assert c.device.index == 1
        assert [device.memory.held(each) for each in device.memory.devices()] == [0, 8000]
        assert [device.memory.peak(each) for each in device.memory.devices()] == [4000, 16000]
        assert device.memory.peak() == 16000


def test_a_played_graph_repeats_its_account(device) -> None:
    a, graph = on_gpu(1000), PlayedGraph(device)
    device.step = first = Step()
    out = graph.record(lambda: a + 1)
    assert (first.mode, first.launches) == ("recorded", [])
    graph.replay()
    assert (first.mode, len(first.launches), out.shape) == ("recorded", 1, a.shape)
    device.step = second = Step()
    graph.replay()
    assert (second.mode, second.launches) == ("replayed", first.launches)
    del out
    assert device.memory.held(a.device) == 2 * a.nbytes  # the graph's memory stays its own


@pytest.mark.parametrize("do", [
    lambda a: a.sum().item(), lambda a: torch.tensor([1.0], device="cuda"), lambda a: a.cpu(),
])  # fmt: skip
def test_what_no_recording_may_do_is_an_error(device, do) -> None:
    a = on_gpu(4)
    with pytest.raises(Forbidden, match="not permitted when stream is capturing"):
        PlayedGraph(device).record(lambda: do(a))
    assert device.step == Step()
    assert not device.memory.recording


def test_what_happens_apart_is_in_no_step() -> None:
    """As when what was recorded is compared with what an eager step gives."""
    with Rehearsal() as gpu:
        a = on_gpu(4)
        with gpu.apart() as account:
            assert torch.equal(a + 1, a)
        assert (len(account.launches), len(account.waits)) == (1, 1)
        assert gpu.device.step == Step()


def test_recordings_do_not_nest(device) -> None:
    graph = PlayedGraph(device)
    with pytest.raises(Forbidden, match="another is replayed"):
        PlayedGraph(device).record(graph.replay)
    with pytest.raises(Forbidden, match="here begins another"):
        PlayedGraph(device).record(lambda: graph.record(lambda: None))


def test_tensors_of_the_host_cost_nothing(device) -> None:
    """One number keeps its value; more are zeros, like all that nobody knows."""
    a = torch.tensor([3, 1, 2])
    assert int(torch.tensor(3)) == 3 and a.tolist() == [0, 0, 0] and a[[0, 2]].shape == (2,)
    assert device.step == Step()


scaled = torch.library.custom_op("rehearsed::scaled", lambda x, y: x * y, mutates_args=(),
                                 schema="(Tensor x, float y) -> Tensor")  # fmt: skip
scaled.register_fake(lambda x, y: torch.empty_like(x))
unknown = torch.library.custom_op("rehearsed::unknown", lambda x: x + 1, mutates_args=(),
                                  schema="(Tensor x) -> Tensor")  # fmt: skip
unknown.register_fake(lambda x: torch.empty_like(x))


def test_an_operation_of_our_own_costs_what_it_declares() -> None:
    def declared(lengths: list[int], x: torch.Tensor, y: float) -> Cost:
        return Cost([(x, 40 * sum(lengths))], 100, flops=7, launches=2, blocks=10)

    with Device({"rehearsed::scaled": declared}) as device:
        x = on_gpu(64)
        device.memory.label([x], CACHES)
        device.lengths = [1, 2]
        torch.ops.rehearsed.scaled(x, 2.0)
    first, second = device.step.launches
    assert (first.caches + second.caches, first.written + second.written) == (120, 100)
    assert (first.flops + second.flops, first.blocks, second.blocks) == (7, 5, 5)
