"""The logits after prompts, from the forward that reads the end of them.

Where the texts of a forward end at one place, its last position is all that the head is needed for,
and the first step runs no forward. What follows the texts is dropped as soon as one of them changes
(``Rows.next_logits``): a step then reads the last token again, as any other.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor


def gives_logits(model: Any) -> bool:
    """Whether a model has a head of a language model that reads some positions alone."""
    if model.get_output_embeddings() is None:
        return False
    return "logits_to_keep" in signature(model.forward).parameters


def end_together(lengths: Sequence[int], groups: Sequence[range]) -> bool:
    """Whether the texts of every group have one length; lengths fall."""
    return all(lengths[group.start] == lengths[group.stop - 1] for group in groups)


def of_rows(
    logits: Sequence[Tensor],
    distinct: Sequence[Hashable],
    prompts: Sequence[Hashable],
    rows: Sequence[int],
) -> Tensor:
    """``(rows, V)`` what follows each row's text.

    Args:
        logits: ``(n, V)`` for some of the distinct prompts, in their order.
        distinct: all of these.
        prompts: of all rows, and ``rows`` their numbers, from 0 on.
    """
    numbers = {prompt: number for number, prompt in enumerate(distinct)}
    of_row = dict(zip(rows, prompts, strict=True))
    order = [numbers[of_row[row]] for row in range(len(rows))]
    return torch.cat([*logits])[order]
