"""The best token of each row, with noise where the row samples: the Triton kernels.

One launch finds the best of each part of a row's vocabulary, and a second the best of those. A
score and its token are one number of 64 bits: the largest is the best score, and the lowest id
among its equals. The noise is that of ``noise``, bit for bit before its logarithms. Those are of
full precision, for what wins has the noise of a number next to 1.

This file imports triton. ``draw`` chooses the shapes, and imports it when it launches.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scrambled(x):
    """murmur3's finaliser of 32-bit words without a sign."""
    x ^= x >> 16
    x *= 0x85EBCA6B
    x ^= x >> 13
    x *= 0xC2B2AE35
    return x ^ (x >> 16)


@triton.jit
def random_bits(tokens, key, keys_other, step):
    """23 random bits for each token; all are 32-bit words without a sign."""
    first = scrambled(key ^ scrambled(step + keys_other))
    return scrambled(scrambled(scrambled(tokens) ^ first) + keys_other) >> 9


@triton.jit
def gumbel(bits):
    """Standard Gumbel noise from 23 random bits."""
    uniform = (bits.to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -tl.log(-tl.log(uniform))


@triton.jit
def ordered(scores):
    """The scores as whole numbers in their order: NaN is the largest, zeros are equal."""
    scores = tl.where(scores == 0.0, 0.0, scores)
    bits = scores.to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(scores != scores, 0x7FFFFFFF, order)


@triton.jit
def packed(scores, tokens, inside):
    """The scores in their order as whole numbers, with the tokens in the low bits."""
    order = tl.where(inside, ordered(scores), -0x80000000)  # which nothing else is
    return (order.to(tl.int64) << 32) | (0x7FFFFFFF - tokens).to(tl.int64)


@triton.jit
def partial_best(
    scores, temperatures, keys, steps, bests, row_stride, vocabulary, PART: tl.constexpr
):
    """The best of one part of a row's vocabulary."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    token = part * PART + tl.arange(0, PART)
    inside = token < vocabulary
    score = tl.load(scores + row * row_stride + token, mask=inside, other=0.0)
    temperature = tl.load(temperatures + row)
    key = tl.load(keys + row * 2).to(tl.uint32, bitcast=True)
    keys_other = tl.load(keys + row * 2 + 1).to(tl.uint32, bitcast=True)
    step = tl.load(steps + row).to(tl.uint32)
    if temperature > 0.0:
        bits = random_bits(token.to(tl.uint32, bitcast=True), key, keys_other, step)
        score = tl.div_rn(score, temperature) + gumbel(bits)
    best = tl.max(packed(score, token, inside), 0)
    tl.store(bests + row * tl.num_programs(1) + part, best)


@triton.jit(do_not_specialize=["parts"])
def merge_bests(scores, bests, tokens, drawn, row_stride, parts, PARTS: tl.constexpr):
    """The best of a row's parts, and its score without noise."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS)
    best = tl.load(bests + row * parts + part, mask=part < parts, other=-0x8000000000000000)
    token = 0x7FFFFFFF - (tl.max(best, 0) & 0x7FFFFFFF)
    tl.store(tokens + row, token)
    tl.store(drawn + row, tl.load(scores + row * row_stride + token))
