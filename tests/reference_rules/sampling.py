"""Stages as transformers has them, by its own logits processors; and as others do, by loops."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set

import torch
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

PROCESSORS: dict[str, type[LogitsProcessor]] = {
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "temperature": TemperatureLogitsWarper,
    "repetition_penalty": RepetitionPenaltyLogitsProcessor,
    "typical_p": TypicalLogitsWarper,
    "epsilon_cutoff": EpsilonLogitsWarper,
    "eta_cutoff": EtaLogitsWarper,
    "no_repeat_ngram": NoRepeatNGramLogitsProcessor,
}
COUNTS = ("top_k", "no_repeat_ngram")
OFF = {"typical_p": 1, "epsilon_cutoff": 0, "eta_cutoff": 0, "no_repeat_ngram": 0}


def processed(chain: Sequence[tuple[str, float]], text: Sequence[int], scores: Tensor) -> Tensor:
    """``(V,)`` scores through the processors, minus infinity where a token is excluded."""
    ids, row = torch.tensor([list(text)]), scores[None].clone()
    for name, value in chain:
        if OFF.get(name) == value:  # transformers makes no processor then
            continue
        argument = int(value) if name in COUNTS else float(value)
        row = PROCESSORS[name](argument)(ids, row)
    return row[0]


def top_n_sigma(scores: Sequence[float], n: float) -> list[float]:
    """llama.cpp's ``llama_sampler_top_n_sigma_impl``."""
    kept = [score for score in scores if score != -math.inf]
    mean = math.fsum(kept) / len(kept)
    sigma = math.sqrt(math.fsum((score - mean) ** 2 for score in kept) / len(kept))
    return [score if score >= max(kept) - n * sigma or n <= 0 else -math.inf for score in scores]


def xtc(scores: Sequence[float], probability: float, threshold: float, coin: float) -> list[float]:
    """llama.cpp's ``llama_sample_xtc_apply``: the last of the sorted top choices stays."""
    if probability <= 0 or threshold > 0.5 or coin > probability:
        return [*scores]
    total = math.fsum(math.exp(score) for score in scores)
    order = sorted(range(len(scores)), key=lambda token: -scores[token])
    top = [token for token in order if math.exp(scores[token]) / total >= threshold]
    return [-math.inf if token in top[:-1] else score for token, score in enumerate(scores)]


def dry(
    scores: Sequence[float],
    text: Sequence[int],
    multiplier: float,
    base: float,
    allowed_length: int,
    breakers: Set[int] = frozenset(),
) -> list[float]:
    """The loop of DRY's author (text-generation-webui, ``DRYLogitsProcessor``)."""
    penalised, lengths = [*scores], dict[int, int]()
    if text[-1] in breakers:
        return penalised
    for i in range(len(text) - 1):
        if text[i] != text[-1] or text[i + 1] in breakers:
            continue
        length = 1
        while length < 50 and i - length >= 0:
            previous = text[-(length + 1)]
            if text[i - length] != previous or previous in breakers:
                break
            length += 1
        lengths[text[i + 1]] = max(lengths.get(text[i + 1], 0), length)
    for token, length in lengths.items():
        if length >= allowed_length:
            penalised[token] -= multiplier * base ** (length - allowed_length)
    return penalised
