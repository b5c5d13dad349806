"""Models of other types in one sum, and models whose weights are brought when they are needed.

One device is all that these tests have: offloading to the processor's memory and to the disk goes
through the same hooks of accelerate as several devices do.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checkpoints import fresh
from transformers import AutoModelForCausalLM

import descant
from descant.models.footprint import compute_dtype, execution_device

BATCH = [[1, 50, 60, 70], [1, 9], [1, 33, 34, 35, 36, 37]]
LAYERS = (
    "model.embed_tokens",
    "model.layers.0",
    "model.layers.1",
    "model.norm",
    "model.rotary_emb",
)
MAPS: dict[str, Any] = {
    "the last layer on the disk": {**dict.fromkeys(LAYERS, "cpu"), "model.layers.1": "disk"},
    "the embedding on the disk": {**dict.fromkeys(LAYERS, "cpu"), "model.embed_tokens": "disk"},
    "all on the disk": "disk",
    "as accelerate likes": "auto",
}


def mapped(name: str, head: str) -> Any:
    found = MAPS[name]
    if found == "disk":
        return {"": "disk"}
    return found if isinstance(found, str) else {**found, head: "cpu"}


FORMULAS = {
    "base + 0.5*arm": {"base": "lm_head"},
    "base + lora8 - 0.5*lora4": {"base": "lm_head"},
    "base | rerank(rm, k=4, w=1)": {"base": "lm_head", "rm": "score"},
}
CASES = [
    *((formula, name, homes) for formula, homes in FORMULAS.items() for name in MAPS),
    ("gpt2", "all on the disk", {"gpt2": ""}),  # its head is its embedding
]


@pytest.mark.parametrize(("formula", "name", "homes"), CASES)
def test_a_mapped_model_gives_what_the_same_model_gives(
    compiled, zoo, formula, name, homes
) -> None:
    models = {
        home: {"path": zoo.path(home), "device_map": mapped(name, head)}
        for home, head in homes.items()
    }
    plain = compiled(formula, dtype="float32").generate(BATCH, max_new_tokens=8)
    decoder = compiled(formula, models=models, dtype="float32")
    found = decoder.generate(BATCH, max_new_tokens=8)
    assert [row.token_ids for row in found] == [row.token_ids for row in plain]
    lane = decoder.session.bound.lanes[0]
    assert lane.device == torch.device("cpu")
    assert (lane.why_eager is None) == (name == "as accelerate likes")
    assert (
        lane.footprint().weight_bytes
        == compiled(formula, dtype="float32").session.bound.lanes[0].footprint().weight_bytes
    )


def test_where_a_module_runs(zoo) -> None:
    model = AutoModelForCausalLM.from_pretrained(zoo.path("base"), device_map={"": "disk"})
    embedding = model.get_input_embeddings()
    assert embedding.weight.device.type == "meta"
    assert execution_device(embedding) == torch.device("cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_type_of_the_activations(zoo, dtype) -> None:
    model = AutoModelForCausalLM.from_pretrained(zoo.path("base"), dtype=dtype)
    model.model.norm.float()  # as transformers keeps some layers
    assert compute_dtype(model) == getattr(torch, dtype)


def test_terms_of_three_types_meet_in_float32(zoo) -> None:
    """Each model computes in its own type; logits are float32 before anything is added."""
    types = {"base": "bfloat16", "arm": "float32", "arm2": "float16"}
    models = {name: {"path": zoo.path(name), "dtype": dtype} for name, dtype in types.items()}
    decoder = descant.compile("base + 0.7*arm - 0.3*arm2", models=models)
    weights = {"base": 1.0, "arm": 0.7, "arm2": -0.3}
    alone = {name: descant.compile(name, models=models) for name in weights}
    for prompt in BATCH:
        plain, exact = torch.zeros(300), torch.zeros(300)
        for name, weight in weights.items():
            model = fresh(zoo.path(name)).to(getattr(torch, types[name]))
            with torch.no_grad():
                logits = model(torch.tensor([prompt])).logits[0, -1]
            plain += weight * logits.float().log_softmax(-1)
            exact += weight * alone[name].scores(prompt, [])[0]
        found = decoder.scores(prompt, [])[0]
        assert found.dtype == torch.float32
        assert torch.allclose(found, exact, atol=1e-4)  # in bfloat16 it would be off by 0.05
        assert torch.allclose(found, plain, atol=0.01 * float(plain.abs().max()))
    lanes = {next(iter(names.split())): lane for names, lane in _named(decoder)}
    for name, dtype in types.items():
        lane = lanes[name]
        assert lane.dtype == getattr(torch, dtype)
        cache = next(tensor for tensor in lane.blocks.cache._tensors())
        assert cache.dtype == getattr(torch, dtype)


def _named(decoder: Any) -> list[tuple[str, Any]]:
    bound = decoder.session.bound
    return list(zip(bound.lane_names, bound.lanes, strict=True))


@pytest.mark.parametrize(
    ("dtype", "size"), [(None, 4), ("auto", 4), ("float16", 2), ("float32", 4)]
)
def test_auto_and_named_types(zoo, dtype, size) -> None:
    spec = {"path": zoo.path("base")} | ({} if dtype is None else {"dtype": dtype})
    decoder = descant.compile("m", models={"m": spec})
    base = zoo.model("base")
    numbers = sum(p.numel() for p in base.parameters()) - base.get_input_embeddings().weight.numel()
    assert decoder.plan.bytes_per_step == numbers * size


def test_a_spec_says_more_than_the_call(zoo) -> None:
    models = {"a": zoo.path("base"), "b": {"path": zoo.path("arm"), "dtype": "float32"}}
    decoder = descant.compile("a + b", models=models, dtype="bfloat16")
    assert [lane.dtype for lane in decoder.session.bound.lanes] == [torch.bfloat16, torch.float32]


def test_a_device_or_a_map(zoo) -> None:
    spec = {"path": zoo.path("base"), "device": "cpu", "device_map": "auto"}
    with pytest.raises(descant.ModelError, match="device or device_map, not both"):
        descant.compile("m", models={"m": spec})
