"""Steered rows, against hooks on transformers' own uncached forward of each text alone."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Sequence
from typing import Any

import pytest
import tiny_architectures as families
import torch
from checkpoints import fresh
from combined import rows_of
from lane_rows import admitted
from peft import PeftModel
from steered import Steered, logits_of, steered
from tiny_architectures import FAMILIES, V, model_type
from torch import Tensor
from transformers import CONFIG_MAPPING

from descant import ModelError
from descant.models.adapters.decoder_layers import decoder_layers
from descant.models.checkpoint.reward_head import OWN_POSITIONS
from descant.models.combinations import BARE, Combination
from descant.models.lanes.batch_classifier import BatchClassifier
from descant.models.lanes.shared import SharedLane
from descant.models.lanes.token_tree import TokenTreeLane
from descant.models.lanes.transformers_lane import TransformersLane

prefill = importlib.import_module("descant.models.lanes.prefill")
LENGTHS = (37, 5, 1, 23, 23)
every = [family for family in FAMILIES if model_type(family) in CONFIG_MAPPING]
every = [family for family in every if family not in ("gemma3n_text", "hy_v4")]  # more than states


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def texts_of(*lengths: int, vocabulary: int = 300) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, vocabulary, (n,), generator=generator).tolist() for n in lengths]


def close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


class Steering:
    """A lane with an answer's vector, one of all positions, and an adapter; and the plain models.

    The vectors are on other layers.
    """

    def __init__(self, zoo: Any, page_size: int = 0, reads_all: bool = False) -> None:
        self.vectors = {
            "honest": {0: 0.3 * drawn(32, seed=1), 1: 0.2 * drawn(32, seed=2)},
            "calm": {1: 0.5 * drawn(32, seed=3)},
            "terse": {0: -0.4 * drawn(32, seed=4)},
        }
        self.lane = TransformersLane(fresh(zoo.path("base")), 300, reads_all)
        self.lane.page_size = page_size
        self.lane.reserve(6, 128, 1600)
        adapters = self.lane.adapters
        self.numbers = {
            "lora4": adapters.add("lora4", zoo.path("lora4")),
            "honest": adapters.add_vector("honest", self.vectors["honest"]),
            "calm": adapters.add_vector("calm", self.vectors["calm"], tokens="all"),
            "terse": adapters.add_vector("terse", self.vectors["terse"], tokens="answer"),
        }
        self.bare = fresh(zoo.path("base"))
        adapted = PeftModel.from_pretrained(fresh(zoo.path("base")), zoo.path("lora4")).eval()
        self.adapted = adapted.base_model.model

    def combination(self, mix: dict[str, float], start: int) -> Combination:
        pairs = [(self.numbers[name], weight) for name, weight in mix.items()]
        return self.lane.adapters.combination(pairs, start)

    def expected(self, mix: dict[str, float], text: Sequence[int], start: int) -> Tensor:
        """``(len(text), V)``."""
        model = self.adapted if "lora4" in mix else self.bare
        vectors: list[Steered] = [
            (self.vectors[name], weight, 0 if name == "calm" else start)
            for name, weight in mix.items()
            if name != "lora4"
        ]
        return logits_of(model, model.model.layers, text, *vectors)


MIXES: list[dict[str, float]] = [
    {"honest": 2.0},
    {},
    {"honest": -1.0, "calm": 0.7, "lora4": 1.0},
    {"calm": -1.5},
    {"terse": 1.3, "honest": 0.4},
]


@pytest.mark.parametrize("shares", [True, False], ids=["found again", "read anew"])
@pytest.mark.parametrize("page_size", [0, 16])
def test_rows_are_each_steered_as_if_alone(zoo, page_size, shares, monkeypatch) -> None:
    """Chunks, single steps, several tokens at once; then again, with what has been drawn."""
    monkeypatch.setattr(prefill, "CHUNK", 24)
    steering = Steering(zoo, page_size)
    lane, prompts = steering.lane, texts_of(*LENGTHS)
    lane.shares_prefixes = shares
    lane.reserve(6, 128, 1600)
    starts, read = [len(prompt) for prompt in prompts], [[*prompt] for prompt in prompts]
    for turn in range(3):  # the second goes on after what was drawn, as whoever was preempted
        combinations = [
            steering.combination(mix, start) for mix, start in zip(MIXES, starts, strict=True)
        ]
        rows = admitted(lane, read, combinations)
        if turn == 1 and shares:
            assert lane.cached_tokens(rows[0]) == 32, "of the prompt, and nothing of the answer"
            assert lane.cached_tokens(rows[3]) == (25 - 1) // 16 * 16
        order = torch.tensor(rows).argsort()
        more = torch.randint(3, 300, (5, 4), generator=torch.Generator().manual_seed(turn))
        for step in range(4):
            logits = lane.logits()
            for mix, text, start, row in zip(MIXES, read, starts, rows, strict=True):
                close(logits[row], steering.expected(mix, text, start)[-1])
            lane.feed(more[order, step])
            for text, token in zip(read, more[:, step].tolist(), strict=True):
                text.append(token)
        several = lane.logits_of_last(3)
        for mix, text, start, row in zip(MIXES, read, starts, rows, strict=True):
            close(several[row], steering.expected(mix, text, start)[-3:])
        for row in range(4, -1, -1):
            lane.release(row, read[rows.index(row)])
        read = [text[: start + 2] for text, start in zip(read, starts, strict=True)]


@pytest.mark.parametrize("page_size", [0, 16])
def test_rows_of_other_weights_share_their_prompt(zoo, page_size) -> None:
    """Eleven weights of an answer's vector read one prompt once; those of all positions, each."""
    steering = Steering(zoo, page_size)
    steering.lane.reserve(11, 96, 1400)
    [prompt] = texts_of(65)
    mixes = [{"honest": weight / 4} for weight in range(11)]
    combinations = [steering.combination(mix, 65) for mix in mixes]
    assert combinations[0] is BARE and {each.key for each in combinations} == {BARE.key}
    rows = admitted(steering.lane, [prompt] * 11, combinations)
    cached = sorted(steering.lane.cached_tokens(row) for row in rows)
    assert cached == [0] + [64] * 10
    steering.lane.feed(torch.full((11,), 7))
    logits = steering.lane.logits()
    for mix, row in zip(mixes, rows, strict=True):
        close(logits[row], steering.expected(mix, [*prompt, 7], 65)[-1])
    for row in range(10, -1, -1):
        steering.lane.release(row, [*prompt, 7])
    of_all = [steering.combination({"calm": weight}, 65) for weight in (1.0, 2.0)]
    assert of_all[0] is steering.combination({"calm": 1.0}, 9), "where answers begin is nothing"
    rows = admitted(steering.lane, [prompt, prompt], of_all)
    assert [steering.lane.cached_tokens(row) for row in rows] == [0, 0]


def test_copies_are_steered_as_their_sources(zoo) -> None:
    steering = Steering(zoo, 16)
    lane, prompts = steering.lane, texts_of(20, 20, 20)
    mixes = [{"honest": 1.0}, {"honest": -2.0}, {"calm": 1.0}]
    combinations = [steering.combination(mix, 20) for mix in mixes]
    rows = admitted(lane, prompts, combinations)
    by_row = {row: i for i, row in enumerate(rows)}
    lane.feed(torch.tensor([5, 6, 7]))
    lane.copy_rows([0, 0], [1, 2])
    del combinations
    logits, source = lane.logits(), by_row[0]
    wanted = steering.expected(mixes[source], [*prompts[source], 5], 20)[-1]
    for row in range(3):
        close(logits[row], wanted)


def test_a_view_of_a_shared_lane_steers_its_rows(zoo) -> None:
    steering = Steering(zoo)
    shared = SharedLane(steering.lane)
    steering.lane.reserve(0, 0)
    one, other = shared.view(), shared.view()
    for view in (one, other):
        view.reserve(2, 64)
    prompts, mixes = texts_of(9, 12), [{"honest": 1.5}, {"calm": 0.5}]
    for view, prompt, mix in zip((one, other), prompts, mixes, strict=True):
        combination = steering.combination(mix, len(prompt))
        assert view.pages_needed(prompt, combination) == 0
        admitted(view, [prompt], [combination])
        view.feed(torch.tensor([9]))
    for view, prompt, mix in zip((one, other), prompts, mixes, strict=True):
        close(view.logits()[0], steering.expected(mix, [*prompt, 9], len(prompt))[-1])


@torch.no_grad()
@pytest.mark.parametrize("family", every)
def test_layers_of_every_architecture_are_steered(family) -> None:
    """Prompts of several lengths, and a step."""
    model = families.model(family)
    layers = decoder_layers("v", model)
    width = model.config.get_text_config().hidden_size
    directions = {0: 0.5 * drawn(width, seed=1), len(layers) - 1: 0.5 * drawn(width, seed=2)}
    prompts = texts_of(21, 5, 13, vocabulary=V)
    expected = []
    for prompt, start in zip(prompts, (21, 0, 13), strict=True):
        expected.append(logits_of(model, layers, [*prompt, 7], (directions, 1.5, start))[-1])
    bare = logits_of(model, layers, [*prompts[0], 7])[-1]
    lane = TransformersLane(model, V, reads_all=False)
    answer = lane.adapters.add_vector("v", directions)
    everywhere = lane.adapters.add_vector("v", directions, tokens="all")
    lane.reserve(3, 64)
    pairs = zip((answer, everywhere, answer), (21, 5, 13), strict=True)
    combinations = [lane.adapters.combination([(number, 1.5)], start) for number, start in pairs]
    rows = admitted(lane, prompts, combinations)
    lane.feed(torch.full((3,), 7))
    logits = lane.logits()
    found = torch.stack([logits[row] for row in rows])
    wanted = torch.stack(expected)
    assert (wanted[0] - bare).abs().max() > 1e-3
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    lane.adapters.close()
    assert torch.equal(logits_of(model, layers, [*prompts[0], 7])[-1], bare)


@pytest.mark.skipif("gemma3n_text" not in FAMILIES, reason="transformers has no Gemma 3n")
def test_layers_of_several_streams_are_refused() -> None:
    lane = TransformersLane(families.model("gemma3n_text"), V, reads_all=False)
    number = lane.adapters.add_vector("v", {0: torch.ones(lane.config.hidden_size)})
    lane.reserve(1, 64)
    combination = lane.adapters.combination([(number, 1.0)], 2)
    with pytest.raises(ModelError, match="the vector v is on layers that give more than hidden"):
        admitted(lane, [[4, 5]], [combination])


@torch.no_grad()
@pytest.mark.parametrize("reads_all", [True, False])
def test_candidates_of_a_reward_are_steered(zoo, reads_all) -> None:
    """Each of a tree's queries at its own position, the winner's keys among those that follow."""
    model, plain = copy.deepcopy(zoo.model("rm")), zoo.model("rm")
    lane, prompts = TransformersLane(model, 300, reads_all), texts_of(7, 4)
    directions = {0: 0.5 * drawn(32, seed=1)}
    number = lane.adapters.add_vector("kind", directions)
    lane.reserve(2, 64)
    weights = (1.0, -2.0)
    combinations = [
        lane.adapters.combination([(number, weight)], len(prompt))
        for weight, prompt in zip(weights, prompts, strict=True)
    ]
    rows, read = admitted(lane, prompts, combinations), [[*prompt] for prompt in prompts]
    order = torch.tensor(rows).argsort()
    for step in range(3):
        candidates = torch.randint(3, 300, (2, 4), generator=torch.Generator().manual_seed(step))
        rewards = lane.rewards(candidates[order])[0]
        for i, text in enumerate(read):
            for k, token in enumerate(candidates[i].tolist()):
                with steered(plain.model.layers, [(directions, weights[i], len(prompts[i]))]):
                    wanted = plain(input_ids=torch.tensor([[*text, token]])).logits[0]
                close(rewards[rows[i], k], wanted)
            text.append(int(candidates[i, 1]))
        chosen = candidates[order, 1]
        lane.keep(torch.ones(2, dtype=torch.long), chosen) if reads_all else lane.feed(chosen)


@torch.no_grad()
def test_rewards_of_whole_texts_take_vectors_of_all_positions(zoo) -> None:
    model, plain = copy.deepcopy(zoo.model("rm")), zoo.model("rm")
    classifier = BatchClassifier("rm", model, None, OWN_POSITIONS)
    directions = {1: 0.5 * drawn(32, seed=1)}
    with pytest.raises(ModelError, match="the vector kind steers answers alone") as caught:
        classifier.adapters.add_vector("kind", directions)
    assert caught.value.cure == "say tokens: all with it"
    number = classifier.adapters.add_vector("kind", directions, tokens="all")
    combinations = [classifier.adapters.combination([(number, w)]) for w in (2.0, 0.0, -1.0)]
    ids = texts_of(6, 9, 2)
    inputs: list[Any] = [{"input_ids": text, "attention_mask": [1] * len(text)} for text in ids]
    found = classifier.outputs(inputs, combinations)
    for text, weight, reward in zip(ids, (2.0, 0.0, -1.0), found, strict=True):
        with steered(plain.model.layers, [(directions, weight, 0)]):
            close(reward, plain(input_ids=torch.tensor([text])).logits[0])


@torch.no_grad()
def test_branches_of_a_tree_are_steered(zoo) -> None:
    """Alternatives of several tokens over a cached text, as rewards that read text have them."""
    plain, directions = zoo.model("rm"), {0: 0.5 * drawn(32, seed=1), 1: drawn(32, seed=2)}
    lane = TokenTreeLane(copy.deepcopy(plain), 300, reads_all=True, knows_answers=False)
    number = lane.adapters.add_vector("calm", directions, tokens="all")
    lane.reserve(2, 64)
    prompts, weights = texts_of(12, 6), (1.5, -1.0)
    combinations = [lane.adapters.combination([(number, weight)]) for weight in weights]
    rows = admitted(lane, prompts, combinations)
    order = torch.tensor(rows).argsort().tolist()
    for more in ([3, 4], [5, 6, 7]):
        texts = [
            [[*prompts[i], *more], [*prompts[i][:-2], 9, *more], [*prompts[i], 8]] for i in order
        ]
        found = lane.outputs(texts)
        wanted = []
        for i, alternatives in zip(order, texts, strict=True):
            with steered(plain.model.layers, [(directions, weights[i], 0)]):
                wanted += [plain(input_ids=torch.tensor([text])).logits[0] for text in alternatives]
        close(found, torch.stack(wanted))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(zoo, dtype) -> None:
    lane = TransformersLane(fresh(zoo.path("base")).to(dtype), 300, reads_all=False)
    direction = drawn(32, seed=1)
    number = lane.adapters.add_vector("v", {0: direction}, tokens="all")
    layer, given = lane.model.model.layers[0], torch.randn(1, 9, 32).to(dtype)
    rows = rows_of(lane.adapters, [(number, 1.003)])
    seen = []
    layer.register_forward_pre_hook(lambda module, args: None)
    layer.forward = lambda hidden: hidden
    with lane.adapters.chosen(rows, torch.arange(9)[None]):
        seen.append(layer(given))
    assert torch.equal(seen[0], (given.float() + 1.003 * direction).to(dtype))
    assert seen[0].dtype == dtype and not torch.equal(seen[0], given)


@pytest.mark.parametrize(
    ("directions", "problem"),
    [
        ({0: torch.ones(31)}, "not fit its base: its directions are 31 wide, its base is 32"),
        (
            {2: torch.ones(32)},
            "not fit its base: it has a direction for layer 2, and its base has 2",
        ),
        ({0: torch.full((32,), torch.nan)}, "numbers that are not finite"),
        ({-1: torch.ones(32)}, "numbers no layer"),
        ({}, "has no tensor direction.N"),
    ],
)
def test_a_vector_of_another_model_is_refused(zoo, directions, problem) -> None:
    lane = TransformersLane(fresh(zoo.path("base")), 300, reads_all=False)
    with pytest.raises(ModelError, match=problem):
        lane.adapters.add_vector("honest", directions)


def test_a_vector_is_loaded_once(zoo) -> None:
    lane = TransformersLane(fresh(zoo.path("base")), 300, reads_all=False)
    one = {0: drawn(32, seed=1)}
    number = lane.adapters.add_vector("v", one)
    assert lane.adapters.add_vector("v", {0: one[0].clone()}) == number
    assert lane.adapters.nbytes == 32 * 4 and len(lane.adapters.memory) == 1
    others = [
        lane.adapters.add_vector("v", one, tokens="all"),
        lane.adapters.add_vector("w", one),
        lane.adapters.add_vector("v", {0: 2 * one[0]}),
        lane.adapters.add_vector("v", {1: one[0]}),
    ]
    assert len({number, *others}) == 5


def test_bare_rows_run_no_hook_s_work(zoo, monkeypatch) -> None:
    """As if nothing were loaded: not an operation more."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    counts = []
    for loaded in (False, True):
        bare = TransformersLane(fresh(zoo.path("base")), 300, reads_all=False)
        lane = Steering(zoo).lane if loaded else bare
        lane.reserve(2, 64)
        admitted(lane, texts_of(9, 9), [BARE, BARE])
        lane.logits()
        lane.feed(torch.tensor([4, 5]))
        names: list[str] = []
        with Counter():
            lane.logits()
        counts.append(names)
    assert counts[0] == counts[1] and len(counts[0]) > 50
