"""The lane of ``chain_lane`` where the chain is a state: what a row has read, and in which order.

A token that is read twice, or not, or from the state of another row, shows in every number after
it. A second layer keeps keys and values by position, and a third both.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from chain_lane import (
    LARGEST,
    SHAPES,
    ChainLane,
    after,
    expected,
    first,
    logits_of,
    states,
    steered,
)
from torch import Tensor

from descant.models.cache.layers.states import LayerKind
from descant.models.cache.survey import Survey
from descant.models.combinations import Chosen
from descant.models.lanes.recurrent.lane import RecurrentLane

KINDS = LayerKind(1, by_position=False), LayerKind(), LayerKind(1, by_position=True)


class StateChainLane(RecurrentLane, ChainLane):
    """The lane: of a language model, or of rewards.

    Where it is ``by_token``, its model goes on from a state by one token at a time.
    """

    _by_token = _in_one = False

    def __init__(self, shares: bool, reads_all: bool, by_token: bool, language: bool) -> None:
        self._kinds = KINDS
        self._by_token = self._in_one = by_token
        self._says_logits = language
        self._last = {"logits_to_keep": 1}
        ChainLane.__init__(self, 0, shares, reads_all)
        self._survey = (8, Survey(state_bytes=32))
        self.model.config = SimpleNamespace(num_labels=1)

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
        cache = self.blocks.cache
        cache.see(window)
        read, place = (t.reshape(-1, 1) if window.copies else t for t in (tokens, positions))
        added = torch.zeros(len(tokens), dtype=torch.long) if chosen is None else chosen.slots
        added = added.repeat_interleave(window.copies or 1)
        fresh = torch.stack((torch.zeros_like(added), torch.zeros_like(added)), dim=1)
        state = self._state(0) if cache.has_previous_state(0) else None
        state = fresh if state is None else state.clone()
        numbers, totals = torch.zeros_like(read), torch.zeros_like(read)
        for query, (token, at) in enumerate(zip(read.T, place.T, strict=True)):
            before = torch.where(state[:, 0] > 0, state[:, 0], first(added))
            numbers[:, query] = after(before, steered(added, token, at))
            totals[:, query] = (state[:, 1] + numbers[:, query]) % LARGEST
            state = torch.stack((numbers[:, query], totals[:, query]), dim=1)
        for layer in (0, 2):
            cache.update_recurrent_state(state.double(), layer)
        for layer, shape in zip((1, 2), SHAPES, strict=True):
            keys = states(numbers, shape.key_size, shape.groups, layer - 1)
            values = states(numbers, shape.value_size, shape.groups, layer + 4)
            cache.update(keys, values, layer)
        cache.settle()
        logits = logits_of(totals)
        logits = logits[:, -1:] if "logits_to_keep" in options else logits
        return SimpleNamespace(logits=logits, last_hidden_state=totals[..., None])

    def _state(self, layer: int) -> Tensor | None:
        state = self.blocks.cache.layers[layer].recurrent_states[0]
        return None if state is None else state.long()

    def held(self, row: int, tokens: int) -> list[tuple[Tensor, Tensor]]:
        layers = self.blocks.cache.layers[1:]
        return [
            (layer.keys[row, :, :tokens], layer.values[row, :, :tokens])
            for layer in layers
            if layer.keys is not None
        ]

    def check_state(self, row: int, added: int, text: list[int]) -> None:
        """A row's states are of as much of its text as they say."""
        known = self.blocks.held[row].known
        assert known.read <= len(text)
        for layer in (0, 2):
            pools = self.blocks.cache.layers[layer].pools
            if not pools or not known.read:
                continue
            number = int(pools["recurrent_states", 0][row, 0])
            assert number == int(expected(added, text[: known.read])[0][0][0, -1, 0])
