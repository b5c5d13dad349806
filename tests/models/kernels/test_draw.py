"""The draw: the kernels beside torch's operations, bit for bit where there is no logarithm.

No GPU is needed: Triton's interpreter runs the kernels, and its compiler makes them for GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import interpreted
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from descant.models.kernels import noise
from descant.models.kernels.draw import PART, cost, draw

Drawn = tuple[Tensor, Tensor]
TRITON = "pip install triton: it has wheels for Linux"
EXTREMES = [-(2**31), 2**31 - 1, -1, 0, 1]


def settings(rows: int, *temperatures: float) -> tuple[Tensor, Tensor, Tensor]:
    """Temperatures, one after the other and again; keys, and steps beyond 32 bits."""
    generator = torch.Generator().manual_seed(rows)
    bounds = -(2**31), 2**31
    warm = torch.tensor(temperatures).repeat(rows)[:rows]
    keys = torch.randint(*bounds, (rows, 2), generator=generator).int()
    return warm, keys, torch.randint(2**40, (rows,), generator=generator)


def scores(rows: int, vocabulary: int, spread: float = 4.0) -> Tensor:
    generator = torch.Generator().manual_seed(vocabulary)
    return spread * torch.randn(rows, vocabulary, generator=generator)


def plain(given: Tensor, warm: Tensor, keys: Tensor, steps: Tensor) -> Drawn:
    """By torch's operations, a row at a time."""
    tokens = torch.zeros(len(given), dtype=torch.long)
    for row, score in enumerate(given):
        if warm[row] > 0:
            at = slice(row, row + 1)
            score = score / warm[row] + noise.gumbel(keys[at], steps[at], len(score))[0]
        tokens[row] = score.argmax()
    return tokens, given[range(len(given)), tokens]


def assert_same(found: Drawn, expected: Drawn) -> None:
    assert found[0].tolist() == expected[0].tolist() and found[0].dtype == torch.int64
    assert torch.allclose(found[1], expected[1], rtol=0, atol=0, equal_nan=True)
    assert found[1].dtype == torch.float32


@pytest.fixture(scope="module")
def kernels(process) -> Callable[..., Drawn]:
    return lambda *arguments: process.submit(interpreted.launch, "draw", *arguments).result()


@pytest.fixture(params=["torch", "kernels"])
def way(request) -> Callable[..., Drawn]:
    """The operation on a CPU, and what it is on CUDA."""
    return draw if request.param == "torch" else request.getfixturevalue("kernels")


# what is drawn


@pytest.mark.parametrize("vocabulary", [1, 7, 1000, PART, PART + 1, 32000, 128256])
def test_temperatures_of_each_row(vocabulary, way) -> None:
    given = scores(6, vocabulary)
    how = settings(6, 0.0, 0.3, 1.0, 2.5)
    assert_same(way(given, *how), plain(given, *how))


def test_many_draws_are_those_of_torch(kernels) -> None:
    """Scores that are alike, so that noise decides."""
    given, how = scores(400, 1500, spread=0.1), settings(400, 1.0, 0.7)
    found = kernels(given, *how)
    assert len(set(found[0].tolist())) > 300
    assert_same(found, plain(given, *how))


def test_ties_are_the_lowest_id(way) -> None:
    given = torch.full((4, 3000), -1.0)
    given[0, [1030, 2100, 2999]] = 5.0
    given[1, [0, 2999]] = math.inf
    given[2] = 0.0
    given[2, :2000] = -0.0
    tokens, drawn = way(given, *settings(4, 0.0))
    assert tokens.tolist() == [1030, 0, 0, 0]
    assert drawn.tolist() == [5.0, math.inf, 0.0, -1.0]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_nan_is_the_largest_and_minus_infinity_a_score(temperature, way) -> None:
    given = scores(5, 2500)
    given[0, [1100, 2400]] = math.nan
    given[0, 3] = math.inf
    given[1] = -math.inf
    given[2] = -math.inf
    given[2, 2222] = -7.0
    given[3, 17] = math.inf
    given[4, [1500, 2100]] = torch.tensor([-1, 0x7FC00000]).int().view(torch.float32)  # NaN, both
    tokens, drawn = way(given, *settings(5, temperature))
    assert tokens.tolist() == [1100, 0, 2222, 17, 1500]
    expected = torch.tensor([math.nan, -math.inf, -7.0, math.inf, math.nan])
    assert torch.equal(drawn.isnan(), expected.isnan())
    assert torch.equal(drawn.nan_to_num(), expected.nan_to_num())


def test_any_rows_of_larger_scores(way) -> None:
    given, how = scores(5, 2049), settings(5, 1.0)
    larger = torch.full((5, 2 * 2100), math.nan)
    larger[:, 3:2052] = given
    assert_same(way(larger[:, 3:2052], *how), plain(given, *how))
    turned = given.t().contiguous().t()
    assert turned.stride(1) != 1
    assert_same(way(turned, *how), plain(given, *how))
    spread = given[:1].expand(5, -1)
    assert_same(way(spread, *how), plain(spread, *how))


def test_neighbours_change_nothing(way) -> None:
    given, how = scores(5, 5000, spread=0.1), settings(5, 0.0, 1.0)
    together = way(given, *how)
    for row in range(5):
        at = slice(row, row + 1)
        alone = way(given[at], *(each[at] for each in how))
        assert_same(alone, tuple(each[at] for each in together))  # type: ignore[arg-type]


# the noise


@pytest.mark.parametrize("vocabulary", [7, 1000, 128256])
def test_the_bits_are_those_of_torch(vocabulary, process) -> None:
    pairs = [(one, other) for one in EXTREMES for other in EXTREMES]
    keys = torch.tensor(pairs if vocabulary < PART else pairs[1::6]).int()
    steps = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**40 + 5]).repeat(5)[: len(keys)]
    bits, made = process.submit(interpreted.noise, keys, steps, vocabulary).result()
    expected = torch.empty(len(keys), vocabulary, dtype=torch.int32)
    noise._write(expected, keys, steps.int(), torch.arange(vocabulary, dtype=torch.int32))
    assert torch.equal(bits, expected)
    uniform = (bits.double() + 0.5) * 2.0**-23
    torch.testing.assert_close(made.double(), -(-uniform.log()).log(), rtol=1e-6, atol=1e-6)
    assert torch.equal(noise.gumbel(keys, steps, vocabulary).argmax(dim=1), made.argmax(dim=1))


# the operation


def test_it_is_an_operator_of_torch() -> None:
    torch.library.opcheck(torch.ops.descant.draw, (scores(3, 40), *settings(3, 0.0, 1.0)))
    with FakeTensorMode():
        given = torch.empty(3, 40, device="cuda")
        warm, steps = torch.empty(3, device="cuda"), torch.empty(3, device="cuda").long()
        tokens, drawn = draw(given, warm, torch.empty(3, 2, device="cuda").int(), steps)
    assert (tokens.shape, tokens.dtype, tokens.device.type) == ((3,), torch.int64, "cuda")
    assert (drawn.shape, drawn.dtype) == ((3,), torch.float32)


@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 7), (3, 2048), (2, 2049)])
def test_the_cost_is_what_the_kernels_do(rows, vocabulary, process) -> None:
    arguments = scores(rows, vocabulary), *settings(rows, 0.0, 1.0)
    counts = process.submit(interpreted.count, "draw", *arguments).result()
    expected = cost(rows, vocabulary)
    assert counts == (expected.blocks, expected.launches, expected.read, expected.written)


# the kernels, compiled


def compiled(name: str, capability: int, constants: dict[str, int], **options: Any) -> Any:
    """A kernel as a GPU of a capability gets it; rows of a vocabulary that 16 divides."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_kernel

    from descant.models.kernels import draw_kernel

    kernel = getattr(draw_kernel, name)
    kinds = {
        "scores": "*fp32", "temperatures": "*fp32", "drawn": "*fp32", "keys": "*i32",
        "steps": "*i64", "bests": "*i64", "tokens": "*i64", "row_stride": "i64",
        **dict.fromkeys(constants, "constexpr"),
    }  # fmt: skip
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: kinds.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            if name not in constants and name != "parts"
        },
    )
    return compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_are_compiled_for_gpus(capability, tmp_path, monkeypatch) -> None:
    pytest.importorskip("triton", reason=TRITON)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    first = compiled(
        "partial_best", capability, {"PART": PART}, num_warps=4, enable_fp_fusion=False
    )
    second = compiled("merge_bests", capability, {"PARTS": 128}, enable_fp_fusion=False)
    assert f".target sm_{capability}" in first.asm["ptx"]
    assert f".target sm_{capability}" in second.asm["ptx"]
    assert "ld.global.v4" in first.asm["ptx"]  # 16 bytes of scores at once
    assert "div.rn.f32" in first.asm["ptx"]
    assert "lg2.approx" not in first.asm["ptx"]  # which is wrong near 1, where the noise is large
