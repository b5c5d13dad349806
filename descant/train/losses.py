"""The losses, as functions of tensors.

All three methods of learning from preferences are one loss on different rewards. Nothing here
knows of models, data or trainers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100


def sequence_log_probs(logits: Tensor, labels: Tensor, *, mean: bool = False) -> Tensor:
    """Return ``log π(y|x)`` of each row: the sum over labelled tokens, the end of text included.

    Args:
        logits: ``(B, L, V)``.
        labels: ``(B, L)``, not shifted; ``IGNORED`` marks prompt and padding.
        mean: divide by the number of labelled tokens.

    Returns:
        ``(B,)`` float32, natural logarithms.
    """
    targets = labels[:, 1:]
    counts = targets != IGNORED
    scores = logits[:, :-1][counts].float()
    losses = functional.cross_entropy(scores, targets[counts], reduction="none")
    picked = torch.zeros(targets.shape, device=logits.device).masked_scatter(counts, -losses)
    total = picked.sum(-1)
    return total / counts.sum(-1).clamp(min=1) if mean else total


def preference_loss(rewards: Tensor) -> Tensor:
    """Bradley-Terry: ``-log sigmoid(r(x, y_w) - r(x, y_l))``, the mean over pairs.

    The reward decides the method (beta is the caller's):

    - GenARM (Xu et al., ICLR 2025): ``beta * log π_r(y|x)``;
    - DPO (Rafailov et al. 2023, eq. 7): ``beta * (log π(y|x) - log π_ref(y|x))``;
    - a scalar reward model: the output of its head.

    Args:
        rewards: ``(B, 2)``: chosen, rejected.
    """
    return -functional.logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()


def last_scores(scores: Tensor, mask: Tensor) -> Tensor:
    """Return a head's score at each row's last token, whichever side the padding is on.

    Args:
        scores: ``(B, L)`` or ``(B, L, 1)``.
        mask: ``(B, L)``, 1 for tokens and 0 for padding.

    Returns:
        ``(B,)`` float32.
    """
    last = mask.shape[1] - 1 - mask.flip(1).long().argmax(1)
    rows = torch.arange(len(mask), device=mask.device)
    return scores.reshape(*mask.shape)[rows, last].float()
