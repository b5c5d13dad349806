"""The heads on one lane: a forward gives what they say beside its logits.

A head's outputs are columns behind those of the vocabulary, so that they go wherever logits go:
into buffers that recordings write, to other processes, and from one position of a chunk to its row.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..adapters.decoder_layers import decoder_layers, layer_outputs
from ..errors import ModelError, first_line, read_by_a_library
from ..eval_mode import evaluating
from ..footprint import Held, stored_bytes
from .declared import CURE, DeclaredHead
from .own import Apply, own_head, trial


class HeadColumns(NamedTuple):
    """Where a head's outputs are among the columns behind the vocabulary, and its layer."""

    start: int
    stop: int
    layer: int


class _Head(NamedTuple):
    """A head on a lane; ``apply`` is None where the weights are elsewhere."""

    declared: DeclaredHead
    columns: HeadColumns
    apply: Apply | None
    weights: tuple[Tensor, ...]  # those of its own


class LayerHeads:
    """The heads on one model, which stays as it is: hooks look at what layers give in a forward.

    Args:
        model: a transformers model; without weights where they are elsewhere.
        vocabulary: columns of its logits, and of each head's scores.

    Attributes:
        width: columns of all heads.
    """

    def __init__(self, model: Any, vocabulary: int) -> None:
        self._model, self._vocabulary = model, vocabulary
        self._heads: dict[tuple[Any, ...], _Head] = {}
        self.width = 0

    def __contains__(self, head: DeclaredHead) -> bool:
        return head.key in self._heads

    def columns(self, head: DeclaredHead) -> HeadColumns:
        """Those of a head that was added."""
        return self._heads[head.key].columns

    def add(self, head: DeclaredHead) -> None:
        """Have a head from the next forward on.

        Raises:
            ModelError: no such layer, another width than the model's, an output that is neither one
                number nor the vocabulary, or numbers that are not finite.
        """
        width = self._vocabulary if head.gives_scores else 1
        self._check(head)
        weights: tuple[Tensor, ...]
        if self._model.device.type == "meta":
            shape = head.outputs or 0, self._model.config.get_text_config().hidden_size
            apply, weights = None, (torch.empty(shape, device="meta"),)
        else:
            apply, weights = self._loaded(head)
        columns = HeadColumns(self.width, self.width + width, head.layer)
        self._heads[head.key] = _Head(head, columns, apply, weights)
        self.width += width

    @property
    def nbytes(self) -> int:
        """Bytes that a forward reads for the heads; the model's own head is read once more."""
        own = [head for head in self._heads.values() if head.declared.is_own]
        again = self._model.get_output_embeddings()
        size = sum(map(stored_bytes, again.parameters())) if own and again is not None else 0
        return size * len(own) + sum(held.size for held in self.memory.values())

    @property
    def memory(self) -> dict[int, Held]:
        """The heads' own weights, as in ``Footprint.memory``."""
        weights = [weight for head in self._heads.values() for weight in head.weights]
        return {id(each): Held(each.device, each.nbytes) for each in weights}

    @contextmanager
    def reading(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Around a forward: what puts the heads' outputs behind its ``(rows, q, V)`` logits."""
        if not self._heads:
            yield lambda logits: logits
            return
        name, layers = next(iter(self._heads))[0], {h.declared.layer for h in self._heads.values()}
        states: dict[int, Tensor] = {}
        with layer_outputs(name, self._model, sorted(layers), states.__setitem__):
            yield partial(self._joined, states)

    def _joined(self, states: dict[int, Tensor], logits: Tensor) -> Tensor:
        outputs = [logits[..., : self._vocabulary].float()]
        for head in self._heads.values():
            assert head.apply is not None
            hidden = states[head.declared.layer][:, -logits.shape[1] :]
            output = head.apply(hidden)[..., : head.columns.stop - head.columns.start]
            outputs.append(output.to(logits.device, torch.float32))
        return torch.cat(outputs, dim=-1)

    def _check(self, head: DeclaredHead) -> None:
        """Refuse a head that does not fit the model's sizes."""
        config, name = self._model.config.get_text_config(), head.name
        if head.layer >= (count := len(decoder_layers(name, self._model))):
            problem = f"the head {name} is on layer {head.layer} of {head.on}"
            raise ModelError(f"{problem}, which has {count}", "layers are counted from 0", name)
        if head.hidden not in (None, config.hidden_size):
            problem = f"the head {name} reads {head.hidden} numbers, and {head.on} has states of"
            raise ModelError(f"{problem} {config.hidden_size}", "give the base it was made for")
        if head.outputs not in (None, 1, self._size):
            problem = f"the head {name} gives {head.outputs} numbers, neither 1 nor the vocabulary"
            raise ModelError(f"{problem} of {head.on}, {self._size}", "give a head of one or other")

    @property
    def _size(self) -> int:
        """The width of the model's own logits."""
        head = self._model.get_output_embeddings()
        sizes = getattr(head, "out_features", None), self._model.config.get_text_config().vocab_size
        return int(sizes[0] or sizes[1])

    def _loaded(self, head: DeclaredHead) -> tuple[Apply, tuple[Tensor, ...]]:
        """What applies a head to hidden states, and its weights."""
        state = trial(head.name, self._model, [head.layer])[head.layer]
        if head.is_own:
            return own_head(head.name, self._model), ()
        weights: tuple[Tensor, ...]
        if isinstance(head.source, nn.Module):
            module, first = head.source, next(head.source.parameters(), state)
            if first.device != state.device:
                module = copy.deepcopy(module).to(state.device)  # its owner's stays where it is
            apply: Apply = partial(_of_module, module, first.dtype)
            weights = tuple(module.parameters())
        else:
            # A number is worked out in float32; a head of the vocabulary as the model's own is.
            dtype = state.dtype if head.gives_scores else torch.float32
            read = [each for each in _weights(head) if each is not None]
            weights = tuple(each.to(state.device, dtype) for each in read)
            apply = partial(_linear, weights)
        if not all(each.isfinite().all() for each in weights):
            raise ModelError(f"the head {head.name} has numbers that are not finite", CURE)
        problem = f"the head {head.name} cannot read a layer of {head.on}"
        wrong = read_by_a_library(lambda e: ModelError(f"{problem}: {first_line(e)}", CURE))
        with wrong, torch.no_grad():
            shape = tuple(apply(state).shape)
        if shape != (*state.shape[:-1], head.outputs):
            problem = f"the head {head.name} gives {shape} of states {tuple(state.shape)}"
            raise ModelError(problem, f"its last linear layer has {head.outputs} outputs")
        return apply, weights


def _linear(weights: tuple[Tensor, ...], states: Tensor) -> Tensor:
    """By a weight, and a bias where there is one."""
    states = states.to(weights[0].device, weights[0].dtype)
    return nn.functional.linear(states, *weights)


def _of_module(module: nn.Module, dtype: torch.dtype, states: Tensor) -> Tensor:
    with evaluating(module.modules()):
        return module(states.to(dtype))  # type: ignore[no-any-return]


def _weights(head: DeclaredHead) -> tuple[Tensor, Tensor | None]:
    """The weight, ``(outputs, hidden)``, and the bias of a head in a file or in memory."""
    source = head.source
    if isinstance(source, str):
        from safetensors.torch import load_file

        problem = f"the head {head.name} in {source} cannot be read"
        with read_by_a_library(lambda e: ModelError(f"{problem}: {first_line(e)}", CURE)):
            read = load_file(source)
        return read["weight"], read.get("bias")
    weight, bias = source if isinstance(source, (tuple, list)) else (source, None)
    bias = None if bias is None else torch.as_tensor(bias).detach()
    return torch.as_tensor(weight).detach().reshape(head.outputs or 1, -1), bias
