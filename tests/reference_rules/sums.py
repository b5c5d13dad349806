"""Rules that are sums: of log-probabilities, or of raw logits, which differ by a constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .plain import logits, logprobs

Text = Sequence[int]


def proxy_tuning(base: Any, expert: Any, anti: Any, text: Text, a: float) -> Tensor:
    """Liu et al. 2024; emulated fine-tuning, Mitchell et al. 2024: z_b + a (z_e - z_a)."""
    return logits(base, text) + a * (logits(expert, text) - logits(anti, text))


def emulated_disalignment(base: Any, tuned: Any, ref: Any, text: Text, a: float) -> Tensor:
    """Zhou et al. 2024: proxy tuning away from the tuned model."""
    return logits(base, text) - a * (logits(tuned, text) - logits(ref, text))


def context_aware(model: Any, with_context: Text, without: Text, alpha: float) -> Tensor:
    """Shi et al. 2024: (1 + alpha) z(context, x) - alpha z(x)."""
    return (1 + alpha) * logits(model, with_context) - alpha * logits(model, without)


def classifier_free_guidance(model: Any, conditional: Text, negative: Text, gamma: float) -> Tensor:
    """Sanchez et al. 2023: gamma (s - u) + u, over log-probabilities."""
    s, u = logprobs(model, conditional), logprobs(model, negative)
    return gamma * (s - u) + u


def realignment(ref: Any, aligned: Any, text: Text, strength: float) -> Tensor:
    """DeRa, Liu et al. 2024: (1 - l) z_ref + l z_aligned."""
    return (1 - strength) * logits(ref, text) + strength * logits(aligned, text)


def mod_reverse(models: Sequence[Any], weights: Sequence[float], text: Text) -> Tensor:
    """MOD under reverse KL, Shi et al. 2024: the product of the policies to their weights."""
    total = weights[0] * logprobs(models[0], text)
    for model, weight in zip(models[1:], weights[1:], strict=True):
        total = total + weight * logprobs(model, text)
    return total
