"""A kernel that writes what the draw's kernels keep to themselves. It imports triton."""

from __future__ import annotations

import triton
import triton.language as tl

from descant.models.kernels.draw_kernel import gumbel, random_bits

BLOCK = 1024


@triton.jit
def write_noise(keys, steps, bits, noise, vocabulary, BLOCK: tl.constexpr = BLOCK):
    """Random bits and noise of a block of tokens."""
    row = tl.program_id(0)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + row * 2).to(tl.uint32, bitcast=True)
    keys_other = tl.load(keys + row * 2 + 1).to(tl.uint32, bitcast=True)
    step = tl.load(steps + row).to(tl.uint32)
    words = random_bits(token.to(tl.uint32, bitcast=True), key, keys_other, step)
    here = row * vocabulary + token
    tl.store(bits + here, words.to(tl.int32, bitcast=True), mask=token < vocabulary)
    tl.store(noise + here, gumbel(words), mask=token < vocabulary)
