"""What every rule asks of a model, at its simplest: one text in, one answer out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

_SAID: WeakKeyDictionary[Any, dict[Any, Tensor]] = WeakKeyDictionary()  # by models that stay


def _once(model: Any, ids: Sequence[int], ask: Callable[[Tensor], Tensor]) -> Tensor:
    """What a model says of a text; one that stays as it is need say it once."""
    said = _SAID.setdefault(model, {}) if getattr(model, "stays_as_it_is", False) else {}
    key = (sum(each._version for each in model.parameters()), *ids)
    if key not in said:
        said[key] = ask(torch.tensor([list(ids)]))
    return said[key].clone()


@torch.no_grad()
def logits(model: Any, ids: Sequence[int]) -> Tensor:
    """``(V,)``, what the model says comes after a text."""
    return _once(model, ids, lambda text: model(input_ids=text).logits[0, -1].float())


def logprobs(model: Any, ids: Sequence[int]) -> Tensor:
    """``(V,)``, natural logarithms."""
    return torch.log_softmax(logits(model, ids), dim=-1)


@torch.no_grad()
def reward(model: Any, ids: Sequence[int]) -> float:
    """The reward of a whole text: the head at its last token, whatever that token is."""

    def ask(text: Tensor) -> Tensor:
        return model.score(model.base_model(input_ids=text).last_hidden_state[0, -1])

    return _once(model, ids, ask).item()


@torch.no_grad()
def class_logprob(model: Any, ids: Sequence[int], label: int) -> float:
    """What a classifier says of a whole text: the log-probability of a class."""
    hidden = model.base_model(input_ids=torch.tensor([list(ids)])).last_hidden_state
    return torch.log_softmax(model.score(hidden[0, -1]), -1)[label].item()


def ends(token: int, made: Sequence[int], eos: int | None, most: int) -> bool:
    """Whether a text is over."""
    return token == eos or len(made) >= most
