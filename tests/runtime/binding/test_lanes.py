"""Models that share weights are rows of one forward, and what no row needs is not run or loaded.

Forwards are counted by hooks on the models, so that no report of ours is taken at its word.
"""

from __future__ import annotations

import gc
import importlib

import pytest
import torch
from checkpoints import LORA, fresh, tokenizer
from reference_rules import genarm, plain, weak_to_strong

PROMPT = "the quick brown"


def ids(text: str) -> list[int]:
    return tokenizer()(text)["input_ids"]


class Counter:
    """How often a model in memory runs, and with how many rows; prefills left out."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.rows: list[int] = []
        model.get_input_embeddings().register_forward_hook(self._see)

    def _see(self, module: torch.nn.Module, args: tuple, output: torch.Tensor) -> None:
        if output.shape[1] == 1:
            self.rows.append(output.shape[0])


def counted(zoo, name: str) -> tuple[dict, Counter]:
    model = fresh(zoo.path(name))
    return {"model": model, "tokenizer": tokenizer()}, Counter(model)


@pytest.mark.parametrize("name", sorted(set(LORA) - {"lora_rm"}))
def test_an_adapter_is_what_peft_makes_of_it(zoo, compiled, name) -> None:
    made = [9, 200, 33, 4, 77]
    found = compiled(name).scores(PROMPT, made)
    for i, row in enumerate(found):
        expected = plain.logprobs(zoo.model(name), ids(PROMPT) + made[:i])
        torch.testing.assert_close(row, expected, atol=2e-4, rtol=1e-4)
    bare = plain.logprobs(zoo.model(LORA[name][0]), ids(PROMPT))
    assert (found[0] - bare).abs().max() > 0.1


def test_adapters_and_their_base_are_rows_of_one_forward(zoo, compiled) -> None:
    spec, counter = counted(zoo, "base")
    decoder = compiled("base + 0.5*lora4 - 0.3*lora8 + 0.2*patterns", models={"base": spec})
    [found] = decoder.generate(PROMPT, max_new_tokens=6, eos_token_id=[])
    assert counter.rows == [4] * 5  # the first token comes with the prompt
    arms = [(zoo.model("lora4"), 0.5), (zoo.model("lora8"), -0.3), (zoo.model("patterns"), 0.2)]
    assert found.token_ids == genarm.greedy(zoo.model("base"), arms, ids(PROMPT), 6, None)
    assert decoder.plan.forwards == 1


def test_a_model_in_memory_is_left_as_it_was(zoo, compiled) -> None:
    spec, _ = counted(zoo, "base")
    before = {name: value.clone() for name, value in spec["model"].state_dict().items()}
    said = plain.logits(spec["model"], ids(PROMPT))
    decoder = compiled("base + lora4", models={"base": spec})
    decoder.generate([PROMPT, "a"], max_new_tokens=4)
    after = spec["model"].state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(said, plain.logits(spec["model"], ids(PROMPT)))


def test_two_decoders_share_a_model_and_not_their_adapters(zoo, compiled) -> None:
    spec, _ = counted(zoo, "base")
    one = compiled("lora4", models={"base": spec})
    two = compiled("lora8", models={"base": spec})
    for decoder, name in ((one, "lora4"), (two, "lora8"), (one, "lora4")):
        expected = plain.logprobs(zoo.model(name), ids(PROMPT))
        torch.testing.assert_close(decoder.scores(PROMPT, [])[0], expected, atol=2e-4, rtol=1e-4)


def test_a_decoder_that_is_gone_leaves_no_hooks(zoo, compiled) -> None:
    spec, _ = counted(zoo, "base")
    hooks = [module._forward_hooks for module in spec["model"].modules()]
    before = sum(map(len, hooks))
    decoder = compiled("lora4 + lora8", models={"base": spec})
    decoder.generate(PROMPT, max_new_tokens=2)
    assert sum(map(len, hooks)) > before
    del decoder
    gc.collect()
    assert sum(map(len, hooks)) == before


def test_prompt_variants_are_rows_of_one_forward(zoo, compiled) -> None:
    spec, counter = counted(zoo, "base")
    formula = 'base@"" + 0.7*base@child - 0.4*base@"You are old." - 0.2*base@none'
    prompts = {"child": "You are a child."}
    decoder = compiled(formula, models={"base": {**spec, "system": "Be kind."}}, prompts=prompts)
    [found] = decoder.generate(PROMPT, max_new_tokens=6, eos_token_id=[])
    assert counter.rows == [4] * 6
    model = zoo.model("base")
    voices = [
        (model, ids(PROMPT), 1.0),
        (model, ids(f"You are a child.\n{PROMPT}"), 0.7),
        (model, ids(f"You are old.\n{PROMPT}"), -0.4),
        (model, [1], -0.2),
    ]
    assert found.token_ids == weak_to_strong.greedy_sum(voices, 6, None)


def test_a_system_prompt_declared_and_one_in_the_formula(zoo, compiled) -> None:
    spec, counter = counted(zoo, "base")
    decoder = compiled('base - 0.5*base@""', models={"base": {**spec, "system": "Be kind."}})
    [found] = decoder.generate(PROMPT, max_new_tokens=6, eos_token_id=[])
    assert counter.rows == [2] * 6
    model = zoo.model("base")
    voices = [(model, ids(f"Be kind.\n{PROMPT}"), 1.0), (model, ids(PROMPT), -0.5)]
    assert found.token_ids == weak_to_strong.greedy_sum(voices, 6, None)


def test_one_checkpoint_under_two_names_is_one_set_of_weights(zoo, compiled) -> None:
    two = {"path": zoo.path("base"), "template": "Q: {prompt} A:"}
    decoder = compiled("base + 0.5*two", models={"two": two})
    assert decoder.plan.forwards == 1
    [found] = decoder.generate(PROMPT, max_new_tokens=6, eos_token_id=[])
    model = zoo.model("base")
    voices = [(model, ids(PROMPT), 1.0), (model, ids(f"Q: {PROMPT} A:"), 0.5)]
    assert found.token_ids == weak_to_strong.greedy_sum(voices, 6, None)


def test_another_dtype_is_another_set_of_weights(zoo, compiled) -> None:
    two = {"path": zoo.path("base"), "dtype": "bfloat16"}
    decoder = compiled("base - 0.5*two", models={"two": two}, dtype="float32")
    assert decoder.plan.forwards == 2
    assert decoder.scores(PROMPT, [])[0].std() > 0


@pytest.mark.parametrize(
    "formula",
    ["base + 0*gone", "base + gone - gone", "base | rerank(rm + 0*gone)", "base + a*gone - gone*a"],
)
def test_a_coefficient_of_zero_is_not_loaded(compiled, formula) -> None:
    models = {"gone": "/no/such/folder"}
    decoder = compiled(formula, models=models, params={"a": 0.5} if "a*" in formula else None)
    assert any("gone has the coefficient 0" in note for note in decoder.plan.notes)


def test_a_model_that_is_not_in_the_formula_is_not_loaded_and_said_so(compiled) -> None:
    decoder = compiled("base", models={"gone": "/no/such/folder"})
    assert any("gone" in note and "not loaded" in note for note in decoder.plan.notes)


def test_a_term_that_no_row_needs_is_not_run(zoo, compiled) -> None:
    spec, counter = counted(zoo, "arm")
    decoder = compiled("base + a*arm", models={"arm": spec}, params={"a": 0})
    settings = {"max_new_tokens": 5, "eos_token_id": []}
    decoder.generate([PROMPT, "a"], **settings)
    assert counter.rows == []
    decoder.generate(["a", PROMPT, "the river"], params={"a": [0, 0.5, 0]}, **settings)
    assert counter.rows == [1] * 4  # the first token comes with the prompt


def test_a_reward_that_no_row_needs_is_not_run(zoo, compiled) -> None:
    model = fresh(zoo.path("rm"))
    calls: list[int] = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    spec = {"model": model, "tokenizer": tokenizer()}
    decoder = compiled("base | rerank(rm, k=4, w=w)", models={"rm": spec}, params={"w": 0})
    decoder.generate([PROMPT, "a"], max_new_tokens=5)
    assert calls == []
    decoder.generate([PROMPT, "a"], max_new_tokens=5, eos_token_id=[], params={"w": [0, 1]})
    assert len(calls) == 6  # the prompt, and once per token for all candidates


def test_prompts_are_read_with_those_of_their_length(zoo, compiled, monkeypatch) -> None:
    """Padding costs less than another forward up to a point; what is read is the same."""
    lane = importlib.import_module("descant.models.lanes.prefill")
    model, generator = zoo.model("base"), torch.Generator().manual_seed(0)
    lengths = [90, 3, 88, 1, 40, 5]
    prompts = [torch.randint(3, 300, (n,), generator=generator).tolist() for n in lengths]
    shapes: list[tuple[int, ...]] = []
    hook = model.base_model.register_forward_hook(
        lambda module, args, kwargs, out: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    decoder = compiled("base", models={"base": model})
    settings = {"max_new_tokens": 4, "eos_token_id": []}
    try:
        monkeypatch.setattr(lane, "PADDING", 10)
        found = decoder.generate(prompts, **settings)
    finally:
        hook.remove()
    assert shapes == [(2, 89), (1, 39), (3, 4), *[(6, 1)] * 4]
    monkeypatch.undo()
    together = decoder.generate(prompts, **settings)
    for prompt, one, other in zip(prompts, found, together, strict=True):
        [alone] = decoder.generate(prompt, **settings)
        assert alone.token_ids == one.token_ids == other.token_ids
