"""Attention by live lengths: the rule, the kernels that compute it, and what they take.

No GPU is needed: Triton's interpreter runs the kernels, and its compiler makes them for GPUs.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import interpreted
import pytest
import torch
from pools import pool_of, shuffled
from torch import Tensor
from torch._subclasses import FakeTensorMode

from descant.models.kernels import gpu
from descant.models.kernels import live_attention as live_attention_file
from descant.models.kernels.ahead_of_time import compiled
from descant.models.kernels.live_attention import (
    MAX_QUERIES,
    cost,
    live_attention,
    masked_attention,
    why_not,
)

Places = tuple[Tensor, Tensor, Tensor]
TRITON = "pip install triton: it has wheels for Linux"
PAGE = 64


# where queries are: positions, cache positions and starts, each (n, q)


def following(ends: Sequence[int], q: int) -> Places:
    """The last ``q`` tokens of each row; where a row has fewer, its last one again."""
    at = torch.tensor(ends)[:, None]
    places = torch.minimum((at - q).clamp(min=0) + torch.arange(q), at - 1)
    return places, places, places


def alternatives(starts: Sequence[int], count: int, tokens: int) -> Places:
    """``count`` alternatives of so many tokens for what follows each row's start."""
    start = torch.tensor(starts)[:, None]
    ahead = torch.arange(count * tokens)
    return start + ahead % tokens, start + ahead, start.expand(-1, count * tokens)


def case(
    places: Places, heads: int, groups: int, size: int, capacity: int, value_size: int = 0,
    dtype: torch.dtype = torch.float32, page: int = PAGE, seed: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Arguments of the kernels; numbers depend on neither pages nor ``seed``, which orders them."""
    n, q = places[0].shape
    generator = torch.Generator().manual_seed(size + capacity)
    query = torch.randn(n, q, heads, size, generator=generator)
    key = torch.randn(n, capacity, groups, size, generator=generator)
    value = torch.randn(n, capacity, groups, value_size or size, generator=generator)
    ends = (places[1].amax(dim=1) + 1).tolist()
    tables = shuffled(ends, page, -(-capacity // page), seed)
    pools = (pool_of(rows.to(dtype), tables, ends, page) for rows in (key, value))
    return (query.to(dtype).transpose(1, 2), *pools, tables, *places)


def sees(position: int, own: int, start: int, key: int, window: int) -> bool:
    """The rule for one query and one cache position, as its words say it."""
    if key < start and (not window or key > position - window):
        return True
    first = own - (position - start)
    in_text = key + position - own
    return first <= key <= own and (not window or in_text > position - window)


def plain(arguments: tuple[Tensor, ...], window: int, scale: float) -> Tensor:
    """One query, one head and one key at a time, in float64."""
    query, key, value, tables, *places = arguments
    n, heads, q, _ = query.shape
    page, each = key.shape[2], heads // key.shape[1]
    result = torch.zeros(n, q, heads, value.shape[3], dtype=torch.float64)
    for row in range(n):
        for at in range(q):
            position, own, start = (int(place[row, at]) for place in places)
            room = torch.arange(tables.shape[1] * page)
            keys = [c for c in room if sees(position, own, start, int(c), window)]
            pages, offsets = tables[row, torch.stack(keys) // page], torch.stack(keys) % page
            for head in range(heads):
                seen, mixed = (x[pages, head // each, offsets].double() for x in (key, value))
                weights = (seen @ query[row, head, at].double() * scale).softmax(dim=0)
                result[row, at, head] = weights @ mixed
    return result


RULES = {
    "one token": (following([1, 7, 30], 1), 0),
    "some tokens, fewer in a row": (following([2, 7, 30], 4), 0),
    "a window": (following([2, 9, 30], 3), 5),
    "candidates": (alternatives([1, 12], 4, 1), 0),
    "candidates and a window": (alternatives([1, 12], 4, 1), 3),
    "branches": (alternatives([1, 12, 20], 3, 3), 0),
    "branches and a window": (alternatives([1, 12, 20], 3, 3), 4),
    "branches beyond a window": (alternatives([1, 12, 20], 2, 5), 2),
    "an idle row": (tuple(torch.zeros(2, 3, dtype=torch.long) for _ in range(3)), 0),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_mask_is_the_rule(rule) -> None:
    """What is dead is no number, in pages of a row and beside them."""
    places, window = RULES[rule]
    arguments = case(places, 4, 2, 8, 40, page=16)
    found = masked_attention(*arguments, window, 0.3)
    torch.testing.assert_close(found.double(), plain(arguments, window, 0.3), atol=2e-6, rtol=1e-5)
    assert torch.equal(live_attention(*arguments, window, 0.3), found)


def test_what_is_left_out() -> None:
    arguments = case(following([3, 9], 1), 4, 2, 16, 20)
    expected = masked_attention(*arguments, 0, 0.25)
    assert torch.equal(live_attention(*arguments[:6]), expected)
    assert not torch.equal(live_attention(*arguments[:6], scale=0.5), expected)


def test_it_is_an_operator_of_torch() -> None:
    arguments = (*case(following([3, 9], 2), 4, 2, 16, 20, 8), 3, 0.3)
    torch.library.opcheck(torch.ops.descant.live_attention, arguments)
    with FakeTensorMode():
        query = torch.empty(3, 8, 2, 16, device="cuda", dtype=torch.bfloat16)
        key = torch.empty(9, 64, 2, 16, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        tables = torch.empty(3, 4, device="cuda", dtype=torch.int32)
        positions = torch.empty(3, 2, device="cuda", dtype=torch.long)
        out = live_attention(query, key, key, tables, positions, positions)
    assert (out.shape, out.dtype, out.device.type) == ((3, 2, 8, 16), torch.bfloat16, "cuda")
    assert out.is_contiguous()


# the kernels, interpreted


@pytest.fixture(scope="module")
def kernels(process) -> Callable[..., Tensor]:
    def run(*arguments: Any, window: int = 0) -> Any:
        scale = arguments[0].shape[-1] ** -0.5
        return process.submit(
            interpreted.launch, "live_attention", *arguments, window, scale
        ).result()

    return run


def no_pages_beside(arguments: tuple[Tensor, ...], window: int) -> tuple[Tensor, ...]:
    """The same with page numbers that lead nowhere wherever no query of a row sees a key."""
    query, key, value, tables, *places = arguments
    tables, page = tables.clone(), key.shape[2]
    for row in range(len(tables)):
        end, first = int(places[1][row].max()) + 1, int(places[0][row].min()) - window + 1
        tables[row, -(-end // page) :] = 2**30
        tables[row, : max(first, 0) // page if window else 0] = 2**30
    return query, key, value, tables, *places


KERNELS = {  # places, heads, groups, size, capacity, and window
    "one token": (following([1, 64, 65, 300], 1), 4, 2, 64, 384, 0),
    "ends of chunks": (following([255, 256, 257, 512, 513], 1), 2, 1, 16, 513, 0),
    "no groups": (following([5, 300], 4), 8, 8, 16, 300, 0),
    "one group": (following([200, 400], 4), 8, 1, 80, 512, 0),
    "eleven queries": (following([11, 260], 11), 8, 1, 128, 512, 0),
    "sixteen, fewer in a row": (following([3, 290], 16), 6, 2, 16, 300, 0),
    "two tiles of queries": (following([290], 16), 9, 1, 16, 300, 0),
    "two tiles of large heads": (following([270], 16), 6, 1, 256, 300, 0),
    "more chunks than splits": (following([40, 8500], 1), 1, 1, 16, 8501, 0),
    "a window": (following([1, 99, 100, 101, 700], 1), 4, 2, 64, 701, 100),
    "a window of one": (following([1, 64, 65], 1), 2, 1, 16, 70, 1),
    "a window over many chunks": (following([300, 8900], 2), 1, 1, 16, 8900, 8450),
    "a window and queries": (following([4, 300, 600], 11), 4, 1, 16, 640, 60),
    "candidates": (alternatives([1, 250, 300], 11, 1), 4, 2, 64, 320, 0),
    "branches": (alternatives([1, 250, 300], 4, 4), 4, 2, 80, 320, 0),
    "branches and a window": (alternatives([1, 250, 300], 3, 5), 4, 2, 16, 320, 40),
    "branches beyond a window": (alternatives([1, 254, 300], 3, 5), 4, 2, 16, 320, 3),
    "idle rows": (tuple(torch.zeros(2, 3, dtype=torch.long) for _ in range(3)), 4, 2, 16, 600, 0),
}


@pytest.mark.parametrize("name", KERNELS)
def test_the_kernels_are_the_mask(name, kernels) -> None:
    """What is dead is not even read: it is no number there, and pages of no use are none."""
    places, heads, groups, size, capacity, window = KERNELS[name]
    arguments = case(places, heads, groups, size, capacity)
    found = kernels(*no_pages_beside(arguments, window), window=window)
    expected = masked_attention(*arguments, window)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_is_within_rounding(dtype, rounding, kernels) -> None:
    """Weights are rounded once, and the result once; sums are in float32."""
    arguments = case(following([1, 64, 300], 4), 8, 2, 128, 320, dtype=dtype)
    found = kernels(*arguments)
    exact = masked_attention(*(x.float() for x in arguments[:3]), *arguments[3:])
    assert found.dtype == dtype
    largest = arguments[2].nan_to_num().abs().max().item()
    torch.testing.assert_close(found.float(), exact, atol=rounding * largest, rtol=rounding)


def test_values_may_be_of_another_size(kernels) -> None:
    arguments = case(following([1, 300], 2), 4, 2, 24, 320, value_size=80)
    found = kernels(*arguments)
    torch.testing.assert_close(found, masked_attention(*arguments), atol=2e-6, rtol=2e-6)


def test_any_strides_of_a_pool(kernels) -> None:
    """Heads before positions, pages of a larger pool, queries in heads, a part of a table."""
    query, key, value, tables, *places = case(following([5, 40, 270], 2), 4, 2, 16, 320)
    expected = kernels(query, key, value, tables, *places)
    larger = torch.full((len(key) + 2, 2, PAGE + 8, 24), math.nan)
    larger[1:-1, :, :PAGE, 4:20] = key
    view = larger[1:-1, :, :PAGE, 4:20]
    wider = torch.full((4, 9), 2**30, dtype=torch.int32)
    wider[1:, 2:7] = tables
    for some in (wider[1:, 2:7], tables.T.contiguous().T):
        found = kernels(query.contiguous(), view, value.contiguous(), some, *places)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("window", [0, 270])
def test_neither_neighbours_nor_width_change_a_bit(window, kernels) -> None:
    ends = [1, 256, 700, 8450]
    query, key, value, tables, *places = case(following(ends, 2), 2, 1, 16, 8600)
    together = kernels(query, key, value, tables, *places, window=window)
    for row, end in enumerate(ends):
        one = slice(row, row + 1)
        tight = tables[one, : -(-max(end, 2) // PAGE)]  # its last positions
        alone = kernels(query[one], key, value, tight, *(x[one] for x in places), window=window)
        assert torch.equal(alone[0], together[row]), end


@pytest.mark.parametrize(("size", "window"), [(16, 270), (80, 0)])
def test_neither_the_order_nor_the_size_of_pages_changes_a_bit(size, window, kernels) -> None:
    places = following([1, 256, 700], 2)
    expected = kernels(*case(places, 2, 1, size, 720), window=window)
    for seed, page in enumerate((PAGE, 16, 256, 1024), start=1):
        arguments = case(places, 2, 1, size, 720, page=page, seed=seed)
        assert torch.equal(kernels(*arguments, window=window), expected), page


@pytest.mark.parametrize("page", [16, 256])
def test_rows_may_share_pages(page, kernels) -> None:
    """Bits are those of rows with pages of their own."""
    ends, shared = [700, 600], 512
    places = following(ends, 2)
    query, keys, values = (torch.randn(2, *shape) for shape in ((4, 2, 16), *[(700, 2, 16)] * 2))
    keys[1, :shared], values[1, :shared] = keys[0, :shared], values[0, :shared]
    results = []
    for both in (False, True):
        tables = shuffled(ends, page)
        if both:
            tables[1, : shared // page] = tables[0, : shared // page]
        pools = (pool_of(rows, tables, ends, page) for rows in (keys, values))
        results.append(kernels(query, *pools, tables, *places))
    apart, together = results
    assert torch.equal(apart, together)


COSTS = {  # queries, ends, window, heads, groups, size, capacity, and keys of a page
    "one token": (1, [1, 255, 700], 0, 8, 2, 16, 720, 256),
    "chunks and tiles": (16, [30, 300], 0, 9, 1, 16, 512, 64),
    "more chunks than splits": (1, [8900], 0, 2, 1, 16, 9001, 16384),
    "a window": (3, [9, 300, 600], 100, 4, 2, 24, 640, 16),
}


@pytest.mark.parametrize("name", COSTS)
def test_the_cost_is_what_the_kernels_do(name, process) -> None:
    """Every query sees some of every chunk that its row reads."""
    q, ends, window, heads, groups, size, capacity, page = COSTS[name]
    places = tuple(place.clone() for place in following(ends, q))
    arguments = case(places, heads, groups, size, capacity, page=page)
    capacity = -(-capacity // page) * page
    counts = process.submit(interpreted.count, "live_attention", *arguments, window, 0.25).result()
    expected = cost(arguments[0].shape, groups, 4, ends, capacity, window=window, page=page)
    assert counts == (expected.blocks, expected.launches, expected.read, expected.written)


def test_alternatives_cost_what_the_mask_lets_through() -> None:
    """The keys that any query of a row weighs, in keys and values of each group."""
    for places, window in RULES.values():
        arguments = case(places, 4, 2, 8, 40)
        seen = 0
        for row in range(len(places[0])):
            triples = list(zip(*(place[row].tolist() for place in places), strict=True))
            keys = range(40)
            seen += sum(any(sees(*at, c, window) for at in triples) for c in keys)
        lengths = (places[1].amax(dim=1) + 1).tolist()
        firsts = places[0][:, 0].tolist()
        found = cost(arguments[0].shape, 2, 2, lengths, 40, firsts, window)
        assert found.cached == seen * 2 * (8 + 8) * 2


def test_triton_is_imported_by_a_launch_only() -> None:
    """The kernels' files import it, and nothing imports those when it is itself imported."""
    folder = Path(live_attention_file.__file__).parent
    at_the_top: dict[str, set[str]] = {}
    for file in (*folder.glob("*.py"), *(folder.parent / "layers").glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                at_the_top.setdefault(file.stem, set()).update(names)
    kernels = {"decode_kernel", "draw_kernel", "layer_kernel"}
    assert {stem for stem, names in at_the_top.items() if "triton" in names} == kernels
    assert not any(kernels & names for names in at_the_top.values())


# the kernels, compiled


SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a thread block of an A100 or H100 may have


@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize(
    ("size", "queries", "page"),
    [(128, 1, 256), (128, MAX_QUERIES, 16), (256, MAX_QUERIES, 256)],
)
def test_the_kernels_are_compiled_for_gpus(
    capability, size, queries, page, tmp_path, monkeypatch, record_property
) -> None:
    pytest.importorskip("triton", reason=TRITON)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    first, second = compiled(capability, (32, 64, queries, size), 8, 4096, page)
    record_property("bytes of shared memory", (first.metadata.shared, second.metadata.shared))
    assert 0 < first.metadata.shared <= SHARED[capability]
    assert second.metadata.shared <= SHARED[capability]
    assert f".target sm_{capability}" in first.asm["ptx"]
    assert "cp.async.cg.shared.global" in first.asm["ptx"]  # keys are loaded ahead, 16 bytes each


# what they do not take


@pytest.mark.parametrize(
    ("sizes", "dtype", "capability", "expected"),
    [
        ((128, 128), torch.bfloat16, (9, 0), None),
        ((80, 80), torch.float16, None, None),
        ((192, 128), torch.float32, (8, 0), None),
        ((36, 36), torch.bfloat16, None, "heads of size 36: multiples of 8 up to 256 are taken"),
        ((576, 512), torch.bfloat16, None,
         "heads of size 576 and 512: multiples of 8 up to 256 are taken"),
        ((64, 64), torch.float64, None, "keys in float64: float32, bfloat16, float16 are taken"),
        ((64, 64), torch.float16, (7, 5),
         "a GPU of compute capability 7.5: Triton takes 8.0 and later"),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_said(sizes, dtype, capability, expected) -> None:
    assert why_not(*sizes, dtype, capability) == expected


def test_what_is_missing_is_said(monkeypatch) -> None:
    """On a machine with CUDA; each is put right in turn."""
    file, said = gpu, []
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CC", raising=False)
    with monkeypatch.context() as patched:
        patched.setattr(file.importlib.util, "find_spec", lambda name: None)
        said.append(why_not(64, 64, torch.bfloat16))
    monkeypatch.setattr(file.importlib.util, "find_spec", lambda name: name)
    with monkeypatch.context() as patched:
        patched.setattr(file.shutil, "which", lambda name: None)
        said.append(why_not(64, 64, torch.bfloat16))
    monkeypatch.setattr(file.shutil, "which", lambda name: name)
    monkeypatch.setattr(file.sysconfig, "get_path", lambda name: "/nowhere")
    said.append(why_not(64, 64, torch.bfloat16))
    assert said == [
        "triton is not installed",
        "no C compiler, which Triton builds its launcher with: install gcc",
        "no Python.h, which Triton builds its launcher with: install python3-dev",
    ]
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert why_not(64, 64, torch.bfloat16) == "a GPU of AMD: the kernels are compiled for NVIDIA's"
