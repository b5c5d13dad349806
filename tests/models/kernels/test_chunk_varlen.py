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
from torch import Tensor
from torch.nn.attention import varlen

from descant.models.errors import ModelError
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


def cache(n: int, groups: int, capacity: int, size: int, used: int, heads_first: bool) -> Tensor:
    """A view of rows 1 to ``n + 1`` of a cache; what is not used is no number."""
    shape = (n + 2, groups, capacity, size) if heads_first else (n + 2, capacity, groups, size)
    memory = torch.randn(shape)
    seen = memory if heads_first else memory.transpose(1, 2)
    seen[:, :, used:] = torch.nan
    return seen[1 : n + 1, :, :used]


@pytest.mark.parametrize("window", [0, 1, 7])
@pytest.mark.parametrize(("start", "q"), [(0, 1), (0, 13), (5, 1), (20, 9)])
@pytest.mark.parametrize(("n", "heads", "groups"), [(1, 4, 2), (3, 4, 4), (2, 6, 1)])
def test_a_chunk_is_attention_under_a_mask(n, heads, groups, start, q, window, calls) -> None:
    torch.manual_seed(start + q)
    key, value = (cache(n, groups, 40, 8, start + q, False) for _ in range(2))
    query = torch.randn(n, q, heads, 8).transpose(1, 2)
    found = varlen_chunk(query, key, value, start, window, 0.3)
    positions = torch.arange(start, start + q).expand(n, q)
    expected = masked_attention(query, key, value, positions, positions, None, window, 0.3)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_the_scale_is_that_of_the_head(calls) -> None:
    key, value = (cache(2, 2, 40, 16, 12, False) for _ in range(2))
    query = torch.randn(2, 4, 8, 16)
    positions = torch.arange(4, 12).expand(2, 8)
    found = varlen_chunk(query, key, value, 4)
    torch.testing.assert_close(found, masked_attention(query, key, value, positions, positions))


@pytest.mark.parametrize("heads_first", [False, True])
def test_nothing_is_copied(heads_first, calls) -> None:
    key, value = (cache(3, 2, 40, 8, 25, heads_first) for _ in range(2))
    query = torch.randn(3, 5, 4, 8).transpose(1, 2)
    found = varlen_chunk(query, key, value, 20)
    passed = calls[0].arguments
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        assert passed[name].data_ptr() == tensor.data_ptr()
    positions = torch.arange(20, 25).expand(3, 5)
    torch.testing.assert_close(found, masked_attention(query, key, value, positions, positions))


def test_a_cache_that_is_not_packed_is_an_error(calls) -> None:
    key = torch.randn(2, 11, 25)[..., :24].unflatten(2, (3, 8)).transpose(1, 2)
    row = torch.randn(2, 280)[:, :264].unflatten(1, (11, 3, 8)).transpose(1, 2)
    query = torch.randn(2, 3, 4, 8)
    varlen_chunk(query, key, key, 7)
    with pytest.raises(ModelError) as caught:
        varlen_chunk(query, row, row, 7)
    assert str(caught.value) == (
        "a cache with strides (280, 8, 24, 1) is not packed\n"
        "its heads lie in one piece, and its rows a multiple of its positions apart"
    )


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


def test_another_torch_is_said(monkeypatch) -> None:
    """Its first version had less, and before that it had none."""
    version = f"torch {torch.__version__}"

    def first(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False) -> None: ...

    with monkeypatch.context() as patched:
        patched.setattr(varlen, "varlen_attn", first)
        assert why_not_varlen(64, 64, torch.bfloat16) == (
            f"{version} has varlen_attn without scale, window_size, enable_gqa, seqused_k, "
            "num_splits"
        )
        patched.setitem(sys.modules, MODULE, None)
        assert why_not_varlen(64, 64, torch.bfloat16) == f"{version} has no {MODULE}"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    assert why_not_varlen(64, 64, torch.bfloat16) == f"{version} was built without flash attention"
