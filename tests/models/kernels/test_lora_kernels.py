"""What adapters add to rows: the kernels beside torch's operations, adapter by adapter.

No GPU is needed: Triton's interpreter runs the kernels, and its compiler makes them for GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from typing import Any, NamedTuple

import interpreted
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from descant.models.kernels.lora import products, row_lists
from descant.models.kernels.lora.products import Factors, add_products, tiles_of
from descant.models.kernels.lora.row_lists import RowLists, list_adapters

TRITON = "pip install triton: it has wheels for Linux"


class Case(NamedTuple):
    """Modules side by side, adapters on them, and rows.

    Attributes:
        size: of the input.
        outs: of the modules.
        ranks: of each module, those of the adapters; 0 for one that is not on it.
        rows: of each, its number of every adapter.
        queries: positions of each row.
        run: the modules of the call.
    """

    size: int
    outs: tuple[int, ...]
    ranks: tuple[tuple[int, ...], ...]
    rows: Sequence[Sequence[float]]
    queries: int = 1
    run: tuple[int, int] = (0, 0)

    @property
    def modules(self) -> tuple[int, int]:
        return self.run if any(self.run) else (0, len(self.outs))

    @property
    def added(self) -> list[list[int]]:
        return [[one for one, number in enumerate(row) if number] for row in self.rows]

    def made(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Factors, RowLists]:
        """The output, the input, and what is added."""
        generator = torch.Generator().manual_seed(self.size)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(dtype)

        loaded, bounds = len(self.ranks[0]), [0]
        for rank in (rank for module in self.ranks for rank in module):
            bounds.append(bounds[-1] + rank)
        numbers = sum(sum(r) * out for r, out in zip(self.ranks, self.outs, strict=True))
        tiles, (first, last) = tiles_of(bounds, self.outs, loaded), self.modules
        factors = Factors(
            random(bounds[-1], self.size) / self.size**0.5, random(numbers),
            torch.tensor(bounds, dtype=torch.int32), torch.tensor([*chain(*tiles[first:last])]),
            loaded, self.modules, (bounds[first * loaded], bounds[last * loaded]),
            (sum(self.outs[:first]), sum(self.outs[:last])),
        )  # fmt: skip
        table = torch.zeros(3 + len(self.rows), loaded + 2)
        slots = torch.arange(len(self.rows)).flip(0) + 2
        table[slots, :loaded] = torch.tensor(self.rows).float()
        positions = len(self.rows) * self.queries
        x, out = random(positions, self.size), random(positions, factors.outs[1] - factors.outs[0])
        return out, x, factors, list_adapters(table, slots, loaded)


CASES = {
    "two adapters, a module": Case(96, (160,), ((16, 16),), [[0, 0], [0.5, 0], [0, -2.0]]),
    "joined, of many ranks": Case(
        1100, (130, 64, 64), ((4, 16, 0, 20), (16, 4, 1, 0), (0, 0, 64, 3)),
        [[0, 0, 0, 0], [0.5, 0.25, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, -0.3]],
    ),
    "a run, several positions": Case(
        70, (48, 33, 150, 16), ((8, 3), (5, 0), (0, 17), (2, 2)),
        [[i % 3 * 0.5, (i % 5 == 4) * 1.5] for i in range(19)], 3, (1, 3),
    ),
    "all bare": Case(40, (32,), ((4, 4),), [[0, 0]] * 3),
}  # fmt: skip


def plain(case: Case, out: Tensor, x: Tensor, factors: Factors) -> Tensor:
    """Each row and position by itself, in float64; rounded where the kernels round."""
    result, bounds, loaded = out.double(), factors.starts.tolist(), factors.loaded
    number = [sum(sum(r) * o for r, o in zip(case.ranks[:m], case.outs[:m], strict=True))
              for m in range(len(case.outs) + 1)]  # fmt: skip
    for place in range(len(x)):
        row, first = case.rows[place // case.queries], 0
        for module in range(*case.modules):
            size, begin = case.outs[module], bounds[module * loaded]
            b = factors.b[number[module] : number[module + 1]].view(-1, size).double()
            for adapter, weight in enumerate(row):
                ends = slice(*bounds[module * loaded + adapter : module * loaded + adapter + 2])
                if weight and ends.start < ends.stop:
                    low = factors.a[ends].double() @ x[place].double() * weight
                    low = low.to(x.dtype).double()
                    mine = b[ends.start - begin : ends.stop - begin]
                    result[place, first : first + size] += low @ mine
            first += size
    return result


def launched(process: ProcessPoolExecutor, how: Any, *arguments: Any) -> Any:
    """What the kernels make of the arguments of ``add_products``, or do."""
    out, x, factors, rows = arguments
    shape = [factors.loaded, *factors.modules, *factors.columns, *factors.outs]
    given = out.clone(), x, *factors[:4], *rows, shape
    return process.submit(how, "kernels.lora.products", *given).result()


def by_kernels(process: ProcessPoolExecutor, *arguments: Any) -> Tensor:
    found: Tensor = launched(process, interpreted.launch_in_place, *arguments)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*CASES])
def test_rows_get_what_they_add(name, dtype, process) -> None:
    case = CASES[name]
    out, x, factors, rows = case.made(dtype)
    expected = plain(case, out, x, factors)
    rounding = 2e-6 if dtype == torch.float32 else 2**-7
    limit = {"rtol": rounding, "atol": rounding * float(expected.abs().max())}
    found = by_kernels(process, out, x, factors, rows)
    torch.testing.assert_close(found.double(), expected, **limit)
    add_products(torchs := out.clone(), x, factors, rows)
    torch.testing.assert_close(torchs.double(), expected, **limit)
    assert torch.equal(found, out) == (not any(case.added))


def test_neighbours_and_what_is_loaded_change_no_bit(process) -> None:
    case = CASES["joined, of many ranks"]
    out, x, factors, rows = case.made()
    together = by_kernels(process, out, x, factors, rows)
    numbers = rows.numbers
    for row in range(len(case.rows)):
        alone = list_adapters(numbers[row : row + 1], torch.zeros(1, dtype=torch.long), 4)
        at = slice(row, row + 1)
        assert torch.equal(by_kernels(process, out[at], x[at], factors, alone), together[at])
    x[2] = torch.inf  # which none but its row sees
    found = by_kernels(process, out, x, factors, rows)
    others = [0, 1, 3, 4]
    assert torch.equal(found[others], together[others]) and not found[2].isfinite().all()


def test_the_lists_are_those_of_torch(process) -> None:
    torch.manual_seed(0)
    table = torch.randn(9, 300) * (torch.rand(9, 300) < 0.02)
    table[0] = 0
    slots = torch.randint(9, (37,))
    slots[16:32] = 0
    found = process.submit(interpreted.launch, "kernels.lora.row_lists", table, slots, 290).result()
    expected = list_adapters(table, slots, 290)
    assert torch.equal(found[0], expected.numbers) and torch.equal(found[2], expected.counts)
    assert expected.counts.tolist()[1] == 0 < expected.counts.min(dim=0).values + 1
    for mine, others, count in zip(found[1], expected.lists, expected.counts, strict=True):
        assert torch.equal(mine[:count], others[:count]) and mine.dtype == torch.int32
    group = {int(i) for slot in slots[:16] for i in table[slot, :290].nonzero()}
    assert expected.lists[0, : expected.counts[0]].tolist() == sorted(group)


def test_they_are_operators_of_torch() -> None:
    out, x, factors, rows = CASES["joined, of many ranks"].made()
    shape = [factors.loaded, *factors.modules, *factors.columns, *factors.outs]
    torch.library.opcheck(torch.ops.descant.add_lora, (out, x, *factors[:4], *rows, shape))
    arguments = torch.randn(4, 7), torch.tensor([0, 3, 3]), 5
    torch.library.opcheck(torch.ops.descant.list_adapters, arguments)
    with FakeTensorMode():
        table = torch.empty(4, 7, device="cuda")
        made = list_adapters(table, torch.empty(18, device="cuda").long(), 5)
    assert [tuple(one.shape) for one in made] == [(18, 5), (2, 5), (2,)]


@pytest.mark.parametrize("name", [*CASES])
def test_the_cost_is_what_the_kernels_do(name, process) -> None:
    case = CASES[name]
    arguments = case.made()
    counts = launched(process, interpreted.count, *arguments)
    first, last = case.modules
    declared = products.cost(
        case.added, case.queries, case.size, case.ranks[first:last], case.outs[first:last], 4
    )
    assert (counts.blocks, counts.launches) == (declared.blocks, declared.launches)
    assert counts.written == declared.written
    assert 0.9 * counts.read - 2000 <= declared.read <= 1.1 * counts.read


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_are_compiled_for_gpus(capability, tmp_path, monkeypatch) -> None:
    pytest.importorskip("triton", reason=TRITON)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    same = {"ROWS": row_lists.ROWS, "COLUMNS": products.COLUMNS}
    lower = compiled("lower", capability, {
        **same, "SPLIT": products.SPLIT, "BLOCK": products.INPUTS,
    }, num_warps=4, num_stages=3)  # fmt: skip
    raised = compiled("raise_to", capability, {**same, "BLOCK": products.OUTPUTS}, num_warps=4)
    lists = {"ROWS": row_lists.ROWS, "BLOCK": row_lists.BLOCK}
    for made in (lower, raised, compiled("list_adapters", capability, lists)):
        assert f".target sm_{capability}" in made.asm["ptx"]
    for made in (lower, raised):
        assert "mma" in made.asm["ptx"]  # tensor cores
        assert "ld.local" not in made.asm["ptx"]  # nothing is spilled


def compiled(name: str, capability: int, constants: dict[str, int], **options: Any) -> Any:
    """A kernel as a GPU of a capability gets it, in bfloat16; sizes that 16 divides."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_kernel

    from descant.models.kernels.lora import lora_kernel

    kernel = getattr(lora_kernel, name)
    kinds = {
        "x": "*bf16", "a": "*bf16", "b": "*bf16", "out": "*bf16", "low": "*fp32", "starts": "*i32",
        "tiles": "*i64", "numbers": "*fp32", "lists": "*i32", "counts": "*i32", "table": "*fp32",
        "slots": "*i64", **dict.fromkeys(constants, "constexpr"),
    }  # fmt: skip
    names = kernel.arg_names
    divisible = ("size", "x_row", "out_row")
    source = ASTSource(
        fn=kernel,
        signature={name: kinds.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            if name in divisible or kinds.get(name, "").startswith("*")
        },
    )
    return compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)
