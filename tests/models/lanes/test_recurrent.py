"""Rows whose layers keep states: what transformers' own cached decoding says of each text alone."""

from __future__ import annotations

import importlib
import random
from typing import Any

import pytest
import tiny_architectures as families
import torch
from cached_decoding import said_along
from lane_rows import admitted
from tiny_architectures import STATES, V
from torch import Tensor
from transformers import CONFIG_MAPPING

from descant.models.cache.layers.states import StateLayer
from descant.models.lanes.recurrent.lane import RecurrentLane, token_lane

lane_file = importlib.import_module("descant.models.lanes.prefill")
LENGTHS = (21, 5, 1, 13, 5)
CAPACITY = 64
EXACT, WRONG = 5e-5, 1e-3  # of the largest logit: states of random weights are large
here = [family for family in STATES if family in CONFIG_MAPPING]
THREE = ["qwen3_next", "falcon_h1", "mamba2"]  # by turns, both in a layer, states alone


def drawn(length: int, seed: int = 1) -> list[int]:
    return torch.randint(3, V, (length,), generator=torch.manual_seed(seed)).tolist()


def off(found: Tensor, expected: Tensor) -> float:
    return ((found.float() - expected).abs().max() / expected.abs().max()).item()


def said_by_rows(model: Any, steps: int = 4, chunk: int = 24) -> tuple[float, RecurrentLane]:
    """How far rows of different lengths are from each text alone, over several steps."""
    lane = token_lane(model, V, reads_all=False)
    assert isinstance(lane, RecurrentLane)
    lane.reserve(len(LENGTHS), CAPACITY)
    prompts = [drawn(length, seed) for seed, length in enumerate(LENGTHS)]
    made = [drawn(steps, 100 + seed) for seed in range(len(prompts))]
    rows, found = admitted(lane, prompts), list[Tensor]()
    order = torch.tensor(rows).argsort().tolist()
    for step in range(steps):
        logits = lane.logits()
        found.append(torch.stack([logits[row] for row in rows]))
        lane.feed(torch.tensor([made[number][step] for number in order]))
    expected = [said_along(model, *pair)[:steps] for pair in zip(prompts, made, strict=True)]
    return off(torch.stack(found, dim=1), torch.stack([torch.stack(e) for e in expected])), lane


@pytest.mark.parametrize("family", here)
def test_rows_say_what_the_model_says_alone(family, monkeypatch) -> None:
    monkeypatch.setattr(lane_file, "CHUNK", 12)  # of one text; of two of a length, 6 of each
    difference, lane = said_by_rows(families.model(family))
    assert difference < EXACT
    cache, footprint = lane.blocks.cache, lane.footprint()
    keys = sum(tensor.nbytes for tensor in cache._tensors())
    assert footprint.token_bytes * len(LENGTHS) * (CAPACITY + cache.scratch) == keys
    states = sum(pool.nbytes for layer in cache._state_layers() for pool in layer.pools.values())
    assert lane._survey[1].state_bytes * len(LENGTHS) == states > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["qwen3_next", "falcon_h1"])
def test_half_precision(family, dtype) -> None:
    model = families.model(family, dtype=dtype)
    assert said_by_rows(model)[0] < 8 * torch.finfo(dtype).eps


def wrong_mask(patch: Any) -> None:
    """Rows that do not read change, too."""
    patch.setattr(StateLayer, "_take", staticmethod(lambda own, new, window: own.copy_(new)))


def padded(patch: Any) -> None:
    """Prompts of unlike lengths are read in one forward."""
    patch.setattr(RecurrentLane, "pads", True)


@pytest.mark.parametrize("mistake", [wrong_mask, padded])
@pytest.mark.parametrize("family", THREE)
def test_a_mistake_is_found(family, mistake, monkeypatch) -> None:
    mistake(monkeypatch)
    assert ragged_steps(family) > WRONG


def ragged_steps(family: str) -> float:
    """How far rows are from each text alone, where some read more than others."""
    lane, texts = lane_with(family)
    for step in range(3):
        lane.rows.feed_rows(torch.tensor([7 + step]), torch.tensor([1]), [1])
        texts[1].append(7 + step)
    lane.logits()
    lane.feed(torch.tensor([5, 6, 7, 8]))
    for text, token in zip(texts, (5, 6, 7, 8), strict=True):
        text.append(token)
    expected = [said_along(lane.model, text)[-1] for text in texts]
    return off(lane.logits(), torch.stack(expected))


def lane_with(family: str) -> tuple[RecurrentLane, list[list[int]]]:
    """A lane of four rows, and their texts by row."""
    lane = token_lane(families.model(family), V, reads_all=False)
    assert isinstance(lane, RecurrentLane)
    lane.reserve(8, CAPACITY)
    admitted(lane, [drawn(length, 40 + length) for length in (9, 4, 9, 14)])
    return lane, lane.rows.all_texts()


@pytest.mark.parametrize("family", THREE)
def test_a_forward_that_raises_half_way(family) -> None:
    """Some layers have read a token, others have not: the next step is right, nevertheless."""
    lane, texts = lane_with(family)
    lane.logits()
    lane.feed(torch.tensor([5, 6, 7, 8]))

    def raising(*_: Any) -> None:
        raise RuntimeError("half-way")

    handle = lane.model.base_model.layers[1].register_forward_pre_hook(raising)
    with pytest.raises(RuntimeError, match="half-way"):
        lane.logits()
    handle.remove()
    expected = [
        said_along(lane.model, text, [token])[-1]
        for text, token in zip(texts, (5, 6, 7, 8), strict=True)
    ]
    assert off(lane.logits(), torch.stack(expected)) < EXACT


def test_a_text_that_ends_where_nothing_was_said_is_read_again() -> None:
    """Its states hold all of it, and what follows it is not known: nothing can be taken out."""
    lane, texts = lane_with("qwen3_next")
    lane.logits()
    for token in (5, 6):
        lane.rows.feed_rows(torch.tensor([token]), torch.tensor([1]), [1])
    lane.save()  # which reads all but the last
    texts[1].append(5)
    lane.rows.rewrite({1: (len(texts[1]), [])})
    expected = torch.stack([said_along(lane.model, text)[-1] for text in texts])
    assert off(lane.logits_of_last(1)[:, -1], expected) < EXACT


class Played:
    """A lane, and the texts that its rows must have; every change is made to both."""

    def __init__(self, family: str, seed: int) -> None:
        self.lane, self.texts = lane_with(family)
        self.draw, self.worst = random.Random(seed), 0.0

    def token(self) -> int:
        return self.draw.randrange(3, V)

    def row(self) -> int:
        return self.draw.randrange(len(self.texts))

    def play(self) -> None:
        changes = [self.feed, self.feed_some, self.cut, self.copy, self.release, self.join]
        seldom = self.grow if self.draw.random() < 0.1 else self.feed
        self.draw.choice([*changes, self.read, self.read_last, self.save, self.save, seldom])()
        assert self.lane.rows.all_texts() == self.texts

    def feed(self) -> None:
        tokens = [self.token() for _ in self.texts]
        self.lane.feed(torch.tensor(tokens))
        for text, token in zip(self.texts, tokens, strict=True):
            text.append(token)

    def feed_some(self) -> None:
        rows = self.draw.sample(range(len(self.texts)), self.draw.randint(1, len(self.texts)))
        for row in rows[: self.draw.randint(1, 3)]:
            token = self.token()
            self.lane.rows.feed_rows(torch.tensor([token]), torch.tensor([row]), [row])
            self.texts[row].append(token)

    def cut(self) -> None:
        row = self.row()
        kept, new = self.draw.randrange(0, len(self.texts[row]) + 1), [self.token()]
        self.lane.rows.rewrite({row: (kept, new)})
        self.texts[row][kept:] = new

    def copy(self) -> None:
        source, target = self.row(), self.row()
        self.lane.copy_rows([source], [target])
        self.texts[target] = [*self.texts[source]]

    def release(self) -> None:
        if len(self.texts) > 1:
            row = self.row()
            self.lane.release(row)
            self.texts[row] = self.texts[-1]
            self.texts.pop()

    def join(self) -> None:
        if len(self.texts) < 7:
            new = [drawn(self.draw.choice((1, 3, 12)), self.draw.randrange(99)) for _ in range(2)]
            new[1] = self.draw.choice([new[0], new[1]])
            rows = admitted(self.lane, new)
            self.texts += [[*new[rows.index(row)]] for row in sorted(rows)]

    def read(self) -> None:
        self.check(self.lane.logits(), [said_along(self.lane.model, t)[-1] for t in self.texts])

    def read_last(self) -> None:
        n = self.draw.randint(1, min(3, *map(len, self.texts)))
        said = self.lane.logits_of_last(n)[:, -1]
        self.check(said, [said_along(self.lane.model, text)[-1] for text in self.texts])

    def save(self) -> None:
        self.lane.save()

    def grow(self) -> None:
        self.lane.grow(self.lane.rows.capacity + 32, tokens=0)

    def check(self, found: Tensor, expected: list[Tensor]) -> None:
        found = found[: len(expected)]
        self.worst = max(self.worst, off(found, torch.stack(expected)))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("family", [*THREE, "jamba"])
def test_whatever_happens_to_rows(family, seed, monkeypatch) -> None:
    monkeypatch.setattr(lane_file, "CHUNK", 24)
    played = Played(family, seed)
    for _ in range(90):
        if max(map(len, played.texts)) < CAPACITY - 1:
            played.play()
    played.read()
    assert played.worst < EXACT
