"""What operations of our own declare that they cost, beside torch doing the same row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from descant.models.kernels.draw import draw
from descant.models.kernels.drawing.draw_sum import draw_sum
from descant.models.kernels.live_attention import live_attention
from rehearsal.account import Step
from rehearsal.device import Device
from rehearsal.memory import CACHES
from rehearsal.patches import declared_costs

LENGTHS = (1900, 256, 256, 17)
GROUPS, EACH, SIZE, CAPACITY, PAGE = 8, 4, 128, 2048, 256


def on_gpu(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="cuda:0")


@pytest.mark.parametrize("q", [1, 11])
def test_live_attention_reads_what_torch_would_row_by_row(q) -> None:
    declared = declared_costs()
    with Device(declared) as device:
        query, at = on_gpu(len(LENGTHS), GROUPS * EACH, q, SIZE), on_gpu(len(LENGTHS), q)
        tables = on_gpu(len(LENGTHS), CAPACITY // PAGE, dtype=torch.int32)
        pools = [on_gpu(tables.numel(), PAGE, GROUPS, SIZE) for _ in "kv"]
        keys, values = (pool.view(-1, CAPACITY, GROUPS, SIZE).transpose(1, 2) for pool in pools)
        device.memory.label(pools, CACHES)
        with device.into(Step()) as torchs:
            folded = query.reshape(len(LENGTHS), GROUPS, EACH * q, SIZE)
            for row, length in enumerate(LENGTHS):
                live = slice(row, row + 1), slice(None), slice(length)
                scaled_dot_product_attention(folded[live[:1]], keys[live], values[live])
        device.lengths = [*LENGTHS]
        positions = at.long()
        with device.into(Step()) as own:
            paged = (pool.transpose(1, 2) for pool in pools)
            live_attention(query, *paged, tables, positions, positions)
    [read, least] = (sum(launch.caches for launch in step.launches) for step in (own, torchs))
    assert least <= read <= 1.1 * least
    [done, needed] = (sum(launch.flops for launch in step.launches) for step in (own, torchs))
    assert needed <= done <= 1.1 * needed
    assert all(launch.blocks for launch in own.launches)


def test_attention_of_variable_lengths_is_one_launch() -> None:
    """It reads what two texts have, and not the pool."""
    with Device() as device:
        query, ends = on_gpu(100, 16, 64), on_gpu(3, dtype=torch.int32)
        keys, values = (on_gpu(20, PAGE, 8, 64) for _ in "kv")
        device.memory.label([keys, values], CACHES)
        varlen_attn(
            query, keys, values, ends, ends, 50, 200, enable_gqa=True,
            seqused_k=on_gpu(2, dtype=torch.int32), block_table=on_gpu(2, 4, dtype=torch.int32),
        )  # fmt: skip
    [launch] = device.step.launches
    of_a_key = 8 * 64 * 2
    assert (launch.kind, launch.caches) == ("attention", 2 * 200 * 2 * of_a_key)
    assert launch.flops == 4 * query.numel() * 200


@pytest.mark.parametrize("rows", [1, 64])
def test_a_draw_reads_its_scores_once(rows) -> None:
    with Device(declared_costs()) as device:
        scores, warm = (on_gpu(*shape, dtype=torch.float32) for shape in ((rows, 128256), (rows,)))
        keys, steps = on_gpu(rows, 2, dtype=torch.int32), on_gpu(rows, dtype=torch.long)
        with device.into(Step()) as torchs:
            scores.argmax(dim=-1)
        with device.into(Step()) as own:
            draw(scores, warm, keys, steps)
    [least] = torchs.launches
    assert least.bytes <= sum(launch.bytes for launch in own.launches) <= 1.02 * least.bytes
    assert len(own.launches) == 2 and all(launch.blocks for launch in own.launches)


@pytest.mark.parametrize("rows", [1, 64])
def test_a_draw_from_a_sum_reads_each_term_once(rows) -> None:
    """In its own type, and writes next to nothing."""
    with Device(declared_costs()) as device:
        logits = [on_gpu(rows, 128256) for _ in range(3)]
        of = [on_gpu(rows, dtype=torch.long) for _ in logits]
        weights = [on_gpu(rows, 1, dtype=torch.float32) for _ in logits]
        present = [on_gpu(rows, dtype=torch.bool) for _ in logits]
        warm, steps = on_gpu(rows, dtype=torch.float32), on_gpu(rows, dtype=torch.long)
        keys = on_gpu(rows, 2, dtype=torch.int32)
        with device.into(Step()) as own:
            draw_sum(logits, of, weights, present, [], [], [], [], [], warm, keys, steps)
    least = 3 * rows * 128256 * 2
    assert least <= sum(launch.bytes for launch in own.launches) <= 1.02 * least
    assert len(own.launches) == 2 and all(launch.blocks for launch in own.launches)
