"""Chunks of prompts by torch's attention of packed texts: what it is called with.

That function runs on CUDA alone. A plain one stands for it here, which does what its documentation
says, and no more.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pytest
import torch
from plain_varlen import documented
from pools import pool_of, shuffled
from torch import Tensor
from torch.nn.attention import varlen

from descant.models.kernels.chunk_varlen import MODULE, varlen_chunk, why_not_varlen
from descant.models.kernels.live_attention import masked_attention


@pytest.fixture
def calls(monkeypatch) -> list[inspect.BoundArguments]:
    """What the function was called with; its arguments are those of this torch's own."""
    signature = inspect.signature(varlen.varlen_attn)
    assert list(inspect.signature(documented).parameters) == list(signature.parameters)
    made: list[inspect.BoundArguments] = []

    def call(*arguments: Any, **settings: Any) -> Tensor:
        made.append(signature.bind(*arguments, **settings))
        return documented(*arguments, **settings)

    monkeypatch.setattr(varlen, "varlen_attn", call)
    return made


def pools(
    n: int, groups: int, size: int, used: int, page: int, most: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Pools of keys and values, and the tables of rows; what is not used is no number."""
    tables = shuffled([used] * n, page, most)
    key, value = (
        pool_of(torch.randn(n, used, groups, size), tables, [used] * n, page) for _ in "kv"
    )
    return key, value, tables


@pytest.mark.parametrize("page", [4, 256])
@pytest.mark.parametrize("window", [0, 1, 7])
@pytest.mark.parametrize(("start", "q"), [(0, 1), (0, 13), (5, 1), (20, 9)])
@pytest.mark.parametrize(("n", "heads", "groups"), [(1, 4, 2), (3, 4, 4), (2, 6, 1)])
def test_a_chunk_is_attention_under_a_mask(n, heads, groups, start, q, window, page, calls) -> None:
    """A table may have room for more."""
    torch.manual_seed(start + q)
    cached = pools(n, groups, 8, start + q, page, 9)
    query = torch.randn(n, q, heads, 8).transpose(1, 2)
    found = varlen_chunk(query, *cached, start, window, 0.3)
    positions = torch.arange(start, start + q).expand(n, q)
    expected = masked_attention(query, *cached, positions, positions, None, window, 0.3)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_the_scale_is_that_of_the_head(calls) -> None:
    cached = pools(2, 2, 16, 12, 256)
    query = torch.randn(2, 4, 8, 16)
    positions = torch.arange(4, 12).expand(2, 8)
    found = varlen_chunk(query, *cached, 4)
    torch.testing.assert_close(found, masked_attention(query, *cached, positions, positions))


@pytest.mark.parametrize("heads_first", [False, True])
def test_nothing_is_copied(heads_first, calls) -> None:
    """Of a part of a larger pool, however it lies."""
    key, value, tables = pools(3, 2, 8, 25, 16)
    if heads_first:
        key, value = key.contiguous(), value.contiguous()
    query = torch.randn(3, 5, 4, 8).transpose(1, 2)
    found = varlen_chunk(query, key, value, tables, 20)
    passed = calls[0].arguments
    for name, tensor in (("query", query), ("key", key), ("value", value), ("block_table", tables)):
        assert passed[name].data_ptr() == tensor.data_ptr()
    assert passed["key"].stride() == key.transpose(1, 2).stride()
    positions = torch.arange(20, 25).expand(3, 5)
    torch.testing.assert_close(found, masked_attention(query, key, value, tables, *[positions] * 2))


def test_the_third_flash_attention_is_told_no_bounds_of_keys(calls, monkeypatch) -> None:
    cached = pools(2, 2, 8, 12, 256)
    query = torch.randn(2, 4, 8, 8)
    expected = varlen_chunk(query, *cached, 4)
    monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: "FA3")
    assert torch.equal(varlen_chunk(query, *cached, 4), expected)
    second, third = (call.arguments["cu_seq_k"] for call in calls)
    assert (second.tolist(), third) == ([0, 12, 24], None)


@pytest.mark.parametrize(
    ("sizes", "dtype", "capability", "expected"),
    [
        ((128, 128), torch.bfloat16, (9, 0), None),
        ((256, 256), torch.float16, None, None),
        ((192, 128), torch.bfloat16, None,
         "keys of size 192 and values of 128: flash attention takes one"),
        ((264, 264), torch.bfloat16, None,
         "heads of size 264: flash attention takes multiples of 8 up to 256"),
        ((60, 60), torch.bfloat16, None,
         "heads of size 60: flash attention takes multiples of 8 up to 256"),
        ((64, 64), torch.float32, (9, 0),
         "keys in float32: flash attention takes bfloat16 and float16"),
        ((64, 64), torch.float16, (7, 5),
         "a GPU of compute capability 7.5: flash attention takes 8.0 and later"),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_said(sizes, dtype, capability, expected) -> None:
    assert why_not_varlen(*sizes, dtype, capability) == expected


def test_pages_that_are_not_taken_are_said() -> None:
    takes = [why_not_varlen(64, 64, torch.bfloat16, None, page) for page in (256, 512, 64)]
    assert takes == [None, None, "pages of 64 keys: flash attention takes multiples of 256"]


def test_another_torch_is_said(monkeypatch) -> None:
    """Its first version had less, and before that it had none."""
    version = f"torch {torch.__version__}"

    def first(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False) -> None: ...

    with monkeypatch.context() as patched:
        patched.setattr(varlen, "varlen_attn", first)
        assert why_not_varlen(64, 64, torch.bfloat16) == (
            f"{version} has varlen_attn without scale, window_size, enable_gqa, seqused_k, "
            "block_table, num_splits"
        )
        patched.setitem(sys.modules, MODULE, None)
        assert why_not_varlen(64, 64, torch.bfloat16) == f"{version} has no {MODULE}"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    assert why_not_varlen(64, 64, torch.bfloat16) == f"{version} was built without flash attention"
