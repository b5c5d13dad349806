"""A cache whose rows have lengths of their own, under transformers' Cache contract.

Keys and values are written at each row's own positions and read as views: nothing is copied, and
nothing is concatenated. States are written where they are.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..backbone import backbone_of
from .layers import family_states
from .layers.keys import RowLayer
from .layers.states import LayerKind, StateLayer, layer_kinds, with_rows
from .masks import row_masks
from .memory import mapped_zeros
from .survey import LayerShape, Survey
from .window import Window


class SavedStates(NamedTuple):
    """The states of one row.

    Attributes:
        of_layers: by a layer's number, the kind of state and its number.
        said: ``(columns,)``, as of ``RowCache``.
    """

    of_layers: Mapping[tuple[int, str, int], Tensor]
    said: Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        said = () if self.said is None else (self.said,)
        return sum(state.nbytes for state in (*self.of_layers.values(), *said))


class RowCache(Cache):
    """The cache of one lane: ``rows`` rows of ``capacity`` tokens.

    Args:
        kinds: what each layer keeps; empty where all keep keys and values alone.

    Attributes:
        scratch: positions at the end of each row, for the keys and values of idle rows.
        window: of the forward that runs, or ran last.
        written: rows and tokens, the most that were written to since the cache was empty.
        said: ``(rows, columns)`` what the model has said at the end of each text, a state like
            others; None until somebody keeps it.
        saved: a copy of each of ``states``; none until rows are saved.
    """

    def __init__(
        self, rows: int, capacity: int, scratch: int = 0, kinds: Sequence[LayerKind] = ()
    ) -> None:
        self.rows, self.capacity, self.scratch, self.kinds = rows, capacity, scratch, kinds
        self.window: Window | None = None
        self.written = (0, 0)
        self.said: Tensor | None = None
        self.saved: list[Tensor] = []
        # Layers hold a weak reference, so that a cache is freed at once, without a reference cycle.
        self._proxy: Any = weakref.proxy(self)
        proxy = self._proxy
        if kinds:
            super().__init__(layers=[kind.make(proxy) for kind in kinds])
        else:
            super().__init__(layer_class_to_replicate=lambda: RowLayer(proxy))

    @property
    def attends(self) -> bool:
        """Whether any layer keeps keys and values."""
        return not self.kinds or any(kind.by_position for kind in self.kinds)

    def see(self, window: Window) -> None:
        """The next forward writes and reads as this window says."""
        self.window = window
        self.wrote(window.rows.stop, window.limit)
        for layer in self._state_layers():
            layer.see(window)

    def settle(self) -> None:
        """The forward has ended."""
        assert self.window is not None
        for layer in self._state_layers():
            layer.settle(self.window)

    def choose(self, choice: Tensor) -> None:
        """Of the copies of each row in the last forward, go on with the states of one."""
        assert self.window is not None
        for layer in self._state_layers():
            layer.choose(self.window, choice)

    @property
    def key_layers(self) -> dict[int, RowLayer]:
        """The layers that keep keys and values, by their numbers, once there are any."""
        layers = enumerate(self.layers)
        return {
            number: layer
            for number, layer in layers
            if isinstance(layer, RowLayer) and layer.keys is not None
        }

    def make_layers(self, shapes: Mapping[int, LayerShape], like: Tensor) -> None:
        """Make the layers before a forward does, of a tensor's dtype and device."""
        for number, shape in shapes.items():
            if number == len(self.layers):
                self.layers.append(RowLayer(self._proxy))
            layer = self.layers[number]
            if layer.keys is None:
                sizes = shape.key_size, shape.value_size
                layer.lazy_initialization(*(like.new_empty(0, shape.groups, 0, n) for n in sizes))

    def grow(self, capacity: int, rows: int = 0) -> None:
        """Make room for so many tokens and rows, and keep those there are."""
        self.rows, self.capacity = max(rows, self.rows), capacity
        saved, self.saved = self.saved, []
        for layer in self.layers:
            layer.grow(self.rows, capacity + self.scratch, self._written())
        if self.said is not None:
            self.said = with_rows(self.said, self.rows)
        for new, old in zip(self._save_room() if saved else (), saved, strict=True):
            new[: len(old)] = old

    def release(self, row: int, last: int, length: int) -> None:
        """Give a row up: the first ``length`` tokens of the last row move into its place.

        The last row becomes zeros: masked keys and values must be finite.
        """
        written = self.written[1]
        for tensor in self._tensors():
            if row != last:
                tensor[row, :, :length] = tensor[last, :, :length]
                tensor[row, :, length:written] = 0
            tensor[last, :, :written] = 0
        if row != last:
            for states in (*self.states, *self.saved):
                states[row] = states[last]

    def clear(self) -> None:
        """Without rows: a CPU gets the memory back. On a GPU, graphs hold its addresses."""
        if all(tensor.device.type == "cpu" for tensor in (*self._tensors(), *self.states)):
            self.layers[:] = [kind.make(self._proxy) for kind in self.kinds]  # or as they come
            self.said, self.saved = None, []
            self.written = (0, 0)

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Make the first ``length`` tokens of each target row what its source's were."""
        self.wrote(max(targets, default=-1) + 1, length)
        for tensor in self._tensors():
            tensor[list(targets), :, :length] = tensor[list(sources), :, :length]
        for states in (*self.states, *self.saved):
            states[list(targets)] = states[list(sources)]

    def move_tokens(self, index: Tensor, source: Tensor, target: Tensor) -> None:
        """Copy one token of each row, from position ``(n, 1)`` to position ``(n, 1)``."""
        for tensor in self._tensors():
            at = (index.to(tensor.device), slice(None))
            tensor[(*at, target.to(tensor.device))] = tensor[(*at, source.to(tensor.device))]

    @property
    def states(self) -> list[Tensor]:
        """The states of all rows, ``(rows, …)`` each; none until a forward has made them."""
        pools = [pool for layer in self._state_layers() for pool in layer.pools.values()]
        return pools if self.said is None else [*pools, self.said]

    def say(self, said: Tensor, rows: slice | list[int]) -> None:
        """Keep what is said at the end of the texts of some rows, ``(n, columns)``."""
        if self.said is None:
            self.said = said.new_zeros(self.rows, said.shape[-1])
            self.saved += [torch.zeros_like(self.said)] if self.saved else []
        self.said[rows] = said

    def save(self, rows: Sequence[int]) -> None:
        """Keep a copy of the states of some rows."""
        for kept, states in zip(self.saved or self._save_room(), self.states, strict=True):
            kept[list(rows)] = states[list(rows)]

    def restore(self, rows: Sequence[int]) -> None:
        """Go back to the states that were saved of some rows."""
        if rows:
            for kept, states in zip(self.saved, self.states, strict=True):
                states[list(rows)] = kept[list(rows)]

    def states_of(self, row: int) -> SavedStates:
        """A copy of the states of one row."""
        layers = (
            (n, layer) for n, layer in enumerate(self.layers) if isinstance(layer, StateLayer)
        )
        of_layers = {
            (number, *key): pool[row].clone()
            for number, layer in layers
            for key, pool in layer.pools.items()
        }
        return SavedStates(of_layers, None if self.said is None else self.said[row].clone())

    def put(self, row: int, states: SavedStates) -> None:
        """Have a row go on from states that another had."""
        for (number, *key), state in states.of_layers.items():
            self.layers[number].put(tuple(key), row, state)
        if states.said is not None:
            self.say(states.said[None], [row])

    def begin(self, rows: Sequence[int]) -> None:
        """These rows have read nothing."""
        if rows:
            for states in self.states:
                states[list(rows)] = 0

    @property
    def nbytes(self) -> int:
        """Bytes in use. Of a CPU's memory, those that were written to: no other has pages."""
        written = self._written()
        used = [tensor[written] for tensor in self._tensors()]
        used += [states[written[0]] for states in (*self.states, *self.saved)]
        tensors = (*self._tensors(), *self.states, *self.saved)
        pairs = zip(tensors, used, strict=True)
        return sum((own if every.device.type == "cpu" else every).nbytes for every, own in pairs)

    @property
    def state_bytes(self) -> int:
        """Bytes of the states of one row, as far as a forward has made them."""
        return sum(states[:1].nbytes for states in self.states)

    def wrote(self, rows: int, tokens: int) -> None:
        """So many rows and tokens may have been written to."""
        self.written = max(self.written[0], rows), max(self.written[1], tokens)

    def _written(self) -> tuple[slice, slice, slice]:
        """Where keys and values were written to."""
        return slice(self.written[0]), slice(None), slice(self.written[1])

    def _save_room(self) -> list[Tensor]:
        self.saved = [mapped_zeros(states, tuple(states.shape)) for states in self.states]
        return self.saved

    def _state_layers(self) -> list[StateLayer]:
        return [layer for layer in self.layers if isinstance(layer, StateLayer)]

    def _tensors(self) -> list[Tensor]:
        return [tensor for layer in self.layers for tensor in layer.tensors]


def run_rows(
    network: Any,
    cache: Any,
    window: Window,
    tokens: Tensor,
    positions: Tensor,
    **options: Any,
) -> Any:
    """One forward of some rows of a cache, under transformers' contract.

    Args:
        network: the model, or its backbone.
        window: where this forward writes, and what it may see.
        tokens: ``(n, q)`` ids.
        positions: ``(n, q)`` in the text.
        options: more arguments of the network's, ``position_ids`` among them where these are
            others than in the text.

    Returns:
        What the network does: of copies of rows, ``(n * copies, 1, …)``.
    """
    cache.see(window)
    if window.copies:
        tokens = tokens.reshape(-1, 1)
    arguments: dict[str, Any] = {"input_ids": tokens, "use_cache": True}
    keyword = "past_key_values"
    if takes_states(type(network).forward):
        keyword = "cache_params"
    else:
        places = options.pop("position_ids", positions)
        arguments["position_ids"] = places if places.ndim == 3 else places.reshape(tokens.shape)
    if not cache.kinds:  # what has states takes nothing for padding
        shape = len(tokens), window.limit
        arguments["attention_mask"] = tokens.new_ones(shape, dtype=torch.bool)
    with (
        row_masks(positions, window, cache.attends),
        family_states.during(network, cache) as states,
    ):
        out = network(**arguments, **{keyword: states}, **options)
    cache.settle()
    return out


@lru_cache
def takes_states(forward: Callable[..., Any]) -> bool:
    """Whether a model's forward takes states alone, and no positions: transformers' Mamba."""
    return "cache_params" in signature(forward).parameters


def surveyed(model: Any, dtype: torch.dtype) -> tuple[int, Survey]:
    """Bytes of cache that one token of one row takes; and what the model asks of attention.

    The model's own code reads one token on torch's meta device, without weights. Where that fails
    part of the way (some experts do), the layers that ran stand for the others.
    """
    for make_backbone in _backbones(model, dtype):
        cache, survey = RowCache(1, 1, 0, layer_kinds(model.config.get_text_config())), Survey()
        try:
            with torch.no_grad():
                token = torch.zeros(1, 1, dtype=torch.long, device="meta")
                window = Window(token, 1, slice(0, 1), token, survey=survey)
                run_rows(make_backbone(), cache, window, token, token)
            survey.state_bytes = cache.state_bytes
            if not cache.kinds:
                survey.shapes = [layer.shape for layer in cache.layers]
            return cache.nbytes - cache.state_bytes, survey
        except (RuntimeError, ValueError, TypeError, AttributeError):
            continue
    config = model.config.get_text_config()
    if measured := sum(bool(layer.tensors) for layer in cache.layers):
        return int(cache.nbytes * config.num_hidden_layers // measured), survey
    layers, count = getattr(config, "per_layer_config", None), config.num_hidden_layers
    each = [config] * count if layers is None else [layers[number] for number in range(count)]
    return 2 * sum(map(_key_numbers, each)) * dtype.itemsize, survey


def _key_numbers(layer: Any) -> int:
    """Numbers of one token's keys in a layer, by its configuration."""
    heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
    size = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    return int(heads * size)


def _backbones(model: Any, dtype: torch.dtype) -> list[Callable[[], Any]]:
    """Ways to make the backbone without its weights, the quickest first."""
    network = backbone_of(model)

    def make(**options: Any) -> Any:
        with torch.device("meta"):
            config = copy.deepcopy(network.config)
            return type(network)._from_config(config, dtype=dtype, **options).eval()

    ways: list[Callable[[], Any]] = [partial(make, experts_implementation="batched_mm"), make]
    return [lambda: network, *ways] if network.device.type == "meta" else ways


def rounded(length: int, capacity: int) -> int:
    """The part of a cache that a forward over ``length`` tokens sees: few sizes, few kernels.

    At most an eighth more than it needs, or 31 tokens.
    """
    unit = max(32, 1 << max(length - 1, 0).bit_length() >> 4)
    return min(capacity, -(-length // unit) * unit)
