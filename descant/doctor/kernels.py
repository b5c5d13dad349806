"""The kernels held against torch's own operations, over a grid of shapes.

With a GPU the kernels run on it. Without one, what they are held against is: by transformers'
attention; and Triton compiles them for GPUs that are not there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from .findings import BROKEN, MISSING, NOTE, OK, Finding

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DRAWN = 1e-3  # how far a drawn token may be from the best, for logarithms round
PAGE_SEED = 20  # of the order of pages
TARGETS = {80: "A100", 90: "H100 and H200"}  # compute capabilities, ten times


class Case(NamedTuple):
    """A call of attention by live lengths.

    Attributes:
        ends: tokens of each row.
        queries: per row: its last tokens, or alternatives for what follows them.
        tokens: of each alternative; 0 where queries are no alternatives.
        capacity: keys that each row's table has room for.
        page: keys of a page.
    """

    heads: int
    groups: int
    size: int
    ends: Sequence[int]
    queries: int
    tokens: int = 0
    window: int = 0
    capacity: int = 2048
    page: int = 256


CASES = {
    "a token": Case(32, 32, 128, (1, 255, 700, 1900), 1),
    "a token, grouped heads": Case(32, 8, 128, (1, 256, 513, 1900), 1),
    "eleven tokens": Case(8, 2, 64, (11, 300, 1000), 11),
    "ten candidates": Case(32, 8, 128, (1, 250, 1500), 10, 1),
    "branches, a window": Case(8, 1, 256, (1, 254, 800), 16, 4, 100),
    "a window": Case(16, 4, 80, (16, 300, 1200), 16, 0, 128),
    "a long text": Case(8, 8, 64, (40, 8900), 1, 0, 0, 9216),
    "small pages": Case(8, 2, 64, (16, 300, 1200), 11, 0, 100, 2048, 16),
}
OF_DTYPE = {"bfloat16": tuple(CASES), "float16": ("a token, grouped heads", "ten candidates"),
            "float32": ("a token, grouped heads", "ten candidates")}  # fmt: skip
CHUNKS = {  # rows, heads, groups, size, keys before, queries, window
    "a prompt": (2, 32, 32, 128, 0, 300, 0),
    "a later chunk, grouped heads": (3, 32, 8, 128, 700, 200, 0),
    "a window": (2, 16, 4, 64, 500, 130, 128),
}
REFERENCES = ((4, 4, 0, 7, 0), (8, 2, 20, 5, 0), (6, 1, 9, 8, 4))  # the same, without rows and size
VOCABULARIES = (1000, 32000, 128256)


def in_pages(
    caches: Sequence[Tensor], ends: Sequence[int], most: int, page: int, seed: int = PAGE_SEED
) -> list[Tensor]:
    """Pools of keys and values with their pages in no order, and the tables of rows.

    Where there is no key of a row, there is no number.

    Args:
        caches: of keys and of values, ``(n, L, groups, size)``.
        ends: keys of each row.
        most: the width of the tables.
        page: keys of a page.
    """
    import torch

    needed = [-(-end // page) for end in ends]
    generator = torch.Generator().manual_seed(seed)
    numbers = 1 + torch.randperm(sum(needed), generator=generator)
    tables = torch.zeros(len(ends), most, dtype=torch.int32)
    pages = sum(needed) + 2, page
    pools = [cache.new_full((*pages, *cache.shape[2:]), torch.nan) for cache in caches]
    for row, end in enumerate(ends):
        own, at = numbers[sum(needed[:row]) :][: needed[row]], torch.arange(end)
        tables[row, : needed[row]] = own
        for pool, cache in zip(pools, caches, strict=True):
            pool[own[at // page], at % page] = cache[row, :end]
    return [*(pool.transpose(1, 2) for pool in pools), tables]


def arguments_of(
    case: Case, dtype: torch.dtype, device: str, seed: int = PAGE_SEED
) -> list[Tensor]:
    """What ``live_attention`` is called with: query, key, value, tables, and where queries are."""
    import torch

    rows, ahead = len(case.ends), torch.arange(case.queries)
    end = torch.tensor(case.ends)[:, None]
    if case.tokens:
        places = [end + ahead % case.tokens, end + ahead, end.expand(rows, case.queries)]
    else:
        places = [end - case.queries + ahead] * 3
    generator = torch.Generator().manual_seed(case.size + case.capacity)
    query = torch.randn(rows, case.queries, case.heads, case.size, generator=generator)
    live = (places[1].amax(dim=1) + 1).tolist()
    caches = torch.randn(2, rows, max(live), case.groups, case.size, generator=generator)
    *pools, tables = in_pages([*caches], live, case.capacity // case.page, case.page, seed)
    tensors = [each.to(device, dtype) for each in (query.transpose(1, 2), *pools)]
    return [*tensors, *(each.to(device) for each in (tables, *places))]


def deviation(found: Tensor, expected: Tensor) -> float:
    """How far two results are apart, as a share of the largest; infinite where NaN is."""
    apart = (found.float() - expected.float()).abs().amax() / expected.float().abs().amax()
    return float(apart.nan_to_num(nan=float("inf")))


def live(dtype: str, name: str, device: str = "cuda") -> Iterator[Finding]:
    """Attention of a few queries by live lengths, against the same by a mask."""
    import torch

    from ..models.kernels.live_attention import live_attention, masked_attention, why_not

    both: list[Callable[..., Tensor]] = [live_attention, masked_attention]
    case, kind = CASES[name], getattr(torch, dtype)
    if why := why_not(case.size, case.size, kind, _capability(device)):
        yield Finding(_live(dtype, name), NOTE, f"steps go by masks: {why}")
        return
    arguments = arguments_of(case, kind, device)
    attention, reference = (partial(each, window=case.window) for each in both)
    found = attention(*arguments)
    expected = reference(*(each.float() for each in arguments[:3]), *arguments[3:])
    yield _within(_live(dtype, name), deviation(found, expected), dtype)


def bits(device: str = "cuda") -> Iterator[Finding]:
    """Whether a row's attention is the same to the bit, alone, and in other and smaller pages."""
    import torch

    from ..models.kernels.live_attention import live_attention, why_not

    attention: Callable[..., Tensor] = live_attention
    case = CASES["a token, grouped heads"]
    if why := why_not(case.size, case.size, torch.bfloat16, _capability(device)):
        yield Finding("the same bits in any batch", MISSING, f"not checked: {why}")
        return
    arguments = arguments_of(case, torch.bfloat16, device)
    together = attention(*arguments)
    others = [case._replace(page=page) for page in (case.page, 16)]
    again = [attention(*arguments_of(other, torch.bfloat16, device, 0)) for other in others]
    different = []
    for row, end in enumerate(case.ends):
        one = slice(row, row + 1)
        query, tables, *places = (each[one] for each in (arguments[0], *arguments[3:]))
        tight = tables[:, : -(-end // case.page)]
        alone = attention(query, *arguments[1:3], tight, *places)[0]
        if not all(torch.equal(each, together[row]) for each in (alone, *(x[row] for x in again))):
            different.append(str(end))
    wrong = f"rows of {', '.join(different)} tokens give other bits alone or in other pages"
    message = wrong if different else "they are"
    state = BROKEN if different else OK
    yield Finding("the same bits in any batch", state, message)


def chunk(dtype: str, name: str, device: str = "cuda") -> Iterator[Finding]:
    """Attention of a chunk of prompts, against the same by a mask."""
    import torch

    from ..models.kernels.chunk_varlen import PAGE, varlen_chunk, why_not_varlen
    from ..models.kernels.live_attention import masked_attention

    rows, heads, groups, size, start, queries, window = CHUNKS[name]
    kind, title = getattr(torch, dtype), f"varlen_chunk {dtype}, {name}"
    if why := why_not_varlen(size, size, kind, _capability(device)):
        yield Finding(title, NOTE, f"prompts go by masks: {why}")
        return
    generator, length = torch.Generator().manual_seed(size + start), start + queries
    query = torch.randn(rows, heads, queries, size, generator=generator).to(device, kind)
    caches = torch.randn(2, rows, length, groups, size, generator=generator)
    key, value, tables = in_pages([*caches], [length] * rows, -(-length // PAGE) + 1, PAGE)
    key, value, tables = key.to(device, kind), value.to(device, kind), tables.to(device)
    found = varlen_chunk(query, key, value, tables, start, window)
    positions = torch.arange(start, length, device=device).expand(rows, queries)
    expected = masked_attention(
        query.float(), key.float(), value.float(), tables, positions, positions, None, window
    )
    yield _within(title, deviation(found, expected), dtype)


def sampled_tokens(vocabulary: int, device: str = "cuda") -> Iterator[Finding]:
    """Draws by the kernel, against torch's operations; a token may be another that is as good."""
    import torch

    from ..models.kernels.draw import draw
    from ..models.kernels.gpu import why_no_triton
    from ..models.kernels.noise import noisy

    title = f"draws of {vocabulary} tokens"
    if why := why_no_triton(_capability(device)):
        yield Finding(title, NOTE, f"torch's operations draw: {why}")
        return
    generator = torch.Generator().manual_seed(vocabulary)
    scores = (3 * torch.randn(8, vocabulary, generator=generator)).to(device)
    temperatures = torch.tensor([0, 0.2, 0.7, 1, 1.3, 2, 0, 1.0], device=device)
    keys = torch.randint(-(2**31), 2**31, (8, 2), generator=generator).to(device, torch.int32)
    steps = torch.arange(8, device=device) * 1000
    tokens, _ = draw(scores, temperatures, keys, steps)
    drawn_from = noisy(scores, temperatures, keys, steps)
    short = drawn_from.amax(dim=1) - drawn_from.gather(1, tokens[:, None])[:, 0]
    worst = float(short.max())
    message = f"{worst:.2g} below the best score with noise; at most {DRAWN:g}"
    yield Finding(title, OK if worst <= DRAWN else BROKEN, message, data={"below": worst})


def drawn_sums(vocabulary: int, device: str = "cuda") -> Iterator[Finding]:
    """Draws from a sum of two terms, through top-k and top-p, against sums and sorts of torch's.

    A token may be another that is as good.
    """
    import torch

    from ..models.kernels.drawing.draw_sum import TOP_K, TOP_P, draw_sum
    from ..models.kernels.gpu import why_no_triton
    from ..models.kernels.noise import noisy

    title = f"draws of {vocabulary} tokens from a sum, with stages"
    if why := why_no_triton(_capability(device)):
        yield Finding(title, NOTE, f"torch's operations draw: {why}")
        return
    generator = torch.Generator().manual_seed(vocabulary)
    logits = [(3 * torch.randn(8, vocabulary, generator=generator)).to(device) for _ in "xy"]
    rows, present = torch.arange(8, device=device), torch.ones(8, device=device) > 0
    weights = [torch.full((8, 1), each, device=device) for each in (1.0, -0.5)]
    k = torch.tensor([[1.0], [5], [40], [500], [3000], [vocabulary], [40], [vocabulary]])
    p = torch.tensor([[1.0], [0.9], [0.5], [0.95], [0.99], [0.7], [1], [1]])
    settings = (
        torch.tensor([0, 0.2, 0.7, 1, 1.3, 2, 0, 1.0], device=device),
        torch.randint(-(2**31), 2**31, (8, 2), generator=generator).to(device, torch.int32),
        torch.arange(8, device=device) * 1000,
    )
    results, _ = draw_sum(
        [logits[0].bfloat16(), logits[1]], [rows, rows], weights, [present, present], [], [], [],
        [TOP_K, TOP_P], [k.to(device), p.to(device)], *settings,
    )  # fmt: skip
    scores = logits[0].bfloat16().float() - 0.5 * logits[1]
    order = scores.argsort(dim=-1, descending=True)
    best = scores.gather(1, order)
    best = best.masked_fill(torch.arange(vocabulary, device=device) >= k.to(device), -torch.inf)
    shares = best.double().softmax(dim=-1)
    beyond = shares.cumsum(dim=-1) - shares >= p.to(device)
    left = torch.full_like(scores, -torch.inf)
    left.scatter_(1, order, best.masked_fill(beyond, -torch.inf))
    drawn_from = noisy(left, *settings)
    short = drawn_from.amax(dim=1) - drawn_from.gather(1, results[:1].T)[:, 0]
    worst, alarmed = float(short.max()), int(results[1].count_nonzero())
    message = f"{worst:.2g} below the best score with noise; at most {DRAWN:g}; {alarmed} alarms"
    good = worst <= DRAWN and not alarmed
    yield Finding(title, OK if good else BROKEN, message, data={"below": worst})


def reference() -> Iterator[Finding]:
    """What the kernels are held against, on a CPU, by transformers' own attention."""
    import torch
    from transformers.models.llama.modeling_llama import eager_attention_forward

    from ..models.kernels.live_attention import masked_attention

    worst = 0.0
    for heads, groups, start, queries, window in REFERENCES:
        length = start + queries
        layer = torch.nn.Module()
        layer.num_key_value_groups = heads // groups  # type: ignore[assignment]
        query = torch.randn(2, heads, queries, 16)
        key, value = torch.randn(2, 2, groups, length, 16)
        at, keys = torch.arange(start, length)[:, None], torch.arange(length)
        seen = (keys <= at) & (keys > at - (window or length + 1))
        mask = torch.zeros(queries, length).masked_fill(~seen, -torch.inf)
        expected, _ = eager_attention_forward(layer, query, key, value, mask, 0.25)
        positions = at.T.expand(2, queries)
        tables = torch.arange(2, dtype=torch.int32)[:, None]  # a page of each row
        found = masked_attention(query, key, value, tables, positions, positions, None, window)
        worst = max(worst, deviation(found, expected))
    yield _within("the reference, against transformers", worst, "float32")


def ahead_of_time() -> Iterator[Finding]:
    """Whether Triton compiles the kernels for GPUs that are not there."""
    from importlib.util import find_spec

    for capability, name in TARGETS.items():
        title = f"compiled for sm_{capability} ({name})"
        if find_spec("triton") is None:
            yield Finding(title, MISSING, "not checked: triton is not installed")
            continue
        from ..models.kernels.ahead_of_time import compiled

        with _no_cache():
            kernels = compiled(capability, (8, 32, 1, 128), 8, 4096)
        right = all(f".target sm_{capability}" in each.asm["ptx"] for each in kernels)
        shared = ", ".join(f"{each.metadata.shared:,}" for each in kernels)
        message = f"bytes of shared memory per thread block: {shared}"
        yield Finding(title, OK if right else BROKEN, message if right else "for another GPU")


def _live(dtype: str, name: str) -> str:
    return f"live_attention {dtype}, {name}"


def _within(title: str, share: float, dtype: str) -> Finding:
    import torch

    from ..models.cache.live import TOLERANCE

    allowed = TOLERANCE[getattr(torch, dtype)]
    message = f"{share:.2g} of the largest output apart; at most {allowed:g}"
    return Finding(title, OK if share <= allowed else BROKEN, message, data={"apart": share})


def _capability(device: str) -> tuple[int, int] | None:
    import torch

    return torch.cuda.get_device_capability(device) if device.startswith("cuda") else None


@contextmanager
def _no_cache() -> Iterator[None]:
    """Triton compiles anew, and leaves nothing behind."""
    name = "TRITON_CACHE_DIR"
    before = os.environ.get(name)
    with TemporaryDirectory() as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
