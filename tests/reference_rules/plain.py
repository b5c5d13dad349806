"""What every rule asks of a model, at its simplest: one text in, one answer out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def logits(model: Any, ids: Sequence[int]) -> Tensor:
    """``(V,)``, what the model says comes after a text."""
    return model(input_ids=torch.tensor([list(ids)])).logits[0, -1].float()


def logprobs(model: Any, ids: Sequence[int]) -> Tensor:
    """``(V,)``, natural logarithms."""
    return torch.log_softmax(logits(model, ids), dim=-1)


@torch.no_grad()
def reward(model: Any, ids: Sequence[int]) -> float:
    """The reward of a whole text: the head at its last token, whatever that token is."""
    hidden = model.base_model(input_ids=torch.tensor([list(ids)])).last_hidden_state
    return model.score(hidden[0, -1]).item()


@torch.no_grad()
def class_logprob(model: Any, ids: Sequence[int], label: int) -> float:
    """What a classifier says of a whole text: the log-probability of a class."""
    hidden = model.base_model(input_ids=torch.tensor([list(ids)])).last_hidden_state
    return torch.log_softmax(model.score(hidden[0, -1]), -1)[label].item()


def ends(token: int, made: Sequence[int], eos: int | None, most: int) -> bool:
    """Whether a text is over."""
    return token == eos or len(made) >= most
