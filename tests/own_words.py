"""Words of one's own, as ``--import own_words`` finds them: operators and a stage."""

from __future__ import annotations

from typing import Any

import torch

import descant


@descant.operator
def contrast(x: descant.Scores, y: descant.Scores, strength=1.0):
    """What x likes more than y does."""
    return x + strength * (x - y)


@descant.operator(state=lambda: torch.zeros(()))
def swaying(x: descant.Scores, y: descant.Scores, by=1.0, *, state: Any):
    """y, as much as how sure x was so far says."""
    certain = x.amax(dim=-1).exp()
    return x + by * torch.sin(9 * (state[:, None] + certain[:, None])) * y, state + certain


@descant.stage
def sharpened(scores, power=2.0):
    """Multiplies the scores by power."""
    return scores * power
