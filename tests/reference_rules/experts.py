"""Rules with a mask from one model: DExperts, contrastive decoding and DoLa."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .plain import logits, logprobs

Text = Sequence[int]
NEVER = -math.inf


def dexperts(base: Any, expert: Any, anti: Any, text: Text, p: float, a: float) -> Tensor:
    """Liu et al. 2021: the base's nucleus, and then z_b + a (z_e - z_a)."""
    z, lp = logits(base, text), logprobs(base, text)
    out = torch.full_like(z, NEVER)
    total, shift = 0.0, a * (logits(expert, text) - logits(anti, text))
    for token in torch.argsort(lp, descending=True).tolist():
        if total >= p:
            break
        total += math.exp(lp[token].item())
        out[token] = z[token] + shift[token]
    return out


def contrastive(
    expert: Any, amateur: Any, text: Text, alpha: float, c: float, tau: float
) -> Tensor:
    """Li et al. 2023: lp_e - c lp_am at temperature tau, where p_e >= alpha max p_e."""
    lp = logprobs(expert, text)
    other = torch.log_softmax(logits(amateur, text) / tau, -1)
    out = torch.full_like(lp, NEVER)
    for token, value in enumerate(lp.tolist()):
        if math.exp(value) >= alpha * math.exp(lp.max().item()):
            out[token] = value - c * other[token].item()
    return out


@torch.no_grad()
def dola(model: Any, text: Text, layer: int, alpha: float) -> Tensor:
    """Chuang et al. 2024: lp_N - lp_j where p_N >= alpha max p_N; j is early exit at a layer."""
    out = model(input_ids=torch.tensor([list(text)]), output_hidden_states=True, use_cache=False)
    early = model.lm_head(model.model.norm(out.hidden_states[layer + 1][0, -1]))
    lp, other = out.logits[0, -1].log_softmax(-1), early.log_softmax(-1)
    return torch.where(lp.exp() >= alpha * lp.exp().max(), lp - other, NEVER)
