"""Declared steering vectors as terms and rewards, against hooks on texts read anew and alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from checkpoints import fresh
from safetensors.torch import save_file
from steered import logits_of, steered, with_weights
from tape import Tape, on_tape
from torch import Tensor

import descant
from descant import FormulaError, ModelError
from descant.models.lanes.transformers_lane import TransformersLane
from descant.runtime.engine import engine as engines

PROMPTS = [[1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13], [1, 9, 9]]


def direction(seed: int, size: float = 0.4) -> Tensor:
    return size * torch.randn(32, generator=torch.Generator().manual_seed(seed))


HONEST = {0: direction(1), 1: direction(2)}
CALM = {1: direction(3)}


@pytest.fixture
def models(zoo, tmp_path) -> dict[str, Any]:
    """A base, an adapter, a vector in a file and one in memory."""
    tensors = {f"direction.{layer}": vector for layer, vector in HONEST.items()}
    save_file(tensors, tmp_path / "honest.safetensors")
    return {
        "base": {"path": zoo.path("base"), "dtype": "float32"},
        "lora4": zoo.adapter("lora4"),
        "honest": {"vector": tmp_path / "honest.safetensors", "on": "base"},
        "calm": {"vector": CALM, "on": "base", "tokens": "all"},
    }


def scores(model: Any, text: Sequence[int], start: int) -> Tensor:
    """``base - 0.5*honest + 0.3*calm + 0.2*lora4`` after each token of a text, read anew."""
    base, adapted = model
    layers = base.model.layers
    return sum(
        weight * logits.log_softmax(-1)
        for weight, logits in (
            (1, logits_of(base, layers, text)),
            (-0.5, logits_of(base, layers, text, (HONEST, 1.0, start))),
            (0.3, logits_of(base, layers, text, (CALM, 1.0, 0))),
            (0.2, logits_of(adapted, (), text)),
        )
    )


@pytest.fixture
def plain(zoo) -> Any:
    base = zoo.path("base")
    return fresh(base), with_weights(base, {zoo.path("lora4"): 1.0})


FORMULA = "base - 0.5*honest + 0.3*calm + 0.2*lora4"


def test_vectors_are_rows_of_their_base(models, plain) -> None:
    decoder = descant.compile(FORMULA, models=models)
    assert decoder.plan.forwards == 1
    prompt, answer = PROMPTS[2], [4, 99, 50, 8]
    found = torch.as_tensor(decoder.scores(prompt, answer))
    expected = scores(plain, [*prompt, *answer], len(prompt))[len(prompt) - 1 :]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for completion, prompt in zip(
        decoder.generate(PROMPTS, max_new_tokens=8, eos_token_id=[]), PROMPTS, strict=True
    ):
        text = [*prompt]
        for token in completion.token_ids:
            assert token == scores(plain, text, len(prompt))[-1].argmax()
            text.append(token)


@pytest.mark.parametrize("caching", [True, False])
def test_who_waits_again_draws_the_same(models, monkeypatch, caching) -> None:
    """Preempted rows are read again, with the answer steered from where it began."""
    more = {"max_new_tokens": 24, "temperature": 1.0, "seed": [*range(6)], "eos_token_id": []}
    prompts = [[3 + (i * 7 + j) % 200 for j in range(5 + 6 * i)] for i in range(6)]
    settings = {"models": models, "enable_prefix_caching": caching}
    expected = descant.compile(FORMULA, **settings).generate(prompts, **more)
    monkeypatch.setattr(TransformersLane, "page_size", 16)
    monkeypatch.setattr(engines, "room", lambda *_: 112)
    decoder = descant.compile(FORMULA, **settings)
    found = decoder.generate(prompts, **more)
    assert decoder.session.engine.stats.preempted > 0
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]


@pytest.mark.parametrize("masks", [False, True])
def test_recorded_steps_read_what_the_host_writes(models, zoo, monkeypatch, masks) -> None:
    """Every request adds numbers of its own; the recordings made with others are replayed."""

    live = on_tape(monkeypatch)
    formula = "base[w*lora4 - w*honest] + 0.5*base[2*w*honest]"
    decoder = live(descant.compile(formula, models=models, params={"w": 1}), not masks)
    weights = {"w": [(1 + index) / 4 for index in range(12)]}
    found = decoder.generate(
        PROMPTS * 3, params=weights, max_new_tokens=10, eos_token_id=[], batch_size=4
    )
    assert decoder.session.engine.graphs.why_eager is None
    assert sum(tape.replays for tape in Tape.made) > 2 * len(Tape.made) > 2
    bare = fresh(zoo.path("base"))
    for index, (completion, prompt) in enumerate(zip(found, PROMPTS * 3, strict=True)):
        weight, text, start = (1 + index) / 4, [*prompt], len(prompt)
        model = with_weights(zoo.path("base"), {zoo.path("lora4"): weight})
        for token in completion.token_ids:
            mixed = logits_of(model, model.model.layers, text, (HONEST, -weight, start))[-1]
            alone = logits_of(bare, bare.model.layers, text, (HONEST, 2 * weight, start))[-1]
            assert token == (mixed.log_softmax(-1) + 0.5 * alone.log_softmax(-1)).argmax()
            text.append(token)


@torch.no_grad()
def test_a_reward_is_steered(zoo) -> None:
    """Token by token, from the answer on; the score of whole texts takes those of all positions."""
    specs = {
        "base": zoo.path("base"),
        "rm": zoo.path("rm"),
        "kind": {"vector": HONEST, "on": "rm"},
        "calm": {"vector": CALM, "on": "rm", "tokens": "all"},
    }
    decoder = descant.compile("base | rerank(kind - calm, k=5, w=3)", models=specs)
    found = decoder.generate(PROMPTS, max_new_tokens=6, eos_token_id=[])
    base, rm = fresh(zoo.path("base")), zoo.model("rm")
    for completion, prompt in zip(found, PROMPTS, strict=True):
        text = [*prompt]
        for token in completion.token_ids:
            best = logits_of(base, (), text)[-1].log_softmax(-1).topk(5)
            values = []
            for candidate in best.indices.tolist():
                rewards = []
                for vector, start in ((HONEST, len(prompt)), (CALM, 0)):
                    with steered(rm.model.layers, [(vector, 1.0, start)]):
                        rewards.append(
                            rm(input_ids=torch.tensor([[*text, candidate]])).logits[0, 0]
                        )
                values.append(3 * (rewards[0] - rewards[1]))
            assert token == best.indices[(best.values + torch.stack(values)).argmax()]
            text.append(token)
    prompts, texts = ["what jumps?", "who?"], ["the lazy dog", "a fox"]
    scores = [descant.score(name, prompts, texts, models=specs) for name in ("rm", "calm")]
    assert all(abs(one - other) > 1e-3 for one, other in zip(*scores, strict=True))
    with pytest.raises(ModelError, match="the vector kind steers answers alone, and its base"):
        descant.score("kind", prompts, texts, models=specs)


def test_what_does_not_fit_is_marked_in_the_formula(zoo) -> None:
    base = {"path": zoo.path("base"), "dtype": "float32"}

    def compiled(spec: Any, **more: Any) -> Any:
        return descant.compile("base + calm", models={"base": base, "calm": spec, **more})

    with pytest.raises(
        FormulaError, match="the vector calm does not fit its base: it has a dir"
    ) as e:
        compiled({"vector": {7: CALM[1]}, "on": "base"})
    assert e.value.cure == "give the base that it was made for" and "^^^^" in str(e.value)
    with pytest.raises(FormulaError, match=r"vector calm in ./nowhere\S* is not there"):
        compiled({"vector": "./nowhere.safetensors", "on": "base"})
    with pytest.raises(FormulaError, match="calm is a vector on a table, which has no layers"):
        table = descant.TableModel.random(300, seed=1)
        descant.compile("calm", models={"calm": {"vector": CALM, "on": "t"}, "t": table})
    with pytest.raises(ModelError, match="the vector calm is on base2, which is not declared"):
        compiled({"vector": CALM, "on": "base2"})
