"""Sums of terms, a part of a row's vocabulary per thread block: the Triton kernels.

The terms' logits are read once, in their own type, and added up in float32. What the host is told
of each row comes out of the same pass. This file imports triton; ``draw_sum`` chooses the shapes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..draw_kernel import gumbel, ordered, packed, random_bits


@triton.jit
def valued(order):
    """The number that ``ordered`` made whole."""
    return tl.where(order < 0, order ^ 0x7FFFFFFF, order).to(tl.float32, bitcast=True)


@triton.jit
def divided(scores, divisors, divisor_strides, row):
    """Scores divided by numbers of their row, one after the other."""
    for i in tl.static_range(len(divisors)):
        scores = tl.div_rn(scores, tl.load(divisors[i] + row * divisor_strides[i]))
    return scores


@triton.jit
def with_noise(scores, token, temperatures, keys, steps, row):
    """What the best token is drawn by."""
    temperature = tl.load(temperatures + row)
    if temperature > 0.0:
        key = tl.load(keys + row * 2).to(tl.uint32, bitcast=True)
        keys_other = tl.load(keys + row * 2 + 1).to(tl.uint32, bitcast=True)
        step = tl.load(steps + row).to(tl.uint32)
        bits = random_bits(token.to(tl.uint32, bitcast=True), key, keys_other, step)
        scores = tl.div_rn(scores, temperature) + gumbel(bits)
    return scores


@triton.jit
def partial_sums(
    logits, row_strides, rows, weights, weight_strides, shifts, shift_strides,
    divisors, divisor_strides, temperatures, keys, steps, work, highs, bests, values,
    work_stride, vocabulary, SUMS: tl.constexpr, STAGED: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """One part of a row: its sum, or the best of it; and the largest logit of each term.

    A token that any term with a weight excludes is excluded, whatever the sign. Of a weight of 0,
    nothing is added, whatever the logits are.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    parts = tl.num_programs(1)
    token = part * PART + tl.arange(0, PART)
    inside = token < vocabulary
    terms: tl.constexpr = len(logits) if SUMS else 0
    high_rows: tl.constexpr = terms + (1 if STAGED else 0)
    if SUMS:
        total = tl.zeros((PART,), tl.float32)
        excluded = tl.zeros((PART,), tl.float32)
        for i in tl.static_range(len(logits)):
            at = tl.load(rows[i] + row)
            weight = tl.load(weights[i] + row * weight_strides[i])
            logit = tl.load(logits[i] + at * row_strides[i] + token, mask=inside, other=0.0)
            logit = logit.to(tl.float32)
            high = tl.max(tl.where(inside, ordered(logit), -0x80000000), 0)
            tl.store(highs + (row * high_rows + i) * parts + part, high)
            hidden = logit == float("-inf")
            excluded += tl.where(hidden, tl.where(weight == 0.0, 0.0, float("-inf")), 0.0)
            if weight != 0.0:
                total += tl.where(hidden, 0.0, logit * weight)
        for i in tl.static_range(len(shifts)):
            total += tl.load(shifts[i] + row * shift_strides[i])
        total += excluded
    else:
        total = tl.load(logits[0] + row * row_strides[0] + token, mask=inside, other=0.0)
    total = divided(total, divisors, divisor_strides, row)
    if STAGED:
        tl.store(work + row * work_stride + token, total, mask=inside)
        high = tl.max(tl.where(inside, ordered(total), -0x80000000), 0)
        tl.store(highs + (row * high_rows + terms) * parts + part, high)
    else:
        noisy = with_noise(total, token, temperatures, keys, steps, row)
        pairs = packed(noisy, token, inside)
        best = tl.max(pairs, 0)
        tl.store(bests + row * parts + part, best)
        tl.store(values + row * parts + part, tl.sum(tl.where(pairs == best, total, 0.0), 0))


@triton.jit
def tell(
    token, score, row, highs, high_rows, parts, wrongs, presents, finished, steps, results, scores,
    n, SUMS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Write what was drawn, the alarm, and how many tokens the row has now.

    The alarm is 1 + the number of the first source that went wrong: the terms, or what is known
    already; then that a score is NaN, and that every token is excluded, where that is not the end.
    """
    sources: tl.constexpr = len(presents) if SUMS else len(wrongs)
    empty = score == float("-inf")
    for i in tl.static_range(len(finished)):
        empty = empty & (tl.load(finished[i] + row) == 0)
    alarm = tl.where(empty, sources + 2, 0)
    alarm = tl.where(score != score, sources + 1, alarm)
    part = tl.arange(0, PARTS)
    for source in tl.static_range(sources - 1, -1, -1):
        if SUMS:
            of_term = highs + (row * high_rows + source) * parts
            high = tl.max(tl.load(of_term + part, mask=part < parts, other=-0x80000000), 0)
            wrong = (high >= 0x7F800000) | (high <= -0x7F800001)  # NaN, infinite; every one minus
            wrong = wrong & (tl.load(presents[source] + row) != 0)
        else:
            wrong = tl.load(wrongs[source] + row) != 0
        alarm = tl.where(wrong, source + 1, alarm)
    tl.store(results + row, token.to(tl.int64))
    tl.store(results + n + row, alarm.to(tl.int64))
    tl.store(results + 2 * n + row, tl.load(steps + row) + 1)
    tl.store(scores + row, score)


@triton.jit(do_not_specialize=["parts", "n"])
def merge_sums(
    bests, values, highs, wrongs, presents, finished, steps, results, scores, n, parts,
    SUMS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The best of a row's parts, and what the host is told."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS)
    inside = part < parts
    best = tl.load(bests + row * parts + part, mask=inside, other=-0x8000000000000000)
    highest = tl.max(best, 0)
    value = tl.load(values + row * parts + part, mask=inside, other=0.0)
    score = tl.sum(tl.where(inside & (best == highest), value, 0.0), 0)
    token = 0x7FFFFFFF - (highest & 0x7FFFFFFF)
    high_rows: tl.constexpr = len(presents) if SUMS else 0
    tell(
        token, score, row, highs, high_rows, parts, wrongs, presents, finished, steps, results,
        scores, n, SUMS, PARTS,
    )  # fmt: skip
