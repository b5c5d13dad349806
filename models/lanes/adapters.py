"""What rows add to the weights of one model: LoRA adapters and steering vectors, in one forward."""

from __future__ import annotations

import sys
import weakref
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from math import isfinite
from operator import or_
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from ..adapters import steering
from ..adapters.decoder_layers import decoder_layers
from ..adapters.lora import read_adapter
from ..adapters.placed import PlacedLayer, linear_sizes, placed
from ..adapters.rows.hooks import hook
from ..adapters.rows.on_gpu import lists_of
from ..adapters.rows.products import ForwardRows, Joined, add
from ..adapters.rows.shares import Share, Weights, shares
from ..adapters.rows.stacked import Side, Stacked, stack
from ..adapters.steering import ANSWER, Vector, fitting
from ..adapters.vector_files import read_vector
from ..combinations import BARE, LAYERS, STREAM, Chosen, Combination, CombinationTable
from ..errors import ModelError
from ..footprint import Held, compute_dtype, execution_device
from ..images.positions import rope_index
from ..images.prompt import ImagePrompt
from ..kernels.lora.products import Factors
from ..upload import Changes, upload


class Adapters:
    """The adapters and vectors on one model, which stays as it is: hooks add what they add.

    Args:
        model: a transformers model.
        knows_answers: whether forwards know where a row's answer begins.

    Attributes:
        version: another after each change of what is loaded, or of where combinations are.
        closed: how often all were taken off; numbers begin again then.
    """

    _last: tuple[tuple[Weights, ...], list[Share]]

    def __init__(self, model: nn.Module, knows_answers: bool = True) -> None:
        self._model, self._knows_answers = model, knows_answers
        self.closed = self._changes = 0
        self._hooks: list[Any] = []
        weakref.finalize(self, _remove, self._hooks)
        self._rows = ForwardRows()  # all that hooks hold: the model outlives the decoder
        device = execution_device(model.get_input_embeddings())  # type: ignore[operator]
        self._device = torch.device("cpu") if device.type == "meta" else device
        self._begin()

    def add(self, name: str, folder: str | Path) -> int:
        """The number of a LoRA adapter, from 1; read from peft's folder where it is not loaded.

        Raises:
            ModelError: rows cannot have it, or it does not fit the model; names the first module.
        """
        key = (name, str(folder))
        if key not in self._numbers:
            layers = placed(name, self._model, read_adapter(name, Path(folder)))
            self._numbers[key] = self._number(name, layers)
            self._stack()
            self._register()
        return self._numbers[key]

    def add_vector(self, name: str, directions: Mapping[int, Any], tokens: str = ANSWER) -> int:
        """The number of a steering vector, from 1; one with the same numbers is loaded once.

        Args:
            directions: ``(hidden,)`` by decoder layer.
            tokens: ``answer`` steers the positions after a row's prompt, ``all`` every position.

        Raises:
            ModelError: no vector, one that does not fit the model, or that steers answers where
                none are known.
        """
        if tokens == ANSWER and not self._knows_answers:
            problem = f"the vector {name} steers answers alone, and its base reads texts in full"
            raise ModelError(problem, "say tokens: all with it", name)
        vector = fitting(name, self._model, read_vector(name, directions), tokens)
        for number, (_, loaded) in enumerate(self._loaded, 1):
            if isinstance(loaded, Vector) and loaded.same(vector):
                self._names[number - 1].add(name)
                return number
        number = self._number(name, vector)
        self._steer()
        self._register()
        return number

    def remove(self, name: str) -> None:
        """Unload an adapter or a vector; its numbers are nobody's again, so that no cache has two.

        No row may have it.
        """
        numbers = [number for number, names in enumerate(self._names) if name in names]
        if not numbers:
            return
        for number in numbers:
            self._names[number].discard(name)
            if not self._names[number]:
                self._loaded[number] = name, {}
        for key in [key for key in self._numbers if key[0] == name]:
            del self._numbers[key]
        self._changes += 1
        self._stack()
        self._steer()
        self._register()

    def combination(
        self,
        weights: Sequence[tuple[int, float]],
        start: int = 0,
        images: ImagePrompt | None = None,
    ) -> Combination:
        """What a row adds: the sum of adapters and vectors, each times a number.

        Args:
            weights: pairs of the number of an adapter or vector, and what it is multiplied by in
                float32. The numbers of one are summed; those that are 0 are left out.
            start: the position in the row's text at which the answer begins.
            images: the prompt of the row, if it has images; its keys are no other text's.

        Raises:
            ModelError: a number that is not finite.
        """
        sums = defaultdict[int, float](float)
        for number, weight in weights:
            sums[number] += weight
        rounded = torch.tensor([*sums.values()], dtype=torch.float32).tolist()
        pairs = tuple(sorted(pair for pair in zip(sums, rounded, strict=True) if pair[1] != 0))
        if not pairs and images is None:
            return BARE
        items = {number: self._loaded[number - 1] for number, _ in pairs}
        for number, weight in pairs:
            if not isfinite(weight):
                name = items[number][0]
                problem = f"{name} is to be added {sums[number]:g} times"
                raise ModelError(problem, "give it a finite number", name)
        answer = {n for n, (_, item) in items.items() if isinstance(item, Vector) and item.answer}
        key = pairs, start if answer else 0, images
        if (known := self._known.get(key)) is None:
            of_prompt = tuple(pair for pair in pairs if pair[0] not in answer)
            parts = (STREAM if isinstance(item, Vector) else LAYERS for _, item in items.values())
            columns = [(number - 1, weight) for number, weight in pairs]
            offset, shared = 0, start if answer else None
            if images is not None:
                offset, shared = rope_index(self._model, images)[1], 0
            known = self._known[key] = Combination(
                (self.closed, of_prompt) if of_prompt else BARE.key,
                reduce(or_, parts, 0),
                shared,
                partial(self._table.take, columns, start, offset),
                images,
                columns,
            )
        return known

    def offsets(self, slots: Tensor) -> Tensor:
        """``(rows,)`` what is added to positions of rows, by the slots of their combinations."""
        offsets: Tensor = self._table.offsets.index_select(0, slots)
        return offsets

    @property
    def version(self) -> Hashable:
        return self._changes, self._table.moved

    @property
    def nbytes(self) -> int:
        """Bytes of what is loaded."""
        return sum(each.nbytes for each in self._held)

    @property
    def memory(self) -> dict[int, Held]:
        """The same, as in ``Footprint.memory``."""
        return {id(each): Held(each.device, each.nbytes) for each in self._held}

    @property
    def _held(self) -> list[Stacked | Tensor]:
        return [*self._stacked.values(), *self._directions.values()]

    def changes(self) -> Changes:
        """What the host has written of combinations, for the device."""
        return self._table.changes()

    def flush(self) -> None:
        """Copy it, where nobody has collected it before."""
        if self._table.stale:
            upload(self.changes())

    def close(self) -> None:
        """Remove the hooks from the model, for others that use it."""
        self.closed += 1
        self._begin()

    def joins(self, paths: tuple[str, ...]) -> bool:
        """Whether all that adapters do to these modules is what ``add_to`` adds.

        It is not with DoRA, biases and embeddings: their hooks change what a module gives.

        Args:
            paths: of linear modules.
        """
        return all(path not in self._stacked or self._stacked[path].plain for path in paths)

    def add_to(self, paths: tuple[str, ...], x: Tensor, out: Tensor) -> Tensor:
        """Add in place what rows add to modules that read the same input, instead of their hooks.

        Args:
            paths: of the modules, which ``joins``.
            x: ``(…, in)`` of a forward's rows, one after the other.
            out: ``(…, columns)``, what the modules give, side by side in the order of the paths.
                A row of its numbers is contiguous, and rows are equally far apart.

        Returns:
            ``out``.
        """
        if self._rows.numbers is None or self._stacked.keys().isdisjoint(paths):
            return out
        first = 0
        for joined in self._joined(paths):
            end = first + sum(joined.outs)
            add(joined, self._rows, x, out[..., first:end])
            first = end
        return out

    @contextmanager
    def chosen(self, chosen: Chosen | None, positions: Tensor | None = None) -> Iterator[None]:
        """During this context, rows go through what they add.

        Args:
            chosen: the combinations of the rows; None where all are bare.
            positions: ``(rows, q)`` in their texts; None where no answer is known.
        """
        rows = self._rows
        if chosen is not None and self._loaded:
            self.flush()
            table = self._table.weights
            if chosen.parts & LAYERS:
                count = positions.numel() if positions is not None else sys.maxsize
                rows.lists = lists_of(table, chosen.slots, self._columns, count)
                if rows.lists is None:
                    rows.numbers = table.index_select(0, chosen.slots)
                else:
                    rows.numbers = rows.lists.numbers
                if chosen.known is not None:
                    rows.shares = self._shares(tuple(each.weights for each in chosen.known))
            if chosen.parts & STREAM:
                numbers = table.index_select(0, chosen.slots)
                rows.steering = numbers.index_select(1, self._vectors)[:, None]
                if self._everywhere is not None and positions is not None:
                    starts = self._table.starts.index_select(0, chosen.slots)
                    in_answer = positions >= starts[:, None]
                    rows.steering = rows.steering * (in_answer[..., None] | self._everywhere)
        try:
            yield
        finally:
            rows.forget()

    def _shares(self, rows: tuple[Weights, ...]) -> list[Share]:
        """Who has which adapter; the next forward mostly has the same rows."""
        if self._last[0] != rows:
            self._last = rows, shares(rows)
        return self._last[1]

    def _joined(self, paths: tuple[str, ...]) -> list[Joined]:
        """Modules together, where they lie side by side in memory or on no GPU; else one by one."""
        if paths not in self._groups:
            groups = [paths] if self._run(paths) is not None else [(path,) for path in paths]
            self._groups[paths] = [self._join(group) for group in groups]
        return self._groups[paths]

    def _join(self, paths: tuple[str, ...]) -> Joined:
        parts = tuple(self._stacked.get(path) for path in paths)
        sizes = (linear_sizes(self._model.get_submodule(path)) for path in paths)
        return Joined(parts, tuple(size[1] for size in sizes if size is not None), self._run(paths))

    def _run(self, paths: tuple[str, ...]) -> Factors | None:
        """What kernels read of modules, where they lie side by side."""
        side = self._sides.get(paths[0])
        return None if side is None else side.run(paths)

    def _begin(self) -> None:
        """Nothing is loaded."""
        _remove(self._hooks)
        self._loaded: list[tuple[str, Mapping[str, PlacedLayer] | Vector]] = []
        self._names: list[set[str]] = []  # of each, those that it is declared by
        self._numbers: dict[tuple[str, str], int] = {}  # by name and folder
        self._stacked: dict[str, Stacked] = {}
        self._directions: dict[int, Tensor] = {}
        self._known = WeakValueDictionary[Hashable, Combination]()
        self._table = CombinationTable(self._device)
        self._sides: dict[str, Side] = {}
        self._groups: dict[tuple[str, ...], list[Joined]] = {}
        self._columns = 0  # of the table, that ``_stack`` has seen
        self._last = (), []
        self._vectors = torch.empty(0, dtype=torch.long)
        self._everywhere: Tensor | None = None
        self._changes += 1

    def _number(self, name: str, loaded: Mapping[str, PlacedLayer] | Vector) -> int:
        self._loaded.append((name, loaded))
        self._names.append({name})
        self._table.widen(len(self._loaded))
        self._changes += 1
        return len(self._loaded)

    def _stack(self) -> None:
        """Put the adapters of each module together."""
        loaded = [{} if isinstance(item, Vector) else item for _, item in self._loaded]
        dtype = compute_dtype(self._model)

        def like(module: nn.Module) -> Tensor:
            return torch.empty(0, device=execution_device(module), dtype=dtype)

        self._stacked, sides = stack(self._model, loaded, like)
        self._sides = {path: side for side in sides for path in side.paths}
        self._groups, self._columns = {}, len(loaded)
        layouts = {parts.owners for parts in self._stacked.values()}
        self._rows.owners = {
            owners: torch.tensor(owners, dtype=torch.long, device=self._device)
            for owners in layouts
        }

    def _steer(self) -> None:
        """Put the vectors of each layer together."""
        columns = [i for i, (_, item) in enumerate(self._loaded) if isinstance(item, Vector)]
        vectors = [item for _, item in self._loaded if isinstance(item, Vector)]
        layers = decoder_layers(vectors[0].name, self._model) if vectors else ()
        self._directions = {
            layer: steering.stacked(vectors, layer, execution_device(layers[layer]))
            for layer in sorted({layer for vector in vectors for layer in vector.directions})
        }
        self._vectors = torch.tensor(columns, device=self._device)
        everywhere = [not vector.answer for vector in vectors]
        self._everywhere = None
        if not all(everywhere):
            self._everywhere = torch.tensor(everywhere, device=self._device)

    def _register(self) -> None:
        """Put hooks on every module that has parts."""
        _remove(self._hooks)
        modules = dict(self._model.named_modules())
        for path, parts in self._stacked.items():
            added = hook(parts, self._rows, self._join((path,)) if parts.plain else None)
            # Before a scale of the output, as Llama 4's of queries: it is of what is added too.
            self._hooks.append(modules[path].register_forward_hook(added, prepend=True))
        if not self._directions:
            return
        name = next(name for name, item in self._loaded if isinstance(item, Vector))
        layers = decoder_layers(name, self._model)
        for layer, directions in self._directions.items():
            steer = steering.hook(name, directions, self._rows)
            # Whoever else looks at what a layer gives is to see it steered.
            self._hooks.append(layers[layer].register_forward_hook(steer, prepend=True))


def _remove(hooks: list[Any]) -> None:
    """Take hooks off the modules they are on."""
    for registered in hooks:
        registered.remove()
    hooks.clear()
