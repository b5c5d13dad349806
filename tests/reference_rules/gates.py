"""Rules that look at the base's own distribution first: the entropy gate of SIA, and nudging."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .plain import logprobs

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
