"""Every rotary kind in every family: a row has the frequencies of its own length, and no other's.

A text is held against transformers' own uncached forward of it, alone: beside longer rows, and
while it grows beyond the length at which a kind changes its frequencies.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import tiny_architectures as families
import torch
from checkpoints import llama, tokenizer
from huggingface_hub.errors import StrictDataclassError
from test_architectures import EXACT, here, judged_by_rows, said_by_rows, texts, tokens
from tiny_architectures import FAMILIES, SIZES, model_type
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Phi3Config,
    Phi3ForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import descant
from descant.models.cache.rope import length_limits
from descant.models.combinations import BARE

lane_file = importlib.import_module("descant.models.lanes.prefill")
LIMIT = 14  # texts of 21, 5, 1 and 13 tokens: one is beyond it, and one grows beyond it
OPTIONS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": LIMIT},
    "longrope": {"factor": 4.0, "original_max_position_embeddings": LIMIT},
    "llama3": {
        "factor": 4.0, "original_max_position_embeddings": LIMIT, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    "proportional": {},
}  # fmt: skip


def test_every_kind_of_transformers_is_tried() -> None:
    assert set(ROPE_INIT_FUNCTIONS) == set(OPTIONS)


def rotary_sizes(family: str) -> dict[str, int]:
    """How many frequencies the layers of each kind have; "" for all layers."""
    sizes = {}
    for module in families.model(family).modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name.endswith("inv_freq") and "original" not in name:
                sizes[name.removesuffix("inv_freq").removesuffix("_")] = len(buffer)
    return sizes


def scaled(family: str, kind: str) -> Any:
    """A family's configuration with rotary embeddings of a kind; None where it has no such."""
    own = getattr(families.config(family), "rope_parameters", None)
    if not own:
        return None

    def changed(parameters: dict[str, Any], size: int) -> dict[str, Any]:
        values = {**parameters, "rope_type": kind, **OPTIONS[kind]}
        if kind == "longrope":
            values["short_factor"] = [1.0 + 0.1 * i for i in range(size)]
            values["long_factor"] = [2.0 + 1.5 * i for i in range(size)]
        if model_type(family) == "phimoe":
            values |= {"short_mscale": 1.1, "long_mscale": 1.4}
        return values

    sizes = rotary_sizes(family)
    nested = {key: value for key, value in own.items() if isinstance(value, dict)}
    if nested and set(nested) <= set(sizes):
        rope = {key: changed(value, sizes[key]) for key, value in nested.items()}
    elif not nested and set(sizes) == {""}:
        rope = changed(own, sizes[""])
    else:
        return None
    options = {**SIZES, **FAMILIES[family][0], "rope_parameters": rope}
    options.pop("attention", None)
    config = CONFIG_MAPPING[model_type(family)](**options)
    config.original_max_position_embeddings = LIMIT
    return config


def made(family: str, kind: str, auto: Any = AutoModelForCausalLM) -> Any:
    try:
        config = scaled(family, kind)
        if config is None:
            pytest.skip(f"{family} has no rotary embedding that is configured so")
        attention = FAMILIES[family][0].get("attention")
        chosen = {"attn_implementation": attention} if attention else {}
        if auto is AutoModelForSequenceClassification:
            config.num_labels = 1
        model = families.shaken(auto.from_config(config, dtype=torch.float32, **chosen), 0)
        model(input_ids=tokens(1, 3), use_cache=False)
    except UNBUILT as error:
        pytest.skip(f"{family} is not made for {kind}: {type(error).__name__}")
    return model


UNBUILT = (
    KeyError, ValueError, TypeError, AttributeError, RuntimeError, IndexError, ArithmeticError,
    StrictDataclassError,
)  # fmt: skip
ROTARY = [family for family in here if getattr(families.config(family), "rope_parameters", None)]


def is_made(family: str) -> bool:
    try:
        return made(family, "longrope") is not None
    except pytest.skip.Exception:
        return False


def test_few_families_are_not_tried() -> None:
    assert sum(map(is_made, ROTARY)) > 0.9 * len(ROTARY)


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("family", ROTARY)
def test_a_row_is_what_its_text_is_alone(family, kind, monkeypatch) -> None:
    monkeypatch.setattr(lane_file, "CHUNK", 24)
    model = made(family, kind)
    assert said_by_rows(model, 3)[0] < EXACT


def phi3(**other: Any) -> Any:
    torch.manual_seed(0)
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "factor": 16.0,
        "long_factor": [1.0, 3.0, 8.0, 30.0], "original_max_position_embeddings": 20,
    }  # fmt: skip
    config = Phi3Config(
        **{**llama().config.to_dict(), "rope_parameters": rope, "sliding_window": None,
           "original_max_position_embeddings": 20, "initializer_range": 0.3, **other}
    )  # fmt: skip
    return Phi3ForCausalLM(config).eval()


def recomputed(model: Any, ids: list[int], steps: int) -> list[int]:
    """Greedy tokens; everything is read again for each."""
    read = [*ids]
    for _ in range(steps):
        read.append(int(model(torch.tensor([read]), use_cache=False).logits[0, -1].argmax()))
    return read[len(ids) :]


def decoder(formula: str = "m", **models: Any) -> Any:
    models = {name: {"model": model, "tokenizer": tokenizer()} for name, model in models.items()}
    return descant.compile(formula, models)


PROMPTS = [texts()[0][:n] for n in (5, 19, 20, 21, 17)] + [texts()[0] * 2]
SETTINGS = {"max_new_tokens": 8, "temperature": 0, "eos_token_id": []}


def test_without_it_a_neighbour_changes_a_row(monkeypatch) -> None:
    model = phi3()
    monkeypatch.setattr("descant.models.lanes.transformers_lane.length_limits", lambda config: [])
    wrong = decoder(m=model).generate(PROMPTS, **SETTINGS)
    assert [w.token_ids for w in wrong] != [recomputed(model, ids, 8) for ids in PROMPTS]


def test_answers_across_the_limit() -> None:
    model = phi3()
    expected = [recomputed(model, ids, 8) for ids in PROMPTS]
    assert [a.token_ids for a in decoder(m=model).generate(PROMPTS, **SETTINGS)] == expected
    alone = [decoder(m=model).generate([ids], **SETTINGS)[0].token_ids for ids in PROMPTS]
    assert alone == expected
    few = decoder(m=model).generate(PROMPTS, batch_size=2, **SETTINGS)
    assert [a.token_ids for a in few] == expected


def test_a_sum_and_a_search_across_the_limit() -> None:
    m, n = phi3(), phi3(initializer_range=0.5)
    ids = PROMPTS[1]
    expected, read = [], [*ids]
    for _ in range(6):
        both = [x(torch.tensor([read]), use_cache=False).logits[0, -1] for x in (m, n)]
        scores = both[0].log_softmax(-1) + 0.5 * both[1].log_softmax(-1)
        read.append(int(scores.argmax()))
    expected = read[len(ids) :]
    settings = {**SETTINGS, "max_new_tokens": 6}
    assert decoder("m + 0.5*n", m=m, n=n).generate([ids], **settings)[0].token_ids == expected
    search = decoder("m | best_of(m - n, n=3)", m=m, n=n)
    sampled = {**SETTINGS, "temperature": 1.0, "seed": 3}
    together = search.generate([PROMPTS[1], PROMPTS[4]], **sampled)
    alone = [search.generate([ids], **sampled)[0] for ids in (PROMPTS[1], PROMPTS[4])]
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]


@torch.no_grad()
def test_scores_and_log_likelihoods_across_the_limit() -> None:
    model, completion = phi3(), texts()[0][::-1][:9]
    for ids in PROMPTS[1:5]:
        expected = []
        for i, token in enumerate(completion):
            read = torch.tensor([[*ids, *completion[:i]]])
            expected.append(model(read, use_cache=False).logits[0, -1].log_softmax(-1)[token])
        one = decoder(m=model)
        [together] = one.loglikelihood([ids], [completion])
        beside = one.loglikelihood([PROMPTS[5], ids], [completion, completion])[1]
        for values in (together.logprobs, beside.logprobs):
            assert torch.allclose(torch.tensor(values), torch.stack(expected), atol=1e-4)
        scores = one.scores(ids, completion)[:-1].log_softmax(-1)
        picked = scores[torch.arange(9), torch.tensor(completion)]
        assert torch.allclose(picked, torch.stack(expected), atol=1e-4)


@pytest.mark.parametrize("reads_all", [False, True])
@pytest.mark.parametrize("family", ["phi3", "llama", "qwen2"])
def test_candidates_across_the_limit(family, reads_all) -> None:
    model = made(family, "longrope", AutoModelForSequenceClassification)
    assert judged_by_rows(model, reads_all) < EXACT


def test_a_reward_of_text_across_the_limit() -> None:
    """Whole texts, in batches and one by one, and alternatives of several tokens."""
    model = made("phi3", "longrope", AutoModelForSequenceClassification)
    model.config.pad_token_id = 0
    lane_type = importlib.import_module("descant.models.lanes.token_tree").TokenTreeLane
    lane = lane_type(model, families.V, reads_all=True)
    lane.reserve(2, 64)
    lane.rows.admit([[5], [6]], [0, 0], [BARE] * 2)
    base = texts()[0]
    rows = [
        [base[:12], base[:13], [*base[:11], 9, 8, 7, 6]],
        [base[:15], base[:16], [*base[:13], 4]],
    ]
    for _ in range(2):
        found = lane.outputs(rows)
        expected = [model(torch.tensor([t]), use_cache=False).logits[0] for r in rows for t in r]
        assert torch.allclose(found, torch.stack(expected), atol=1e-4)
        rows = [[[*text, 11, 12] for text in row] for row in rows]


def test_limits_are_read_of_the_configuration() -> None:
    assert length_limits(phi3().config) == [20] and length_limits(llama().config) == []
