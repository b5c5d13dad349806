"""What stands between the products of a layer: the kernels beside transformers' modules.

No GPU is needed: Triton's interpreter runs the kernels, and its compiler makes them for GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import interpreted
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from descant.models.layers import gated, norms, rotary

TRITON = "pip install triton: it has wheels for Linux"
KINDS = [torch.float32, torch.bfloat16, torch.float16]
# Of the largest number: of float32, logarithms and roots round otherwise; else one unit.
APART = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
EPS = 1e-5


def random(*shape: int, kind: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(kind)


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Within a unit of rounding, number by number."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    allowed = APART[found.dtype] * (1e-2 + expected.float().abs()) * 1.01
    assert bool(((found.float() - expected.float()).abs() <= allowed).all())


@pytest.fixture(params=["torch", "kernels"])
def way(request) -> Callable[..., Any]:
    """An operation on a CPU, or what it is on CUDA; and its arguments, which it may write to."""

    def on_cpu(name: str, *arguments: Any) -> Any:
        file, _, function = name.partition(":")
        operation = {
            ("layers.norms", ""): norms._norm, ("layers.norms", "launch_sum"): norms._add_norm,
            ("layers.rotary", ""): rotary._rotate, ("layers.gated", ""): gated._gate,
        }[file, function]  # fmt: skip
        return operation(*arguments), arguments

    if request.param == "torch":
        return on_cpu
    process = request.getfixturevalue("process")
    return lambda *call: process.submit(interpreted.launch_into, *call).result()


def llama_norm(weight: Tensor, hidden: Tensor) -> Tensor:
    module = LlamaRMSNorm(len(weight), EPS)
    module.weight = nn.Parameter(weight)
    return module(hidden).detach()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 7), (2, 3, 72), (3, 1000), (1, 4096)])
def test_norms_are_those_of_llama(shape, kind, way) -> None:
    hidden, added = (random(*shape, kind=kind, seed=seed) for seed in (0, 1))
    hidden[0] *= 100
    weight = random(shape[-1], kind=kind) + 1
    found, _ = way("layers.norms", hidden, weight, EPS)
    assert_close(found, llama_norm(weight, hidden))
    (total, found), _ = way("layers.norms:launch_sum", hidden, added, weight, EPS)
    assert torch.equal(total, hidden + added)
    assert_close(found, llama_norm(weight, hidden + added))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 5), (2, 3, 1030), (4, 2048)])
def test_the_gate_is_silu_times_the_other_half(shape, kind, way) -> None:
    size = shape[-1]
    joined = 6 * random(*shape[:-1], 2 * size, kind=kind)
    joined.view(-1)[:3] = torch.tensor([-1e4, 1e4, 0.0]).to(kind)
    found, _ = way("layers.gated", joined)
    expected = nn.SiLU()(joined[..., :size]) * joined[..., size:]
    assert_close(found, expected)


def rotary_case(
    n: int, q: int, heads: int, groups: int, size: int, kind: torch.dtype, norms: bool
) -> tuple[Any, ...]:
    """Arguments: pages in any order, of a pool that has other layers between its pages."""
    page, count = 4, n * q + 1
    generator = torch.Generator().manual_seed(n)
    pool = random(count, 3, page, 2, groups, size, kind=kind)  # three layers
    keys, values = pool[:, 1].unbind(dim=2)
    angles = 100 * torch.rand(n, q, size // 2, generator=generator).repeat(1, 1, 2)
    joined = random(n, q, (heads + 2 * groups) * size, kind=kind)
    pages = torch.randperm(count, generator=generator)[: n * q].view(n, q)
    places = torch.randint(page, (n, q), generator=generator)
    weights = [random(size, kind=kind, seed=seed) + 1 if norms else None for seed in (1, 2)]
    turns = angles.cos().to(kind), angles.sin().to(kind)
    return joined, *turns, keys, values, pages, places, *weights, EPS


def by_transformers(arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """``(n, q, heads, size)`` queries, and both pools, one token after the other."""
    joined, cosines, sines, keys, values, pages, places, *weights, _ = arguments
    keys, values = keys.clone(), values.clone()
    n, q, groups, size = *joined.shape[:2], *keys.shape[2:]
    split = joined.view(n, q, -1, size).transpose(1, 2)
    query, key, value = split.split([split.shape[1] - 2 * groups, groups, groups], dim=1)
    if weights[0] is not None:
        query, key = llama_norm(weights[0], query), llama_norm(weights[1], key)
    query, key = apply_rotary_pos_emb(query, key, cosines, sines)
    for row in range(n):
        for token in range(q):
            at = pages[row, token], places[row, token]
            keys[at], values[at] = key[row, :, token], value[row, :, token]
    return query.transpose(1, 2), keys, values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "q", "heads", "groups", "size", "has_norms"),
    [(1, 1, 4, 4, 64, False), (3, 2, 6, 2, 80, True), (2, 11, 2, 1, 16, False),
     (1, 3, 3, 1, 256, True)],
)  # fmt: skip
def test_queries_are_turned_and_keys_and_values_are_in_their_pages(
    n, q, heads, groups, size, has_norms, kind, way
) -> None:
    arguments = rotary_case(n, q, heads, groups, size, kind, has_norms)
    queries, keys, values = by_transformers(arguments)
    found, after = way("layers.rotary", *arguments)
    assert found.shape == (n, q, heads, size)
    largest = {torch.float32: 1e-5, torch.bfloat16: 2**-5, torch.float16: 2**-8}[kind]
    if not has_norms:
        largest = 0.0 if kind is not torch.float32 else 1e-6
    pairs = ((found, queries), (after[3], keys), (after[4], values))
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=largest, rtol=0)


def test_neighbours_change_nothing(process) -> None:
    hidden, weight = random(5, 300, kind=torch.float32), random(300, kind=torch.float32)
    together = process.submit(interpreted.launch, "layers.norms", hidden, weight, EPS).result()
    for row in range(5):
        one = hidden[row : row + 1]
        alone = process.submit(interpreted.launch, "layers.norms", one, weight, EPS).result()
        assert torch.equal(alone[0], together[row])


def test_they_are_operators_of_torch() -> None:
    hidden, weight = random(2, 3, 8, kind=torch.float32), random(8, kind=torch.float32)
    operators = torch.ops.descant
    torch.library.opcheck(operators.rms_norm, (hidden, weight, EPS))
    torch.library.opcheck(operators.add_rms_norm, (hidden, hidden + 1, weight, EPS))
    torch.library.opcheck(operators.gated, (hidden,))
    for has_norms in (False, True):
        arguments = rotary_case(2, 3, 4, 2, 8, torch.float32, has_norms)
        copies = [each.clone() if isinstance(each, Tensor) else each for each in arguments]
        torch.library.opcheck(operators.rotate_into_pages, tuple(copies))
    with FakeTensorMode():
        gpu: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16}
        joined, turns = torch.empty(3, 2, 8 * 16, **gpu), torch.empty(3, 2, 16, **gpu)
        pool, at = torch.empty(9, 64, 2, 16, **gpu), torch.empty(3, 2, device="cuda").long()
        queries = rotary.rotate_into_pages(joined, turns, turns, pool, pool.clone(), at, at)
        assert queries.shape == (3, 4, 2, 16) and queries.dtype == torch.bfloat16
        total, normed = norms.add_rms_norm(joined, joined, torch.empty(128, **gpu), EPS)
        assert total.shape == normed.shape == joined.shape
        assert gated.gated(joined).shape == (3, 2, 64)


def test_the_costs_are_what_the_kernels_do(process) -> None:
    def counted(name: str, *arguments: Any) -> tuple[int, ...]:
        return tuple(process.submit(interpreted.count, name, *arguments).result())

    def declared(cost: Any) -> tuple[int, ...]:
        return cost.blocks, cost.launches, cost.read, cost.written

    kind = torch.float16
    hidden, weight = random(3, 72, kind=kind), random(72, kind=kind)
    found = counted("layers.norms", hidden, weight, EPS)
    assert found == declared(norms.cost(3, 72, 2, adds=False))
    found = counted("layers.norms:launch_sum", hidden, hidden + 1, weight, EPS)
    assert found == declared(norms.cost(3, 72, 2, adds=True))
    found = counted("layers.gated", random(2, 2 * 1030, kind=kind))
    assert found == declared(gated.cost(2, 1030, 2))
    for has_norms in (False, True):
        found = counted("layers.rotary", *rotary_case(2, 3, 4, 2, 16, kind, has_norms))
        assert found == declared(rotary.cost(6, 4, 2, 16, 2, has_norms))


# the kernels, compiled


def compiled(name: str, capability: int, constants: dict[str, Any], **options: Any) -> Any:
    """A kernel as a GPU of a capability gets it in bfloat16; of sizes that 16 divides."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_kernel

    from descant.models.layers import layer_kernel

    kernel = getattr(layer_kernel, name)
    numbers = {"size": "i32", "eps": "fp32", "heads": "i32", "groups": "i32"}
    numbers |= dict.fromkeys(("pages", "places"), "*i64") | dict.fromkeys(constants, "constexpr")
    strides = ("joined_stride", *(f"{a}_{b}" for a in ("key", "value") for b in STRIDES))
    numbers |= dict.fromkeys(strides, "i64")
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: numbers.get(name, "*bf16") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            if name not in (*constants, "eps", "heads", "groups")
        },
    )
    options = {"enable_fp_fusion": False, **options}
    return compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)


STRIDES = ("page", "place", "group")
COMPILED = {
    "normalise": ({"ADDS": True, "BLOCK": 4096}, norms.warps(4096)),
    "rotate_into_pages": ({"NORMS": True, "SIZE": 128, "BLOCK": 128}, 1),
    "gate": ({"PART": gated.PART}, 4),
}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", COMPILED)
def test_the_kernels_are_compiled_for_gpus(name, capability, tmp_path, monkeypatch) -> None:
    pytest.importorskip("triton", reason=TRITON)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants, warps = COMPILED[name]
    found = compiled(name, capability, constants, num_warps=warps)
    assert f".target sm_{capability}" in found.asm["ptx"]
    assert "fma.rn.f32" not in found.asm["ptx"] or name == "gate"  # a product and a sum, apart
    if name != "rotate_into_pages":
        assert "ld.global.v4" in found.asm["ptx"]  # 16 bytes at once
    assert math.isfinite(found.metadata.shared)
