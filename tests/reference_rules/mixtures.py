"""Rules on probabilities: ensembles, two vocabularies, MOD under forward KL, SafeDecoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .plain import logprobs

Text = Sequence[int]


def ensemble(models: Sequence[Any], weights: Sequence[float], text: Text) -> Tensor:
    """log sum_i w_i p_i, in double precision."""
    pairs = zip(models, weights, strict=True)
    return sum(w * logprobs(model, text).double().exp() for model, w in pairs).log().float()


def mod_forward(models: Sequence[Any], weights: Sequence[float], text: Text) -> Tensor:
    """MOD under forward KL, Shi et al. 2024: the harmonic mean, -logsumexp(-lp_i + log w_i)."""
    parts = [
        -logprobs(model, text).double() + torch.tensor(weight).double().log()
        for model, weight in zip(models, weights, strict=True)
    ]
    return -torch.stack(parts).logsumexp(0).float()


def power_mean(models: Sequence[Any], weights: Sequence[float], text: Text, p: float) -> Tensor:
    """log (sum_i w_i p_i^p)^(1/p), and the weighted geometric mean where p is 0."""
    probs = [logprobs(model, text).double().exp() for model in models]
    if p == 0:
        logs = sum(w * one.log() for w, one in zip(weights, probs, strict=True))
        return (logs / sum(weights)).float()
    return (sum(w * one**p for w, one in zip(weights, probs, strict=True)).log() / p).float()


def safe_decoding(
    base: Any, expert: Any, text: Text, step: int, first: int, weights: Sequence[float]
) -> Tensor:
    """Xu et al. 2024: the mixture for the first few tokens, and then the base alone."""
    if step < first:
        return ensemble([base, expert], weights, text)
    return logprobs(base, text)


def two_vocabularies(
    voices: Sequence[tuple[Any, Mapping[str, int], Text]], weights: Sequence[float]
) -> Tensor:
    """GaC, Yu et al. 2024: the mean probability of each token string, 0 where a model has none.

    Each voice is a model, its tokens and their ids, and what it has read. Scores are by the first
    one's ids; a string that another has neither as one token nor by its bytes is excluded, for it
    could not be read.
    """
    mean: dict[str, Tensor] = {}
    for (model, ids, text), weight in zip(voices, weights, strict=True):
        said = logprobs(model, text).double().exp()
        for string, number in ids.items():
            mean[string] = mean.get(string, torch.zeros(())) + weight * said[number]
    scores = torch.full((len(voices[0][1]),), -torch.inf, dtype=torch.double)
    for string, number in voices[0][1].items():
        if all(string in ids or set(string) <= set(ids) for _, ids, _ in voices):
            scores[number] = mean[string].log()
    return scores.float()
