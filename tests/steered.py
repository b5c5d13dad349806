"""Steering and weighted adapters, written plainly: hooks of one text, and added weights.

Nothing here knows of descant. A text is read anew, alone, without a cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import peft
import torch
from checkpoints import fresh
from torch import Tensor

Directions = Mapping[int, Tensor]
Steered = tuple[Directions, float, int]  # directions, their weight, the first position steered


@contextmanager
def steered(layers: Sequence[Any], vectors: Sequence[Steered]) -> Iterator[None]:
    """In this context, each layer adds its directions to its output, from their positions on."""

    def hook(number: int) -> Any:
        def add(module: Any, args: Any, output: Any) -> Any:
            hidden = (output if isinstance(output, Tensor) else output[0]).clone()
            for directions, weight, start in vectors:
                if number in directions:
                    hidden[:, start:] += weight * directions[number]
            return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

        return add

    hooks = [layer.register_forward_hook(hook(number)) for number, layer in enumerate(layers)]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


@torch.no_grad()
def logits_of(model: Any, layers: Sequence[Any], ids: Sequence[int], *vectors: Steered) -> Tensor:
    """``(len(ids), V)`` float32 logits of one text."""
    with steered(layers, vectors):
        out = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits
    return out[0].float()  # type: ignore[no-any-return]


@torch.no_grad()
def with_weights(base: str, weights: Mapping[str, float]) -> Any:
    """A base whose weights are ``W + sum w_i (W_i - W)``, W_i what peft merges an adapter into.

    Args:
        base: a checkpoint whose head is not its embedding, if adapters are on either.
        weights: by the folders of adapters.
    """
    model = fresh(base)
    bare = {name: number.clone() for name, number in model.state_dict().items()}
    total = {name: number.double() for name, number in bare.items()}
    for folder, weight in weights.items():
        adapted = peft.PeftModel.from_pretrained(fresh(base), folder).merge_and_unload()
        for name, number in adapted.state_dict().items():
            if name not in total:  # a bias that the base has not
                raise KeyError(name)
            total[name] += weight * (number.double() - bare[name].double())
    model.load_state_dict({name: number.to(bare[name].dtype) for name, number in total.items()})
    return model


@torch.no_grad()
def with_peft(model: Any, weights: Mapping[str, float]) -> Any:
    """A model under peft with several LoRA adapters active together, the B of each times a number.

    Args:
        model: peft puts its layers into it.
        weights: by the folders of adapters.
    """
    names = {f"a{number}": folder for number, folder in enumerate(weights)}
    for name, folder in names.items():
        if isinstance(model, peft.PeftModel):
            model.load_adapter(folder, adapter_name=name)
        else:
            model = peft.PeftModel.from_pretrained(model, folder, adapter_name=name)
    for path, parameter in model.named_parameters():
        for name, folder in names.items():
            if f"lora_B.{name}." in path or path.endswith(f"lora_embedding_B.{name}"):
                parameter.mul_(weights[folder])
    model.base_model.set_adapter([*names])
    return model.eval()
