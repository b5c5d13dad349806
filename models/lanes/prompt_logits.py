"""The logits after prompts, from the forward that reads the end of them.

Where the texts of a forward end at one place, its last position is all that the head is needed for,
and the first step runs no forward. What follows the texts is dropped as soon as one of them changes
(``Rows.next_logits``): a step then reads the last token again, as any other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from inspect import signature
from typing import Any, TypeVar

import torch
from torch import Tensor

Text = TypeVar("Text", bound=Hashable)


def gives_logits(model: Any) -> bool:
    """Whether a model has a head of a language model that reads some positions alone."""
    if model.get_output_embeddings() is None:
        return False
    return "logits_to_keep" in signature(model.forward).parameters


def of_rows(logits: Mapping[Text, Tensor], prompts: Sequence[Text], rows: Sequence[int]) -> Tensor:
    """``(rows, V)`` what follows each row's text.

    Args:
        logits: ``(V,)`` after each prompt.
        prompts: of all rows, and ``rows`` their numbers, from 0 on.
    """
    of_row = dict(zip(rows, prompts, strict=True))
    return torch.stack([logits[of_row[row]] for row in range(len(rows))])
