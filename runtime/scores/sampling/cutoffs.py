"""Cutoffs by the shape of a distribution: ``(rows, V)`` scores, and a number for each row.

What is masked is minus infinity. Tokens that were masked before have no probability, and stay so.
"""

from __future__ import annotations

import torch
from torch import Tensor


def typical(scores: Tensor, mass: Tensor) -> Tensor:
    """Keeps the tokens whose surprise is nearest to the entropy, until they have so much mass.

    Meister et al. 2022; transformers' TypicalLogitsWarper. ``mass`` is ``(rows, 1)``; at 1 or above
    every token is kept.
    """
    logprobs = scores.log_softmax(dim=-1)
    distance = (-logprobs - entropy(logprobs)).abs()
    order, tokens = distance.sort(dim=-1)
    reached = logprobs.gather(1, tokens).exp().cumsum(dim=-1)
    last = (reached < mass).sum(dim=-1, keepdim=True).clamp_(max=scores.shape[-1] - 1)
    cut = (distance > order.gather(1, last)) & (mass < 1)
    return scores.masked_fill(cut, -torch.inf)


def epsilon(scores: Tensor, least: Tensor) -> Tensor:
    """Masks what is less probable than ``least``, ``(rows, 1)``, but for the best token.

    Hewitt et al. 2022; transformers' EpsilonLogitsWarper.
    """
    low = scores.softmax(dim=-1) < least
    return scores.masked_fill(low & (scores < scores.amax(dim=-1, keepdim=True)), -torch.inf)


def eta(scores: Tensor, least: Tensor) -> Tensor:
    """The same with ``min(least, sqrt(least)*exp(-entropy))``; transformers' EtaLogitsWarper."""
    surprise = entropy(scores.log_softmax(dim=-1))
    return epsilon(scores, torch.minimum(least, least.sqrt() * (-surprise).exp()))


def top_n_sigma(scores: Tensor, n: Tensor) -> Tensor:
    """Keeps scores within ``n``, ``(rows, 1)``, standard deviations of the best; 0 keeps all.

    Tang et al. 2024, as llama.cpp has it: the deviation is the population's, of the tokens that are
    not masked.
    """
    kept = scores != -torch.inf
    count = kept.sum(dim=-1, keepdim=True).clamp_(min=1)
    best = scores.amax(dim=-1, keepdim=True)
    below = torch.where(kept, scores - best, 0.0)  # so that large scores lose no digits
    deviation = torch.where(kept, below - below.sum(dim=-1, keepdim=True) / count, 0.0)
    sigma = (deviation.square().sum(dim=-1, keepdim=True) / count).sqrt()
    return scores.masked_fill((below < -n * sigma) & (n > 0), -torch.inf)


def without_top_choices(scores: Tensor, threshold: Tensor) -> Tensor:
    """Masks all tokens of at least ``threshold``, ``(rows, 1)``, but for the least probable.

    XTC, as llama.cpp has it. Those that tie for the least probable are kept.
    """
    probabilities = scores.softmax(dim=-1)
    above = probabilities >= threshold
    least = torch.where(above, probabilities, torch.inf).amin(dim=-1, keepdim=True)
    return scores.masked_fill(above & (probabilities > least), -torch.inf)


def xtc(scores: Tensor, probability: Tensor, threshold: Tensor, coins: Tensor | None) -> Tensor:
    """Excludes the top choices of rows whose coin is at most ``probability``.

    Args:
        scores: ``(rows, V)``.
        probability, threshold: ``(rows, 1)``.
        coins: ``(rows, 1)`` above 0 and below 1; None where nothing is drawn: then the scores are
            those of the mixture of both outcomes, by their probability.
    """
    cut = without_top_choices(scores, threshold)
    if coins is not None:
        return torch.where(coins <= probability, cut, scores)
    total = scores.logsumexp(dim=-1, keepdim=True)
    cut_logprobs = cut.log_softmax(dim=-1) + probability.log()
    mixed = torch.logaddexp(scores - total + torch.log1p(-probability), cut_logprobs) + total
    return torch.where(probability > 0, mixed, scores)


def entropy(logprobs: Tensor) -> Tensor:
    """``(rows, 1)``, in natural logarithms, of log-probabilities."""
    return -(logprobs.exp() * logprobs).nansum(dim=-1, keepdim=True)
