"""Steering vectors: a direction per decoder layer, added to that layer's output.

(Contrastive activation addition: Rimsky et al. 2024, arXiv:2312.06681; representation engineering:
Zou et al. 2023, arXiv:2310.01405.) Layers are counted from 0, and a layer's output is the residual
stream after it: ``h_l += w v_l``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .decoder_layers import decoder_layers
from .rows.products import ForwardRows

ANSWER, ALL = "answer", "all"  # which tokens a vector steers


@dataclass(frozen=True)
class Vector:
    """A steering vector of a model.

    Attributes:
        name: as declared.
        directions: ``(hidden,)`` float32 on the CPU, by decoder layer.
        answer: whether it steers the answer alone: the positions after the prompt.
    """

    name: str
    directions: Mapping[int, Tensor]
    answer: bool

    def same(self, other: Vector) -> bool:
        """Whether another is the same, with the same numbers."""
        mine, others = self.directions, other.directions
        if (self.name, self.answer, mine.keys()) != (other.name, other.answer, others.keys()):
            return False
        return all(torch.equal(mine[layer], others[layer]) for layer in mine)


def fitting(name: str, model: Any, directions: Mapping[int, Tensor], tokens: str) -> Vector:
    """A vector that fits a model.

    Args:
        name: as declared.
        model: a transformers model.
        directions: ``(hidden,)`` by decoder layer, as ``read_vector`` gives them.
        tokens: ``answer`` or ``all``.

    Raises:
        ModelError: another width than the model's, or a layer that it does not have.
    """
    count, width = len(decoder_layers(name, model)), model.config.get_text_config().hidden_size
    for layer, direction in directions.items():
        if layer >= count:
            problem = f"it has a direction for layer {layer}, and its base has {count}, from 0"
        elif len(direction) != width:
            problem = f"its directions are {len(direction)} wide, its base is {width}"
        else:
            continue
        problem = f"the vector {name} does not fit its base: {problem}"
        raise ModelError(problem, "give the base that it was made for", name)
    return Vector(name, directions, tokens == ANSWER)


def stacked(vectors: Sequence[Vector], layer: int, device: torch.device) -> Tensor:
    """``(vectors, hidden)`` float32, what each adds to a layer; at least one adds anything."""
    directions = [vector.directions.get(layer) for vector in vectors]
    zeros = torch.zeros_like(next(each for each in directions if each is not None))
    return torch.stack([zeros if each is None else each for each in directions]).to(device)


def hook(name: str, directions: Tensor, rows: ForwardRows) -> Any:
    """A forward hook of one decoder layer; it leaves the output alone where no row is steered.

    Args:
        name: of a vector, for a layer that gives something else than hidden states.
    """

    def steer(module: nn.Module, args: Any, output: Any) -> Any:
        if (weights := rows.steering) is None:
            return None
        hidden = output if isinstance(output, Tensor) else output[0]
        if hidden.dim() != 3:
            problem = f"the vector {name} is on layers that give more than hidden states"
            raise ModelError(problem, "steer another model", name)
        added = weights.to(directions.device) @ directions
        # In float32, and rounded once; what the layer gave may be of use to others as it is.
        steered = torch.add(hidden, added.to(hidden.device), out=torch.empty_like(hidden))
        return steered if isinstance(output, Tensor) else (steered, *output[1:])

    return steer
