"""What the forward that reads prompts says of their first tokens, and when nobody may use it.

It is held against the ordinary step, which reads the last token again, and against transformers'
own forward of each text alone.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tiny_architectures as families
import torch
from tiny_architectures import FAMILIES, V, model_type
from torch import Tensor
from transformers import CONFIG_MAPPING, LlamaForCausalLM

import descant
from descant.models.combinations import BARE
from descant.models.lanes.shared import SharedLane
from descant.models.lanes.transformers_lane import TransformersLane
from descant.runtime.decoder import Decoder

lane_file = importlib.import_module("descant.models.lanes.prefill")
CAPACITY, EXACT = 64, 1e-5
here = [family for family in FAMILIES if model_type(family) in CONFIG_MAPPING]


def prompt(length: int, seed: int = 1) -> list[int]:
    return torch.randint(3, V, (length,), generator=torch.manual_seed(seed)).tolist()


def admitted(lane: Any, prompts: Sequence[Sequence[int]], room: int = 8) -> Any:
    """A lane that has read prompts; row ``i`` is the one of prompt ``i``."""
    if not lane.rows.count:
        lane.reserve(room, CAPACITY)
    first = lane.rows.count
    reading = lane.admit(prompts, [BARE] * len(prompts))
    while True:
        try:
            next(reading)
        except StopIteration as end:
            assert sorted(end.value()) == [*range(first, first + len(prompts))]
            return lane


def lane_of(prompts: Sequence[Sequence[int]], model: Any = None) -> TransformersLane:
    return admitted(TransformersLane(model or families.model("llama"), V, False), prompts)


@torch.no_grad()
def alone(model: Any, ids: Sequence[int]) -> Tensor:
    """transformers' own forward over one text, without a cache: what it says at the end."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits.reshape(-1, V)[-1].float()


def check(lane: Any, logits: Tensor | None = None) -> None:
    """The logits of every row are those of its text alone."""
    logits = lane.logits() if logits is None else logits
    for row in range(lane.rows.count):
        expected = alone(lane.model, lane.rows.text(row).tolist())
        assert (logits[row] - expected).abs().max() < EXACT * expected.abs().max()


PROMPTS = {
    "one": [prompt(21)],
    "of one token": [prompt(1)],
    "of one length": [prompt(13, seed) for seed in range(3)],
    "repeated": [prompt(13), prompt(13, 2), prompt(13), prompt(13), prompt(13, 2)],
    "of two lengths, far apart": [prompt(30), prompt(6), prompt(6), prompt(30, 2)],
}


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("family", here)
def test_they_are_those_of_the_ordinary_step(family, prompts, monkeypatch) -> None:
    monkeypatch.setattr(lane_file, "CHUNK", 24)  # one text of 21 at once, three of 13 in two
    monkeypatch.setattr(lane_file, "PADDING", 20)
    lane = lane_of(prompts, families.model(family))
    assert lane.ready and lane.rows.backlog < 0
    found = lane.logits()
    check(lane, found)
    cached = [tensor.clone() for tensor in lane.blocks.cache._tensors()]
    lane.rows.next_logits = None
    torch.testing.assert_close(lane.logits(), found, atol=2e-4, rtol=1e-4)
    for tensor, read in zip(lane.blocks.cache._tensors(), cached, strict=True):
        torch.testing.assert_close(tensor, read, atol=2e-4, rtol=1e-4)
    for step in range(2):
        lane.feed(torch.tensor([*range(5 + step, 5 + step + lane.rows.count)]))
        check(lane)


def counted(model: Any) -> Counter[str]:
    """Forwards of a model, with its head and without, from now on."""
    count: Counter[str] = Counter()
    model.register_forward_hook(lambda *_: count.update(["head"]))
    model.base_model.register_forward_hook(lambda *_: count.update(["backbone"]))
    return count


def test_a_step_that_has_them_runs_nothing() -> None:
    model = families.model("llama")
    count = counted(model)
    lane = lane_of(PROMPTS["repeated"], model)
    assert count == {"head": 1, "backbone": 1}
    assert torch.equal(lane.logits(), lane.logits())
    assert count == {"head": 1, "backbone": 1}


def join(lane: TransformersLane) -> None:
    admitted(lane, [prompt(13, 7)])


CHANGES: dict[str, Callable[[TransformersLane], Any]] = {
    "feed": lambda lane: lane.feed(torch.tensor([5, 6, 7])),
    "feed some rows": lambda lane: lane.rows.feed_rows(torch.tensor([5]), torch.tensor([1]), [1]),
    "rewrite": lambda lane: lane.rows.rewrite({1: (12, [9])}),  # a text of the same length
    "rewrite shorter": lambda lane: lane.rows.rewrite({0: (4, []), 2: (0, [8])}),
    "release": lambda lane: lane.release(0),
    "copy": lambda lane: lane.copy_rows([2], [0]),
    "join": join,
    "grow": lambda lane: lane.grow(2 * CAPACITY, 12),
}  # fmt: skip


@pytest.mark.parametrize("asked", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_happens_to_a_row_ends_them(change, asked) -> None:
    lane = lane_of(PROMPTS["of one length"])
    if asked:
        lane.logits()
    CHANGES[change](lane)
    assert lane.ready == (change == "grow")
    check(lane)
    lane.feed(torch.arange(3, 3 + lane.rows.count))
    assert not lane.ready
    check(lane)


def test_all_rows_that_leave_and_others_that_come() -> None:
    lane = lane_of(PROMPTS["of one length"])
    for _ in range(3):
        lane.release(0)
    assert not lane.ready
    check(admitted(lane, [prompt(13, 9)]))
    assert lane.ready


def test_the_logits_of_several_positions_do_not_need_them() -> None:
    lane = lane_of(PROMPTS["of one length"])
    assert torch.equal(lane.logits_of_last(1)[:, 0], lane.logits())
    several = lane.logits_of_last(3)
    for row in range(3):
        ids = lane.rows.text(row).tolist()
        for back in range(3):
            expected = alone(lane.model, ids[: len(ids) - back])
            assert (several[row, 2 - back] - expected).abs().max() < EXACT * expected.abs().max()
    check(lane)


class Plain(LlamaForCausalLM):
    """A model whose head reads all positions or none."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **more):
        known = {"input_ids": input_ids, "position_ids": position_ids}
        return super().forward(attention_mask=attention_mask, **known, **more)


def without_logits() -> dict[str, TransformersLane]:
    """Lanes that have read prompts, and whose first step reads their last tokens."""
    llama = families.model("llama")
    longrope = families.config("phi3")
    longrope.rope_parameters = {
        "rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 14,
        "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4,
    }  # fmt: skip
    phi = families.AutoModelForCausalLM.from_config(longrope).eval()
    plain = Plain(families.config("llama")).eval()
    later = lane_of([prompt(13)], llama)
    return {
        "unlike lengths": lane_of([prompt(13), prompt(12)], llama),
        "others decode": admitted(later, [prompt(13, 2)]),
        "frequencies of long texts": lane_of([prompt(13)], phi),
        "no logits_to_keep": lane_of([prompt(13)], plain),
    }


def test_where_the_first_step_is_like_any_other() -> None:
    lanes = without_logits()
    for why, lane in lanes.items():
        unread = 12 if why == "others decode" else 0  # which the step reads
        assert not lane.ready and lane.rows.backlog == unread, why
        check(lane)


def test_a_reward_model_has_none() -> None:
    """BioGPT's has the argument, and no head to keep anything of."""
    lane = TransformersLane(families.model("biogpt", reward=True), V, reads_all=False)
    assert not admitted(lane, [prompt(13)]).ready


def test_views_of_one_lane() -> None:
    """A view's rows are in use when another's join: then all of them are read again."""
    model = families.model("llama")
    count = counted(model)
    shared = SharedLane(TransformersLane(model, V, False))
    one, other = shared.view(), shared.view()
    one.reserve(4, CAPACITY)
    other.reserve(4, CAPACITY)
    read(one, [prompt(13), prompt(13, 2)])
    assert one.ready and count["head"] == 1
    first = one.logits()
    assert count["head"] == 1
    check(shared.lane, first)
    read(other, [prompt(13, 3)])
    assert not one.ready and not other.ready
    count.clear()
    both = torch.cat((one.logits(), other.logits()))
    assert count["head"] == 1
    check(shared.lane, both)
    one.feed(torch.tensor([5, 6]))
    check(shared.lane, torch.cat((one.logits(), other.logits())))


def read(view: Any, prompts: Sequence[Sequence[int]]) -> None:
    reading = view.admit(prompts, [BARE] * len(prompts))
    while True:
        try:
            next(reading)
        except StopIteration as end:
            end.value()
            return


def decoder_of(formula: str, **models: Any) -> tuple[Decoder, dict[str, Counter[str]]]:
    counts = {name: counted(model) for name, model in models.items()}
    decoder = descant.compile(formula, models=models)
    for count in counts.values():
        count.clear()
    return decoder, counts


def test_forwards_are_counted_as_they_are() -> None:
    base, arm = families.model("llama"), families.model("llama", 1)
    decoder, counts = decoder_of("base + 0.5*arm", base=base, arm=arm)
    engine = decoder.session.engine
    bytes_read = []
    for prompts, first in (([prompt(13)], 0), ([prompt(13), prompt(9)], 1)):
        engine.step.forwards = [0, 0]
        decoder.generate(prompts, max_new_tokens=5, eos_token_id=[])
        assert engine.step.forwards == [4 + first] * 2
        assert [count["backbone"] for count in counts.values()] == [5 + first] * 2
        bytes_read.append(engine.stats.bytes_read)
        for count in counts.values():
            count.clear()
    footprints = [lane.footprint() for lane in decoder.session.bound.lanes]
    weights, token = (
        sum(getattr(each, name) for each in footprints) for name in ("weight_bytes", "token_bytes")
    )
    assert bytes_read[0] == 4 * weights + token * sum(range(14, 18))
    assert bytes_read[1] == 5 * weights + token * sum(22 + 2 * i for i in range(5))


def test_one_token_is_scored_by_the_forward_that_reads_the_prompt() -> None:
    base = families.model("llama")
    decoder, counts = decoder_of("base", base=base)
    found = decoder.loglikelihood(prompt(13), [[5], [6], [7]])
    assert counts["base"]["backbone"] == 1 and decoder.session.engine.step.forwards == [0]
    expected = alone(base, prompt(13)).log_softmax(-1)[5:8]
    logprobs = torch.tensor([one.logprobs for one in found])[:, 0]
    torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=1e-5)
    several = decoder.loglikelihood(prompt(13), [[5, 9, 4], [6, 2], [7]])
    firsts = torch.tensor([one.logprobs[0] for one in several])
    torch.testing.assert_close(firsts, logprobs, atol=1e-4, rtol=1e-5)
    assert decoder.session.engine.step.forwards == [1]


def test_a_lane_that_a_condition_leaves_out_reads_what_came() -> None:
    base, arm = families.model("llama"), families.model("llama", 1)
    decoder, counts = decoder_of("where(step < 3, base, arm)", base=base, arm=arm)
    [found] = decoder.generate([prompt(13)], max_new_tokens=6, temperature=0, eos_token_id=[])
    names = decoder.session.bound.lane_names
    forwards = dict(zip(names, decoder.session.engine.step.forwards, strict=True))
    assert forwards == {"base": 2, "arm": 3}
    assert counts["base"]["head"] == 3 and counts["arm"]["head"] == 4
    text = prompt(13)
    for step, token in enumerate(found.token_ids):
        assert token == int(alone(base if step < 3 else arm, text).argmax())
        text.append(token)


FORMULAS = [
    "base + 0.5*arm",
    "base + 0.5*lora4 - 0.25*lora8",
    "base | rerank(rm, k=4, w=1.5)",
    "where(entropy(base) > 4, base + arm, base) | repetition_penalty(1.2)",
    "base | best_of(rm, n=3)",
    "base + 0.5*lora4 | blockwise(arm, beams=2, samples=2, length=3)",
    "arm | reject(rm, target=0.5, entropy=3, longest=5, retries=3)",
    "gpt2 + 0.5*lora_gpt2",
]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("formula", FORMULAS)
def test_nobody_can_tell(compiled, formula, temperature, monkeypatch) -> None:
    """One prompt, several of one length, and a few rows at a time: the tokens stay the same."""
    ids = [[1, *prompt(12, seed)] for seed in range(5)]
    settings: dict[str, Any] = {"max_new_tokens": 9, "temperature": temperature}
    settings |= {"eos_token_id": [*range(0, 300, 23)]}

    def answers() -> list[list[int]]:
        decoder = compiled(formula)
        made = [*decoder.generate(ids[:1], seed=3, **settings)]
        made += decoder.generate(ids, seed=[*range(5)], **settings)
        made += decoder.generate(ids, seed=[*range(5)], batch_size=2, **settings)
        return [completion.token_ids for completion in made]

    ready = []
    of_rows = lane_file.of_rows
    monkeypatch.setattr(lane_file, "of_rows", lambda *all: ready.append(1) or of_rows(*all))
    found = answers()
    assert len(ready) >= 3
    monkeypatch.setattr(lane_file, "gives_logits", lambda model: False)
    ready.clear()
    assert answers() == found and not ready
