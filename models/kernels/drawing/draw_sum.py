"""The draw from a sum of terms: logits, weights, stages, noise, the best token and alarms.

Two launches; four, where stages keep only the best tokens. On CUDA alone: elsewhere the same is
done by torch's operations, by those who ask for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..gpu import Cost

TEMPERATURE, TOP_K, TOP_P, MIN_P = range(4)  # kinds of stages
PART = 1024  # tokens of a thread block, where nothing is kept
STAGED_PART = 2048  # the same with stages
BINS = 64  # of half a nat each
LIST = 2048  # tokens of the best bins


def draw_sum(
    logits: Sequence[Tensor],
    rows: Sequence[Tensor],
    weights: Sequence[Tensor],
    presents: Sequence[Tensor],
    shifts: Sequence[Tensor],
    wrongs: Sequence[Tensor],
    finished: Sequence[Tensor],
    kinds: Sequence[int],
    numbers: Sequence[Tensor],
    temperatures: Tensor,
    keys: Tensor,
    steps: Tensor,
) -> tuple[Tensor, Tensor]:
    """The best token of each row of a sum, the lowest id of those that tie.

    A sum is float32; a logit of minus infinity excludes its token, where its weight is not 0. With
    no weights, there is one term, and ``(n, V)`` scores are as they are.

    Args:
        logits: per term, ``(its rows, V)`` float32, bfloat16 or float16, rows of any stride.
        rows: per term, ``(n,)`` int64 which of its rows is read.
        weights: per term, ``(n, 1)`` float32.
        presents: per term, ``(n,)`` bool whether an alarm says that its logits are wrong.
        shifts: none, or ``(n, 1)`` float32 which is added.
        wrongs: without weights, what has gone wrong already, ``(n,)`` bool each.
        finished: none, or ``(n,)`` bool where it is no alarm that every token is excluded.
        kinds: of the stages: ``TEMPERATURE``, ``TOP_K``, ``TOP_P`` or ``MIN_P``.
        numbers: of the stages, ``(n, 1)`` float32 each.
        temperatures, keys, steps: as in ``draw``.

    Returns:
        ``(3, n)`` int64: tokens; alarms, 1 + the number of a term that has a logit that is NaN or
        infinite or no finite one, or of what went wrong already, then of NaN, then of no token
        that is left; and the steps after this one. And ``(n,)`` float32 the tokens' scores after
        the stages, without noise.
    """
    return _draw_sum(  # type: ignore[no-any-return]
        list(logits), list(rows), list(weights), list(presents), list(shifts), list(wrongs),
        list(finished), list(kinds), list(numbers), temperatures, keys, steps,
    )  # fmt: skip


def parts(vocabulary: int, staged: bool) -> int:
    """Thread blocks that share a row."""
    return -(-vocabulary // (STAGED_PART if staged else PART))


def keeps_best(kinds: Sequence[int]) -> bool:
    """Whether any stage excludes tokens."""
    return any(kind != TEMPERATURE for kind in kinds)


def cost(n: int, vocabulary: int, itemsizes: Sequence[int], kinds: Sequence[int]) -> Cost:
    """What a draw reads and writes, where lists are long enough.

    Args:
        n: rows.
        vocabulary: tokens of each.
        itemsizes: bytes of a logit, per term.
        kinds: of the stages.
    """
    staged, terms = keeps_best(kinds), len(itemsizes)
    count = parts(vocabulary, staged)
    logits, score = n * vocabulary * sum(itemsizes), n * vocabulary * 4
    settings = n * (4 + 2 * 4 + 8)
    highs = n * count * 4
    if not staged:
        blocks = n * count
        read = logits + count * settings + blocks * 12 + terms * highs
        return Cost(read, blocks * 12 + terms * highs + n * 28, 2, blocks + n)
    table = n * count * BINS * 4
    listed = n * LIST * 8
    read = logits + 2 * score + 2 * count * highs + count * table + (terms + 1) * highs
    read += listed + settings + n * count * 8
    written = score + (terms + 1) * highs + table + n * count * 8 + 2 * listed + n * (8 + 28)
    return Cost(read, written, 4, 3 * n * count + n)


def launch(
    logits: list[Tensor],
    rows: list[Tensor],
    weights: list[Tensor],
    presents: list[Tensor],
    shifts: list[Tensor],
    wrongs: list[Tensor],
    finished: list[Tensor],
    kinds: list[int],
    numbers: list[Tensor],
    temperatures: Tensor,
    keys: Tensor,
    steps: Tensor,
) -> tuple[Tensor, Tensor]:
    """The kernels on the current stream, without a wait; a graph can hold them."""
    from . import sum_kernel

    sums, staged = bool(weights), keeps_best(kinds)
    n, vocabulary = len(steps), logits[0].shape[1]
    device = logits[0].device
    part, count = STAGED_PART if staged else PART, parts(vocabulary, staged)
    logits = [each if each.stride(1) == 1 else each.contiguous() for each in logits]
    temperatures, keys, steps = (each.contiguous() for each in (temperatures, keys, steps))
    terms = len(weights)
    first = next((i for i, kind in enumerate(kinds) if kind != TEMPERATURE), len(kinds))
    end = len(kinds)
    while end > first and kinds[end - 1] == TEMPERATURE:
        end -= 1

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    results, scores = empty(3, n, dtype=torch.long), empty(n, dtype=torch.float32)
    highs = empty(n, terms + staged, count, dtype=torch.int32)
    stride = vocabulary + LIST
    work = empty(n, stride, dtype=torch.float32) if staged else scores
    bests = results if staged else empty(n, count, dtype=torch.long)
    values = scores if staged else empty(n, count, dtype=torch.float32)
    told = tuple(wrongs), tuple(presents), tuple(finished)
    padded = {"SUMS": sums, "PARTS": 1 << (count - 1).bit_length()}
    options = {"enable_fp_fusion": False}
    guard: Any = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with guard:
        sum_kernel.partial_sums[n, count](
            tuple(logits), tuple(each.stride(0) for each in logits), tuple(rows),
            *_columns(weights), *_columns(shifts), *_columns(numbers[:first]),
            temperatures, keys, steps, work, highs, bests, values, stride, vocabulary,
            SUMS=sums, STAGED=staged, PART=part, num_warps=4, **options,
        )  # fmt: skip
        if not staged:
            sum_kernel.merge_sums[n,](
                bests, values, highs, *told, steps, results, scores, n, count,
                **padded, num_warps=4, **options,
            )  # fmt: skip
            return results, scores
        from . import stages_kernel

        counts = empty(n, count, BINS, dtype=torch.int32)
        masses = empty(n, count, dtype=torch.long)
        ids, sizes = empty(n, LIST, dtype=torch.int32), empty(n, 2, dtype=torch.int32)
        id_bits = max(1, vocabulary.bit_length())
        bits, high_rows = 61 - id_bits, terms + 1
        shapes = {"PARTS": padded["PARTS"], "BINS": BINS}
        stages_kernel.partial_counts[n, count](
            work, highs, counts, masses, stride, vocabulary, high_rows,
            **shapes, BITS=bits, PART=part, num_warps=4, **options,
        )  # fmt: skip
        stages_kernel.list_best[n, count](
            work, highs, counts, ids, sizes, stride, vocabulary, high_rows,
            **shapes, LIST=LIST, PART=part, num_warps=4, **options,
        )  # fmt: skip
        stages_kernel.finish[n,](
            work, ids, sizes, masses, highs, *_columns(numbers[first:end]),
            *_columns(numbers[end:]), temperatures, keys, steps, *told, results, scores,
            stride, vocabulary, high_rows, n, count,
            KINDS=sum(kind << 2 * i for i, kind in enumerate(kinds[first:end])), **shapes,
            SUMS=sums, BITS=bits, ID_BITS=id_bits, LIST=LIST, BLOCK=LIST, num_warps=8, **options,
        )  # fmt: skip
    return results, scores


def _columns(numbers: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Columns of numbers, and how far apart those of two rows are."""
    return tuple(numbers), tuple(each.stride(0) for each in numbers)


_draw_sum = torch.library.custom_op(
    "descant::draw_sum", launch, mutates_args=(), device_types="cuda"
)


@_draw_sum.register_fake
def _result(
    logits: list[Tensor], *others: Any
) -> tuple[Tensor, Tensor]:  # of the shape of the steps
    steps = others[-1]
    return steps.new_empty(3, len(steps)), steps.new_empty(len(steps), dtype=torch.float32)
