"""Process rewards: an answer's steps, and one reward of those of its steps.

Lightman et al. 2023 (*Let's Verify Step by Step*) multiply the probabilities that each step is
right; Math-Shepherd (Wang et al. 2024) takes the least; particle filtering (Puri et al. 2025)
takes the last, the mean, the least or the product.
"""

from __future__ import annotations

import math

from torch import Tensor

from ..checkpoint.spec import Steps


def step_ends(text: str, steps: Steps) -> list[str]:
    """An answer up to the end of each step, which ends with the text ``by``.

    What comes after the last of these texts is a step, too, if it is not empty. An empty answer is
    scored as it is: the reward of the prompt.

    >>> step_ends("one. two. thr", Steps(by=". "))
    ['one. ', 'one. two. ', 'one. two. thr']
    >>> step_ends("one. ", Steps(by=". ")), step_ends("", Steps(by=". "))
    (['one. '], [''])
    """
    ends, start = list[str](), 0
    while (found := text.find(steps.by, start)) >= 0:
        start = found + len(steps.by)
        ends.append(text[:start])
    return ends if ends and start == len(text) else [*ends, text]


def reduced(rewards: Tensor, steps: Steps, logs: bool) -> Tensor:
    """``(steps, labels)`` rewards as those of the answer, ``(labels,)``.

    Where rewards are log-probabilities (``logs``), probabilities are reduced, and the result is
    their logarithm: ``prod`` adds, and ``mean`` is the logarithm of the mean probability.

    >>> import torch
    >>> reduced(torch.tensor([[2.0], [3.0]]), Steps(by=".", reduce="prod"), False)
    tensor([6.])
    """
    match steps.reduce:
        case "last":
            return rewards[-1]
        case "min":
            return rewards.amin(dim=0)
        case "prod":
            return rewards.sum(dim=0) if logs else rewards.prod(dim=0)
    if logs:
        return rewards.logsumexp(dim=0) - math.log(len(rewards))
    return rewards.mean(dim=0)
