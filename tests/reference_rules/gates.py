"""Rules that look at the distributions first, and choose or weigh by what they see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .plain import logits, logprobs

Text = Sequence[int]


def entropy_gate(base: Any, arm: Any, text: Text, threshold: float, a: float) -> Tensor:
    """Guidance where the base is unsure: lp + a lp_arm if its entropy is above the threshold."""
    lp = logprobs(base, text)
    entropy = -sum(math.exp(x) * x for x in lp.tolist() if x > -100)
    return lp + a * logprobs(arm, text) if entropy > threshold else lp


def nudging(base: Any, nudger: Any, text: Text, threshold: float) -> Tensor:
    """Fei et al. 2024: another model's token where the base's best one is not probable enough."""
    lp = logprobs(base, text)
    return logprobs(nudger, text) if math.exp(lp.max().item()) < threshold else lp


def adacad(base: Any, text: Text, alone: Text) -> Tensor:
    """Wang et al. 2025: context-aware decoding, as strong as the context changes what is said.

    z(context, x) + alpha (z(context, x) - z(x)), alpha the Jensen-Shannon divergence of the two.
    """
    with_context, without = logits(base, text), logits(base, alone)
    alpha = jensen_shannon(with_context, without)
    return with_context + alpha * (with_context - without)


def fading(base: Any, arm: Any, text: Text, step: int, by: float) -> Tensor:
    """Guidance that fades: lp + by^step lp_arm."""
    return logprobs(base, text) + by**step * logprobs(arm, text)


def entropy_scaled(base: Any, arm: Any, text: Text, a: float) -> Tensor:
    """Guidance in proportion to how unsure the base is: lp + a H(base) lp_arm."""
    lp = logprobs(base, text)
    return lp + a * shannon(lp) * logprobs(arm, text)


def entropy_temperature(base: Any, text: Text, least: float, by: float) -> Tensor:
    """A temperature set by the entropy: lp / (least + by H(base))."""
    lp = logprobs(base, text)
    return lp / (least + by * shannon(lp))


def shannon(lp: Tensor) -> float:
    return -sum(math.exp(x) * x for x in lp.double().tolist() if x > -700)


def jensen_shannon(one: Tensor, two: Tensor) -> float:
    p, q = one.double().softmax(-1), two.double().softmax(-1)
    mean = (p + q) / 2
    return float((p * (p / mean).log()).sum() + (q * (q / mean).log()).sum()) / 2
