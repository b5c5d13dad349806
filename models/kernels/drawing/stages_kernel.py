"""Stages that keep the best tokens, by thresholds and without sorting: the Triton kernels.

Tokens are counted by how far they are below the best, in bins of half a nat. The best bins that a
list has room for go into the list, and one thread block of each row works on it: it finds
thresholds bit by bit, by counting, or by adding up probabilities as whole numbers, so that no order
matters. Where a list is too short for a row's first stage, its scores are gone through instead.

This file imports triton; ``draw_sum`` chooses the shapes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..draw_kernel import ordered, packed
from .sum_kernel import divided, tell, valued, with_noise

PER_NAT = tl.constexpr(2.0)
TEMPERATURE = tl.constexpr(0)
TOP_K = tl.constexpr(1)
TOP_P = tl.constexpr(2)
MIN_P = tl.constexpr(3)


@triton.jit
def bins_of(scores, highest, BINS: tl.constexpr):
    """How far scores are below the highest; what is farther than all bins is in the last."""
    far = (highest - scores) * PER_NAT
    return tl.where(far < BINS - 1, far, BINS - 1).to(tl.int32)


@triton.jit
def masses_of(scores, highest, BITS: tl.constexpr):
    """Probabilities as whole numbers: ``2**BITS`` for the highest."""
    share = tl.exp(scores - highest)
    return (tl.where(share == share, share, 0.0) * (1 << BITS)).to(tl.int64)


@triton.jit
def highest_of(highs, row, high_rows, parts, PARTS: tl.constexpr):
    part = tl.arange(0, PARTS)
    of_row = highs + (row * high_rows + high_rows - 1) * parts
    return tl.max(tl.load(of_row + part, mask=part < parts, other=-0x80000000), 0)


@triton.jit(do_not_specialize=["high_rows"])
def partial_counts(
    work, highs, counts, masses, work_stride, vocabulary, high_rows,
    PARTS: tl.constexpr, BINS: tl.constexpr, BITS: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """How many tokens of a part are in each bin, and their probabilities together."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    parts = tl.num_programs(1)
    highest = valued(highest_of(highs, row, high_rows, parts, PARTS))
    token = part * PART + tl.arange(0, PART)
    inside = token < vocabulary
    score = tl.load(work + row * work_stride + token, mask=inside, other=float("-inf"))
    here = row * parts + part
    counted = tl.histogram(bins_of(score, highest, BINS), BINS)
    tl.store(counts + here * BINS + tl.arange(0, BINS), counted)
    mass = tl.where(inside, masses_of(score, highest, BITS), 0)
    tl.store(masses + here, tl.sum(mass, 0))


@triton.jit(do_not_specialize=["high_rows"])
def list_best(
    work, highs, counts, ids, sizes, work_stride, vocabulary, high_rows,
    PARTS: tl.constexpr, BINS: tl.constexpr, LIST: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Write a part's tokens of the best bins into the row's list, behind those before it."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    parts = tl.num_programs(1)
    other = tl.arange(0, PARTS)
    bin = tl.arange(0, BINS)
    where = (row * parts + other[:, None]) * BINS + bin[None, :]
    table = tl.load(counts + where, mask=(other < parts)[:, None], other=0)
    fits = (tl.cumsum(tl.sum(table, 0), 0) <= LIST) & (bin < BINS - 1)
    cut = tl.sum(fits.to(tl.int32), 0)  # bins
    listed = tl.where((bin < cut)[None, :], table, 0)
    before = tl.sum(tl.sum(tl.where((other < part)[:, None], listed, 0), 1), 0)
    highest = valued(highest_of(highs, row, high_rows, parts, PARTS))
    token = part * PART + tl.arange(0, PART)
    inside = token < vocabulary
    score = tl.load(work + row * work_stride + token, mask=inside, other=float("-inf"))
    chosen = inside & (bins_of(score, highest, BINS) < cut)
    place = before + tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(work + row * work_stride + vocabulary + place, score, mask=chosen)
    tl.store(ids + row * LIST + place, token, mask=chosen)
    if part == 0:
        tl.store(sizes + row * 2, tl.sum(tl.sum(listed, 1), 0))
        tl.store(sizes + row * 2 + 1, cut)


@triton.jit
def orders_of(base, at, count):
    """Some scores as whole numbers in their order; those beyond the end are the lowest."""
    score = tl.load(base + at, mask=at < count, other=0.0)
    return tl.where(at < count, ordered(score), -0x80000000)


@triton.jit
def kth_order(base, count, k, BLOCK: tl.constexpr):
    """The order of the k-th highest score, or the lowest if there are fewer; bit by bit."""
    found = tl.full((), 0, tl.int64)
    for bit in range(32):
        candidate = found | (tl.full((), 1, tl.int64) << (31 - bit))
        least = (candidate - 0x80000000).to(tl.int32)
        many = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, count, BLOCK):
            at = start + tl.arange(0, BLOCK)
            order = orders_of(base, at, count)
            many += ((at < count) & (order >= least)).to(tl.int32)
        found = tl.where(tl.sum(many, 0) >= k, candidate, found)
    return (found - 0x80000000).to(tl.int32)


@triton.jit
def mass_below(base, count, least, highest, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """The probabilities of scores below one, by its order, together."""
    mass = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        order = orders_of(base, at, count)
        own = masses_of(valued(order), highest, BITS)
        mass += tl.where((at < count) & (order < least), own, 0)
    return tl.sum(mass, 0)


@triton.jit
def cut_order(base, count, outside, limit, highest, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """The highest order below which probabilities are within the limit; bit by bit."""
    found = tl.full((), 0, tl.int64)
    for bit in range(32):
        candidate = found | (tl.full((), 1, tl.int64) << (31 - bit))
        least = (candidate - 0x80000000).to(tl.int32)
        below = outside + mass_below(base, count, least, highest, BITS, BLOCK)
        found = tl.where(below <= limit, candidate, found)
    return (found - 0x80000000).to(tl.int32)


@triton.jit
def ties(base, ids, count, order, before, listed, BLOCK: tl.constexpr):
    """How many scores of this order have ids below one."""
    many = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        id = ids_of(ids, at, listed)
        same = (at < count) & (orders_of(base, at, count) == order)
        many += (same & (id < before)).to(tl.int32)
    return tl.sum(many, 0)


@triton.jit
def ids_of(ids, at, listed):
    """The tokens at some places: of a list of so many, or, where there is none, of all scores."""
    return tl.where(at < listed, tl.load(ids + at, mask=at < listed, other=0), at)


@triton.jit
def keep(base, ids, count, least, last, listed, BLOCK: tl.constexpr):
    """Exclude what is below an order, and of its equals those with higher ids than the last."""
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        order = orders_of(base, at, count)
        id = ids_of(ids, at, listed)
        low = (order < least) | ((order == least) & (id > last))
        tl.store(base + at, float("-inf"), mask=(at < count) & low)
    tl.debug_barrier()


@triton.jit
def divide(base, count, divisor, BLOCK: tl.constexpr):
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        score = tl.load(base + at, mask=at < count, other=0.0)
        tl.store(base + at, tl.div_rn(score, divisor), mask=at < count)
    tl.debug_barrier()


@triton.jit
def limit_of(p, total):
    """What the excluded tokens may have together of a mass, where those kept are to have p."""
    limit = ((1.0 - p).to(tl.float64) * total.to(tl.float64)).to(tl.int64)
    return tl.minimum(limit, total - 1)


@triton.jit(do_not_specialize=["high_rows", "n", "parts"])
def finish(
    work, ids, sizes, masses, highs, numbers, number_strides, divisors, divisor_strides,
    temperatures, keys, steps, wrongs, presents, finished, results, scores,
    work_stride, vocabulary, high_rows, n, parts,
    KINDS: tl.constexpr, SUMS: tl.constexpr, PARTS: tl.constexpr, BINS: tl.constexpr,
    BITS: tl.constexpr, ID_BITS: tl.constexpr, LIST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A row's stages, the draw, and what the host is told.

    ``KINDS`` has two bits for each stage, the first in the lowest. The first that excludes anything
    decides whether the list is enough; from then on, all that is left is in it.
    """
    row = tl.program_id(0).to(tl.int64)
    top_order = highest_of(highs, row, high_rows, parts, PARTS)
    highest = valued(top_order)
    sound = (top_order < 0x7F800000) & (top_order > -0x7F800001)  # else nothing more is excluded
    size = tl.load(sizes + row * 2)
    cut = tl.load(sizes + row * 2 + 1)
    ids += row * LIST
    base = work + row * work_stride
    part = tl.arange(0, PARTS)
    total = tl.sum(tl.load(masses + row * parts + part, mask=part < parts, other=0), 0)
    enough = tl.full((), False, tl.int1)
    undecided = sound
    for i in tl.static_range(len(numbers)):
        x = tl.load(numbers[i] + row * number_strides[i])
        if (KINDS >> (2 * i)) & 3 == TEMPERATURE:
            undecided = undecided & False
        elif (KINDS >> (2 * i)) & 3 == TOP_K:
            enough = enough | (undecided & (x <= size))
            undecided = undecided & (x >= vocabulary)
        elif (KINDS >> (2 * i)) & 3 == TOP_P:
            if undecided & (x < 1.0):
                listed_mass = mass_below(
                    base + vocabulary, size, 0x7FFFFFFF, highest, BITS, BLOCK
                )  # fmt: skip
                enough = enough | (total - listed_mass <= limit_of(x, total))
            undecided = undecided & (x >= 1.0)
        else:
            lowest = highest + tl.log(x)
            enough = enough | (undecided & (x > 0.0) & (bins_of(lowest, highest, BINS) < cut))
            undecided = undecided & (x == 0.0)
    count, listed = tl.where(enough, size, vocabulary), tl.where(enough, size, 0)
    base += tl.where(enough, vocabulary, 0)
    unlisted = enough  # whether some tokens that are left are not in the list

    for i in tl.static_range(len(numbers)):
        x = tl.load(numbers[i] + row * number_strides[i])
        if (KINDS >> (2 * i)) & 3 == TEMPERATURE:
            divide(base, count, x, BLOCK)
            highest = tl.div_rn(highest, x)
        elif (KINDS >> (2 * i)) & 3 == TOP_K:
            if sound & (x < vocabulary):
                least = kth_order(base, count, x.to(tl.int32), BLOCK)
                keep(base, ids, count, least, 0x7FFFFFFF, listed, BLOCK)
                unlisted = unlisted & False
        elif (KINDS >> (2 * i)) & 3 == TOP_P:
            if sound & (x < 1.0):
                here = mass_below(base, count, 0x7FFFFFFF, highest, BITS, BLOCK)
                outside = tl.where(unlisted, total - here, 0)
                limit = limit_of(x, outside + here)
                least = cut_order(base, count, outside, limit, highest, BITS, BLOCK)
                own = masses_of(valued(least), highest, BITS)
                below = outside + mass_below(base, count, least, highest, BITS, BLOCK)
                left_out = ((limit - below) // tl.maximum(own, 1)).to(tl.int32)
                last = tl.full((), 0x7FFFFFFF, tl.int32)
                if left_out > 0:
                    tied = ties(base, ids, count, least, 0x7FFFFFFF, listed, BLOCK)
                    last = tl.full((), 0, tl.int32)
                    for bit in range(ID_BITS):
                        candidate = last | (1 << (ID_BITS - 1 - bit))
                        before = ties(base, ids, count, least, candidate, listed, BLOCK)
                        last = tl.where(before < tied - left_out, candidate, last)
                keep(base, ids, count, least, last, listed, BLOCK)
                unlisted = unlisted & False
        else:
            if sound & (x > 0.0):
                keep(base, ids, count, ordered(highest + tl.log(x)), 0x7FFFFFFF, listed, BLOCK)
                unlisted = unlisted & False

    best = tl.full((), -0x8000000000000000, tl.int64)
    score = tl.full((), 0.0, tl.float32)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        token = ids_of(ids, at, listed)
        value = tl.load(base + at, mask=at < count, other=0.0)
        value = divided(value, divisors, divisor_strides, row)
        noisy = with_noise(value, token, temperatures, keys, steps, row)
        pairs = packed(noisy, token, at < count)
        own_best = tl.max(pairs, 0)
        own_score = tl.sum(tl.where(pairs == own_best, value, 0.0), 0)
        score = tl.where(own_best > best, own_score, score)
        best = tl.maximum(best, own_best)
    drawn = 0x7FFFFFFF - (best & 0x7FFFFFFF)
    tell(
        drawn, score, row, highs, high_rows, parts, wrongs, presents, finished, steps, results,
        scores, n, SUMS, PARTS,
    )  # fmt: skip
