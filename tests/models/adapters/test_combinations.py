"""Rows that add several adapters, each times a number, against merged weights and against peft."""

from __future__ import annotations

import gc
import itertools
import math

import pytest
import torch
from checkpoints import fresh
from combined import rows_of
from steered import with_peft, with_weights
from trained_adapters import IDS, config_of, logprobs, trained

from descant import ModelError
from descant.models.combinations import BARE, SLOTS
from descant.models.lanes.adapters import Adapters
from descant.models.lanes.transformers_lane import TransformersLane

ON = {"target_modules": ["q_proj", "v_proj"]}
OPTIONS = {  # by the base that they are on
    "base": {
        "plain": {"r": 4, **ON},
        "large": {"r": 12, "lora_alpha": 6, "target_modules": ["o_proj", "up_proj", "q_proj"]},
        "rslora": {"r": 5, "use_rslora": True, "target_modules": ["down_proj", "v_proj"]},
        "patterns": {"r": 3, "rank_pattern": {"v_proj": 7}, "alpha_pattern": {"q_proj": 2}, **ON},
        "dora": {"r": 4, "use_dora": True, "target_modules": ["q_proj", "gate_proj"]},
        "ends": {"r": 4, "target_modules": ["embed_tokens", "lm_head", "v_proj"]},
        "dora ends": {"r": 3, "use_dora": True, "target_modules": ["embed_tokens", "lm_head"]},
    },
    "qwen2": {
        "bias": {"r": 4, "bias": "lora_only", **ON},
        "all biases": {"r": 6, "bias": "all", "target_modules": ["q_proj"]},
        "B's bias": {"r": 4, "lora_bias": True, **ON},
        "dora": {"r": 4, "use_dora": True, "bias": "lora_only", "target_modules": ["q_proj"]},
        "plain": {"r": 2, "target_modules": ["down_proj", "k_proj"]},
    },
}
LORA = ("plain", "large", "rslora", "patterns", "ends")  # those that peft runs together
MIXES = (
    (1.0,), (0.5, 0.5), (-1.5, 0.7, 2.0), (0.3, -0.2, 1.1, 0.6, -0.9, 0.05, 1.7),
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(zoo, tmp_path_factory):
    """The folders of trained adapters, by base and name."""
    made = {}
    for base, each in OPTIONS.items():
        for seed, (name, options) in enumerate(each.items()):
            config, folder = config_of("LORA", base, **options), tmp_path_factory.mktemp("a")
            made[base, name] = trained(zoo.path(base), config, folder, seed=seed)
    return made


@torch.no_grad()
@pytest.mark.parametrize("mix", MIXES, ids=len)
@pytest.mark.parametrize("base", [*OPTIONS])
def test_a_sum_is_the_model_with_the_summed_weights(zoo, folders, base, mix) -> None:
    """Rank, targets, DoRA, biases, rsLoRA, embeddings: whatever they are, they add up."""
    model, names = fresh(zoo.path(base)), [*OPTIONS[base]]
    adapters, ids = Adapters(model), torch.tensor([IDS])
    numbers = {name: adapters.add(name, folders[base, name]) for name in names}
    rows, expected = [], []
    for first in range(len(names)):
        chosen = [names[(first + i) % len(names)] for i in range(min(len(mix), len(names)))]
        rows.append([(numbers[name], w) for name, w in zip(chosen, mix, strict=False)])
        weights = {folders[base, name]: w for name, w in zip(chosen, mix, strict=False)}
        expected.append(logprobs(with_weights(zoo.path(base), weights), ids)[0])
    bare = logprobs(model, ids)[0]
    with adapters.chosen(rows_of(adapters, *rows, 0)):
        found = logprobs(model, ids.expand(len(rows) + 1, -1))
    torch.testing.assert_close(found[-1], bare, rtol=1e-6, atol=1e-6)
    for row, wanted in zip(found, expected, strict=False):
        assert (wanted - bare).abs().max() > 0.01
        torch.testing.assert_close(row, wanted, rtol=2e-5, atol=2e-5)


@torch.no_grad()
def test_a_sum_is_what_peft_gives_with_all_of_them_active(zoo, folders) -> None:
    model = fresh(zoo.path("base"))
    adapters, ids = Adapters(model), torch.tensor([IDS])
    numbers = [adapters.add(name, folders["base", name]) for name in LORA]
    weights = (0.7, -1.2, 0.4, 1.5, -0.3)
    with adapters.chosen(rows_of(adapters, [*zip(numbers, weights, strict=True)])):
        found = logprobs(model, ids)
    by_folder = {folders["base", name]: w for name, w in zip(LORA, weights, strict=True)}
    expected = logprobs(with_peft(fresh(zoo.path("base")), by_folder), ids)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_eleven_preferences_in_a_batch_are_each_alone(zoo, folders) -> None:
    model = fresh(zoo.path("base"))
    adapters, ids = Adapters(model), torch.tensor([IDS])
    one, two = (adapters.add(name, folders["base", name]) for name in ("dora", "ends"))
    mixes = [[(one, step / 10), (two, 1 - step / 10)] for step in range(11)]
    with adapters.chosen(rows_of(adapters, *mixes)):
        together = logprobs(model, ids.expand(11, -1))
    for mix, row in zip(mixes, together, strict=True):
        with adapters.chosen(rows_of(adapters, mix)):
            torch.testing.assert_close(logprobs(model, ids)[0], row, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_number_is_exact_whatever_the_type_of_the_layers(zoo, folders) -> None:
    """1.003 is 1 in bfloat16."""
    model = fresh(zoo.path("base")).to(torch.bfloat16)
    adapters, module = Adapters(model), model.model.layers[0].self_attn.q_proj
    number = adapters.add("plain", folders["base", "plain"])
    parts = adapters._stacked["model.layers.0.self_attn.q_proj"]
    hidden = torch.randn(1, 300, 32, dtype=torch.bfloat16)
    module.weight.zero_()  # what is added is all there is
    with adapters.chosen(rows_of(adapters, [(number, 1.003)])):
        found = module(hidden)[0].double()
    exact = hidden[0].double() @ parts.a.double().T @ parts.b.double()
    factor = (found * exact).sum() / (exact * exact).sum()
    assert abs(factor - 1.003) < 5e-4 and torch.tensor(1.003).bfloat16() == 1


def test_combinations_of_the_same_numbers_are_one(zoo, folders) -> None:
    adapters = Adapters(fresh(zoo.path("base")))
    one, two = (adapters.add(name, folders["base", name]) for name in ("plain", "dora"))
    assert adapters.add("plain", folders["base", "plain"]) == one == 1
    combined = adapters.combination([(one, 0.5), (two, 0.25)])
    assert adapters.combination([(two, 0.25), (one, 0.25), (one, 0.25)]) is combined
    assert adapters.combination([(two, 0.25), (one, 0.5)], start=9) is combined
    assert adapters.combination([(two, 0.1), (two, 0.15), (one, 0.5)]) is combined  # in float32
    assert adapters.combination([(one, 0.5)]) is not combined
    for nothing in ([], [(one, 0.0)], [(one, 1.0), (one, -1.0)], [(two, 1e-60)]):
        assert adapters.combination(nothing) is BARE
    assert BARE.slot == 0 and combined.slot > 0


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, 1e39])
def test_a_number_that_is_none_is_refused(zoo, folders, weight) -> None:
    adapters = Adapters(fresh(zoo.path("base")))
    one = adapters.add("plain", folders["base", "plain"])
    with pytest.raises(ModelError, match=r"plain is to be added \S+ times") as caught:
        adapters.combination([(one, weight)])
    assert caught.value.cure == "give it a finite number"


@torch.no_grad()
def test_slots_are_taken_again_and_the_table_grows(zoo, folders) -> None:
    """Whoever is held keeps its numbers, wherever the table is; the others' slots are free."""
    model = fresh(zoo.path("base"))
    adapters, ids = Adapters(model), torch.tensor([IDS])
    one, two = (adapters.add(name, folders["base", name]) for name in ("plain", "large"))
    held = [adapters.combination([(one, 1 + i), (two, -0.1 * i)]) for i in range(3)]
    slots = [combination.slot for combination in held]
    for weight in range(5 * SLOTS):
        assert adapters.combination([(one, 100.0 + weight)]).slot < SLOTS
    version = adapters.version
    many = [adapters.combination([(two, 2.0 + i)]) for i in range(2 * SLOTS)]
    assert len({each.slot for each in (*held, *many)}) == 3 + 2 * SLOTS
    assert adapters.version != version, "a recording holds the memory that the table had"
    expected = []
    for i in range(3):
        weights = {folders["base", "plain"]: 1.0 + i, folders["base", "large"]: -0.1 * i}
        expected.append(logprobs(with_weights(zoo.path("base"), weights), ids)[0])
    rows = rows_of(adapters, *([(one, 1.0 + i), (two, -0.1 * i)] for i in range(3)))
    assert rows.slots.tolist() == slots
    with adapters.chosen(rows):
        found = logprobs(model, ids.expand(3, -1))
    torch.testing.assert_close(found, torch.stack(expected), rtol=2e-5, atol=2e-5)
    del many, held, rows
    gc.collect()
    assert len(adapters._table._free) == len(adapters._table.starts) - 1


def admitted(lane, prompts, combinations) -> list[int]:
    reading = lane.admit(prompts, combinations)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return list(end.value())


@pytest.mark.parametrize("page_size", [0, 16])
def test_what_is_found_again_is_of_the_same_numbers(zoo, folders, page_size) -> None:
    """Slots are taken again, prompts come again: every row is what its numbers say."""
    base, weights = zoo.path("base"), (0.5, 1.0, -0.5)
    lane = TransformersLane(fresh(base), 300, reads_all=False)
    lane.page_size = page_size
    lane.reserve(4, 96, 800)
    number = lane.adapters.add("plain", folders["base", "plain"])
    text = [3 + i % 50 for i in range(40)]
    ids = torch.tensor([text])
    expected = {0.0: logprobs(fresh(base), ids)[0, -1]}
    for w in weights:
        expected[w] = logprobs(with_weights(base, {folders["base", "plain"]: w}), ids)[0, -1]
    cached, slots = [], set()
    order = [0.5, 1.0, 0.0, 0.5, -0.5, 1.0, 0.0, -0.5, 0.5]
    for pair in itertools.pairwise(order):
        combinations = [lane.adapters.combination([(number, w)]) for w in pair]
        rows = admitted(lane, [text, text], combinations)
        slots |= {combination.slot for combination in combinations}
        del combinations
        found = lane.logits().log_softmax(-1)
        for row, w in zip(rows, pair, strict=True):
            torch.testing.assert_close(found[row], expected[w], rtol=2e-5, atol=2e-5)
        cached.append([lane.cached_tokens(row) for row in rows])
        for row in sorted(rows, reverse=True):
            lane.release(row, text)
    assert cached[0] == [0, 0] and cached[1] == [32, 0] and cached[2] == [32, 32]
    assert cached[4:] == [[32, 32]] * 4 and len(slots) < 5
    lane.adapters.close()
    again = lane.adapters.add("large", folders["base", "large"])
    assert again == number
    rows = admitted(lane, [text], [lane.adapters.combination([(again, 0.5)])])
    assert lane.cached_tokens(rows[0]) == 0, "the numbers are of others now"
    wanted = logprobs(with_weights(base, {folders["base", "large"]: 0.5}), ids)[0, -1]
    torch.testing.assert_close(lane.logits().log_softmax(-1)[rows[0]], wanted, rtol=2e-5, atol=2e-5)
