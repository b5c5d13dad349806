"""A lane without weights: what a token's key is depends on what is added and on all tokens before.

Keys are whole numbers in a chain, each made of the one before, which is looked up in the cache as
attention looks it up. A key of another text, or of another row, shows in every number after it.
All else is a lane of transformers: its rows, its memory, how it reads prompts and rewinds texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from descant.models.cache.blocks.paged import PagedBlocks
from descant.models.cache.blocks.paged_cache import side_by_side
from descant.models.cache.live import LiveAttention
from descant.models.cache.survey import LayerShape, Survey
from descant.models.combinations import Chosen, Combination
from descant.models.footprint import Footprint
from descant.models.lanes.transformers_lane import TransformersLane

SHAPES = [LayerShape(1, 1, 2), LayerShape(2, 3, 1)]  # layers need not be alike
PRIME, LARGEST, V = 2**31 - 1, 65521, 5
CPU = torch.device("cpu")


@cache
def combination(added: int) -> Combination:
    """What is added: an adapter, 0 or 1, and twice the start of the answers that are steered."""
    return Combination(added % 2, int(added > 0), added // 2 or None, lambda combination: added)


def first(added: Any) -> Any:
    """What stands before the first token."""
    return 1009 + 7919 * (added % 2)


def steered(added: Any, token: Any, position: Any) -> Any:
    """What a token counts as at its position."""
    return token + 100 * ((position >= added // 2) & (added > 1))


def after(number: Any, token: Any) -> Any:
    """The number of a token, from that of the token before it."""
    return (number * 48271 + token * 69621 + 12345) % PRIME


def chain(added: int, tokens: Sequence[int]) -> list[int]:
    """The number of each token of a text."""
    counted = [steered(added, token, position) for position, token in enumerate(tokens)]
    return [*accumulate(counted, after, initial=first(added))][1:]


def said(added: int, tokens: Sequence[int]) -> int:
    """What the lane says after a text."""
    return sum(chain(added, tokens)) % LARGEST


def logits_of(number: Tensor | int) -> Tensor:
    """``(..., V)`` of what is said."""
    return (torch.as_tensor(number)[..., None] + torch.arange(V) ** 2).float()


def states(numbers: Tensor, size: int, groups: int, part: int) -> Tensor:
    """``(n, groups, q, size)`` keys or values of ``(n, q)`` numbers; each has all of a number."""
    parts = torch.arange(groups * size).view(groups, 1, size) + 10 * part
    return (numbers[:, None, :, None] + parts).double()


class ChainLane(TransformersLane):
    """The lane; ``page_size`` is 0 where keys lie side by side."""

    def __init__(self, page_size: int, shares: bool = True, reads_all: bool = False) -> None:
        self.page_size, self.shares_prefixes, self._reads_all = page_size, shares, reads_all
        self.model, self.vocabulary = nn.Linear(1, 1), V
        self.device, self.dtype, self.exact_length = CPU, torch.float64, True
        self.adapters: Any = SimpleNamespace(version=0, changes=list, flush=list)
        self.heads: Any = SimpleNamespace(width=0, nbytes=0, memory={})
        self.live = LiveAttention(CPU, self.dtype)
        self._limits, self._rules = [], []
        self._survey, self._footprint = (8, Survey(shapes=SHAPES)), Footprint(8)
        self._gives_logits = not reads_all
        self.head: Any = lambda states: states.float()
        self.reserve(0, 0)

    def _reserve_pages(self, *arguments: Any) -> None:
        super()._reserve_pages(*arguments)
        assert isinstance(self.blocks, PagedBlocks)
        self.blocks.cache._pool.fill_(torch.nan)  # what nobody wrote may be anything

    def _forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        window: Any,
        chosen: Chosen | None,
        backbone: bool,
        lengths: Tensor | None = None,
        slots: Tensor | None = None,
        **options: Any,
    ) -> Any:
        self.blocks.cache.see(window)
        known = self._known(tokens, window)
        rows = torch.arange(len(tokens))
        added = torch.zeros_like(rows) if chosen is None else chosen.slots
        start = first(added)
        numbers = torch.zeros_like(tokens)
        for query, (token, at) in enumerate(zip(tokens.T, positions.T, strict=True)):
            one_before = torch.where(at > 0, known[rows, (at - 1).clamp(min=0)], start)
            numbers[:, query] = after(one_before, steered(added, token, at))
            known[rows, window.cache_positions[:, query]] = numbers[:, query]
        self._write(numbers)
        sums = torch.nn.functional.pad(known.cumsum(1), (1, 0)).gather(1, positions)
        total = (sums + numbers) % LARGEST
        return SimpleNamespace(logits=logits_of(total), last_hidden_state=total[..., None])

    def _known(self, tokens: Tensor, window: Any) -> Tensor:
        """``(n, limit)`` the numbers that rows have; anything where this forward writes."""
        cache = self.blocks.cache
        if not isinstance(self.blocks, PagedBlocks):
            return self._write(torch.zeros_like(tokens))
        pages = cache.layers[0].keys.transpose(1, 2)  # a row may write again what others read
        return side_by_side(pages, window)[:, 0, :, 0].nan_to_num().long()

    def _write(self, numbers: Tensor) -> Tensor:
        """Write keys and values of all layers; ``(n, limit)`` the numbers that the first shows."""
        shown = []
        for layer, shape in enumerate(SHAPES):
            keys = states(numbers, shape.key_size, shape.groups, layer)
            values = states(numbers, shape.value_size, shape.groups, layer + 5)
            shown.append(self.blocks.cache.update(keys, values, layer))
        return shown[0][0][:, 0, :, 0].long()

    def held(self, row: int, tokens: int) -> list[tuple[Tensor, Tensor]]:
        """Per layer, the keys and values of the first tokens of a row: ``(groups, tokens, n)``."""
        if not isinstance(self.blocks, PagedBlocks):
            pairs = [(layer.keys, layer.values) for layer in self.blocks.cache.layers]
            return [(keys[row, :, :tokens], values[row, :, :tokens]) for keys, values in pairs]
        self.rows.flush()
        table = self.rows.tables[row].long()
        return [
            tuple(
                pool[table].flatten(0, 1)[:tokens].transpose(0, 1)
                for pool in (layer.keys, layer.values)
            )
            for layer in self.blocks.cache.layers
        ]  # type: ignore[misc]


def expected(added: int, tokens: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """What ``held`` is to be, of a text."""
    numbers = torch.tensor([chain(added, tokens)], dtype=torch.long)
    return [
        (
            states(numbers, shape.key_size, shape.groups, layer)[0],
            states(numbers, shape.value_size, shape.groups, layer + 5)[0],
        )
        for layer, shape in enumerate(SHAPES)
    ]
