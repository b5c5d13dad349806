"""Every field that is understood gives peft's own forward, in a batch with other rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from checkpoints import fresh
from combined import rows_of
from peft.tuners.lora.config import MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file
from trained_adapters import IDS, config_of, logprobs, trained, with_peft
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

import descant
from descant import ModelError
from descant.models.adapters.fields import NO_EFFECT, UNDERSTOOD, check_row
from descant.models.lanes.adapters import Adapters

CASES: list[tuple[str, str, dict[str, Any]]] = [  # the field that a case is of, a base, options
    ("r", "base", {"r": 5}),
    ("lora_alpha", "base", {"lora_alpha": 24}),
    ("lora_alpha", "base", {"lora_alpha": 0}),
    ("rank_pattern", "base", {"rank_pattern": {"v_proj": 2, "layers.0.*q_proj": 3}}),
    ("alpha_pattern", "base", {"alpha_pattern": {"v_proj": 2, r"layers\.1\..*": 30}}),
    ("use_rslora", "base", {"use_rslora": True}),
    ("fan_in_fan_out", "gpt2", {"fan_in_fan_out": True}),
    ("bias", "qwen2", {"bias": "lora_only", "target_modules": ["q_proj", "o_proj"]}),
    ("bias", "qwen2", {"bias": "all"}),
    ("bias", "gpt2", {"bias": "all", "fan_in_fan_out": True}),
    ("bias", "gpt2", {"bias": "all", "fan_in_fan_out": True, "use_dora": True}),
    ("bias", "gpt2", {"bias": "all", "fan_in_fan_out": True, "lora_bias": True}),
    ("bias", "opt", {"bias": "all"}),
    ("lora_bias", "base", {"lora_bias": True}),
    ("lora_bias", "qwen2", {"lora_bias": True, "use_rslora": True}),
    ("use_dora", "base", {"use_dora": True, "target_modules": "all-linear"}),
    ("use_dora", "qwen2", {"use_dora": True}),
    ("use_dora", "opt", {"use_dora": True}),
    ("use_dora", "base", {"use_dora": True, "target_modules": ["embed_tokens", "lm_head"]}),
    *[
        ("init_lora_weights", "base", {"init_lora_weights": init})
        for init in (True, False, "gaussian", "eva", "orthogonal", "mica")
    ],
    ("ensure_weight_tying", "qwen2", {"ensure_weight_tying": True, "target_modules": ["lm_head"]}),
    ("target_modules", "base", {"target_modules": ["lm_head"]}),
    ("target_modules", "base", {"target_modules": ["embed_tokens", "q_proj"]}),
    ("target_modules", "qwen2", {"target_modules": ["lm_head", "v_proj"]}),
    ("target_modules", "qwen2", {"target_modules": ["embed_tokens"]}),
    ("target_modules", "qwen2", {"target_modules": ["embed_tokens", "lm_head"]}),
    ("target_modules", "gpt2", {"target_modules": ["wte", "c_fc"], "fan_in_fan_out": True}),
    ("exclude_modules", "base", {"exclude_modules": ["v_proj"]}),
    ("layers_to_transform", "base", {"layers_to_transform": [1]}),
    ("layers_pattern", "base", {"layers_to_transform": [1], "layers_pattern": "layers"}),
    ("lora_dropout", "base", {"lora_dropout": 0.5}),
    ("velora_config", "base", {"velora_config": VeloraConfig()}),
    ("monteclora_config", "base", {"monteclora_config": MontecloraConfig()}),
    ("qalora_group_size", "base", {"qalora_group_size": 8}),
    ("megatron_core", "base", {"megatron_core": "another"}),
]
OF_TRAINING = {
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
}  # and of nothing else
NOT_TRIED = OF_TRAINING | {  # where an adapter comes from
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "runtime_config",
}  # fmt: skip


@pytest.fixture(scope="module")
def adapter(zoo, tmp_path_factory):
    """The folder of a trained LoRA adapter of a base, with peft's options."""

    def make(base: str, **options: Any) -> str:
        folder = tmp_path_factory.mktemp("adapter")
        config = config_of("LORA", base, **{"r": 4, "lora_alpha": 8, **options})
        return trained(zoo.path(base), config, folder)

    return make


def test_every_field_is_tried() -> None:
    assert {field for field, *_ in CASES} == UNDERSTOOD | NO_EFFECT - NOT_TRIED


@torch.no_grad()
@pytest.mark.parametrize(("field", "base", "options"), CASES, ids=lambda value: str(value))
def test_a_row_is_what_peft_makes_of_it(zoo, adapter, field, base, options) -> None:
    folder, path = adapter(base, **options), zoo.path(base)
    other = zoo.path({"base": "lora8", "gpt2": "lora_gpt2", "opt": "lora_opt"}.get(base, "lora4"))
    if base == "qwen2":
        other = adapter(base, use_dora=True, target_modules=["v_proj", "up_proj"])
    model = fresh(path)
    adapters = Adapters(model)
    numbers = adapters.add("one", folder), 0, adapters.add("other", other)
    with adapters.chosen(rows_of(adapters, *numbers)):
        found = logprobs(model, torch.tensor([IDS] * 3))
    bare = logprobs(fresh(path), torch.tensor([IDS]))[0]
    expected = torch.stack([with_peft(path, folder), bare, with_peft(path, other)])
    assert ((expected[0] - bare).abs().max() > 0.05) == (options.get("lora_alpha") != 0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("field", "base", "options"), CASES, ids=lambda value: str(value))
def test_a_sum_is_what_peft_makes_of_it(zoo, adapter, tmp_path, field, base, options) -> None:
    """Twice an adapter less itself is the adapter."""
    folder = adapter(base, **options)
    model = fresh(zoo.path(base))
    adapters = Adapters(model)
    one, two = adapters.add("one", folder), adapters.add("two", folder)
    with adapters.chosen(rows_of(adapters, [(one, 2.0), (two, -1.0)])):
        found = logprobs(model, torch.tensor([IDS]))[0]
    torch.testing.assert_close(found, with_peft(zoo.path(base), folder), rtol=1e-5, atol=2e-5)


def test_a_configuration_without_alpha_has_that_of_peft(zoo, tmp_path) -> None:
    folder = copied(zoo.path("lora4"), tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["lora_alpha"], config["use_dora"], config["kasa_config"]
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 4}))
    model = fresh(zoo.path("base"))
    adapters = Adapters(model)
    with adapters.chosen(rows_of(adapters, adapters.add("a", folder))):
        found = logprobs(model, torch.tensor([IDS]))[0]
    expected = with_peft(zoo.path("base"), str(folder))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_embedding_that_is_scaled(tmp_path, dora, dtype) -> None:
    """Gemma's, whose scale is of the layer's type."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    base = str(tmp_path / "gemma")
    Gemma3ForCausalLM(config).save_pretrained(base)
    options = config_of("LORA", r=4, target_modules=["embed_tokens"], use_dora=dora)
    folder = trained(base, options, tmp_path / "a", size=0.3)
    model = fresh(base).to(dtype)
    adapters, ids = Adapters(model), torch.tensor([IDS])
    with torch.no_grad(), adapters.chosen(rows_of(adapters, adapters.add("a", folder))):
        found = model.get_input_embeddings()(ids)
    own = peft.PeftModel.from_pretrained(fresh(base).to(dtype), folder).get_input_embeddings()
    limit = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found, own(ids), rtol=limit, atol=limit)


def test_rows_need_no_peft(zoo, monkeypatch) -> None:
    folder = zoo.path("lora4")
    monkeypatch.setitem(sys.modules, "peft", None)
    model = fresh(zoo.path("base"))
    assert Adapters(model).add("a", folder) == 1
    with pytest.raises(ModelError, match="with tomorrow: 3, a field that is not known here"):
        check_row("a", {"peft_type": "LORA", "tomorrow": 3})


def test_rows_of_every_kind_are_decoded_together(zoo, adapter) -> None:
    """Cached steps, prefill and one forward: what follows is what peft alone would choose."""
    on = {"on": "base"}
    specs = {
        "base": {"path": zoo.path("base"), "dtype": "float32"},
        "dora": {"adapter": adapter("base", use_dora=True), **on},
        "head": {"adapter": adapter("base", target_modules=["lm_head", "embed_tokens"]), **on},
        "plain": {"adapter": zoo.path("lora4"), **on},
    }
    decoder = descant.compile("base + dora - 0.5*head + 0.3*plain", models=specs)
    assert decoder.plan.forwards == 1
    found = decoder.scores(IDS[:4], IDS[4:])
    models = {name: with_peft(zoo.path("base"), specs[name]["adapter"]) for name in list(specs)[1:]}
    bare = logprobs(fresh(zoo.path("base")), torch.tensor([IDS]))[0]
    expected = bare + models["dora"] - 0.5 * models["head"] + 0.3 * models["plain"]
    expected = expected.log_softmax(-1)[3:]
    torch.testing.assert_close(
        torch.as_tensor(found).log_softmax(-1), expected, rtol=1e-4, atol=1e-4
    )


def test_dora_keeps_its_magnitude_in_half_precision(zoo, adapter) -> None:
    """A gain near 1 would be 1 in bfloat16."""
    folder = Path(adapter("base", use_dora=True))
    weights = load_file(folder / "adapter_model.safetensors")
    for key in weights:
        if key.endswith("lora_B.weight"):
            weights[key].zero_()
        if key.endswith("lora_magnitude_vector"):
            path = key.removeprefix("base_model.model.").rpartition(".")[0]
            module = fresh(zoo.path("base")).get_submodule(path)
            weights[key] = module.weight.bfloat16().float().norm(dim=1) * 1.003
    save_file(weights, folder / "adapter_model.safetensors")
    model = fresh(zoo.path("base")).to(torch.bfloat16)
    layer = model.model.layers[0].self_attn.q_proj
    adapters = Adapters(model)
    hidden = torch.randn(1, 200, 32, dtype=torch.bfloat16)
    with adapters.chosen(rows_of(adapters, adapters.add("dora", folder))):
        found = layer(hidden).float()
    bare = layer(hidden).float()
    assert ((found / bare).mean() - 1.003).abs() < 5e-4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"use_dora": True}, "has no magnitude of DoRA for model.layers.0.self_attn.q_proj"),
        ({"lora_bias": True}, "has no bias of B for model.layers.0.self_attn.q_proj"),
    ],
)
def test_an_adapter_that_lacks_what_it_says_is_refused(zoo, tmp_path, change, problem) -> None:
    folder = copied(zoo.path("lora4"), tmp_path, config=change)
    with pytest.raises(ModelError, match=problem):
        Adapters(fresh(zoo.path("base"))).add("a", folder)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", "has a magnitude of DoRA for"),
        ("model.layers.0.self_attn.q_proj.lora_B.bias", "has a bias of B for"),
        (
            "model.layers.0.self_attn.q_proj.base_layer.bias",
            "for model.layers.0.self_attn.q_proj, and its base has none",
        ),
        ("model.layers.0.self_attn.q_proj.lora_router", "which is not a part of LoRA"),
        ("lm_head.weight", "brings other weights for lm_head than its base has"),
        ("model.layers.9.mlp.bias", "has weights for model.layers.9.mlp, which its base does not"),
        ("model.layers.0.mlp.bias", "has a bias for model.layers.0.mlp, which adds none"),
        ("model.norm.lora_embedding_A", "has no lora_B for model.norm"),
    ],
)
def test_weights_that_are_not_understood_are_refused(zoo, tmp_path, key, problem) -> None:
    folder = copied(
        zoo.path("lora4"), tmp_path, weights={f"base_model.model.{key}": torch.ones(32)}
    )
    with pytest.raises(ModelError, match=problem):
        Adapters(fresh(zoo.path("base"))).add("a", folder)


def test_the_weights_of_its_base_are_compared_in_the_coarser_type(zoo, adapter, tmp_path) -> None:
    folder = Path(adapter("base", target_modules=["lm_head"]))
    saved = "base_model.model.lm_head.base_layer.weight"
    weight = load_file(folder / "adapter_model.safetensors")[saved]
    half = copied(str(folder), tmp_path / "half", weights={saved: weight.bfloat16()})
    Adapters(fresh(zoo.path("base"))).add("a", half)
    Adapters(fresh(zoo.path("base")).to(torch.bfloat16)).add("a", folder)
    other = copied(str(folder), tmp_path / "other", weights={saved: weight + 1e-3})
    with pytest.raises(ModelError, match="brings other weights for lm_head") as caught:
        Adapters(fresh(zoo.path("base"))).add("a", other)
    assert "merge: true" in caught.value.cure


@pytest.mark.parametrize("options", [{"use_dora": True}, {"target_modules": ["lm_head", "v_proj"]}])
def test_an_offloaded_base_gives_the_same(zoo, adapter, tmp_path, options) -> None:
    spec = {"adapter": adapter("base", **options), "on": "base"}
    model = AutoModelForCausalLM.from_pretrained(
        zoo.path("base"), device_map={"": "disk"}, offload_folder=tmp_path, dtype=torch.float32
    )
    whole, offloaded = (
        descant.compile("a", models={"base": base, "a": spec}).scores(IDS, [])[0]
        for base in ({"path": zoo.path("base"), "dtype": "float32"}, model)
    )
    torch.testing.assert_close(torch.as_tensor(offloaded), torch.as_tensor(whole))


def test_dora_needs_numbers(zoo, adapter) -> None:
    model = fresh(zoo.path("base"))
    model.model.layers[1].self_attn.v_proj.weight = torch.nn.Parameter(
        torch.zeros(16, 32, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(ModelError, match=r"needs the weight of .*v_proj, which its base has pack"):
        Adapters(model).add("a", adapter("base", use_dora=True))


@pytest.mark.parametrize(
    ("base", "options"),
    [
        ("base", {"use_dora": True, "target_modules": ["embed_tokens", "lm_head"]}),
        ("qwen2", {"use_dora": True, "bias": "all"}),
        ("qwen2", {"lora_bias": True}),
    ],
)
def test_a_plan_without_weights_takes_as_much(zoo, adapter, base, options) -> None:
    folder, config = adapter(base, **options), fresh(zoo.path(base)).config
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config)
    sizes = []
    for model in (shapes, fresh(zoo.path(base))):
        adapters = Adapters(model)
        adapters.add("a", folder)
        sizes.append(adapters.nbytes)
    assert sizes[0] == sizes[1] > 0


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_what_was_converted_to_plain_lora_is_a_row(zoo, tmp_path, init) -> None:
    """The way out that the refusal names."""
    path = zoo.path("base")
    torch.manual_seed(1)
    config = config_of("LORA", init_lora_weights=init, r=4, lora_alpha=4)
    model = peft.get_peft_model(fresh(path), config)
    start = tmp_path / "start"
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(start)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.peft_config["default"].init_lora_weights = init
    expected = logprobs(model.eval(), torch.tensor([IDS]))
    folder = tmp_path / "converted"
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(start))
    base = fresh(path)
    adapters = Adapters(base)
    with torch.no_grad(), adapters.chosen(rows_of(adapters, adapters.add("a", folder))):
        found = logprobs(base, torch.tensor([IDS]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


def copied(source: str, folder: Path, config: Any = None, weights: Any = None) -> Path:
    """A copy of an adapter with other words and weights."""
    folder.mkdir(exist_ok=True)
    saved = json.loads((Path(source) / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**saved, **(config or {})}))
    tensors = load_file(Path(source) / "adapter_model.safetensors") | (weights or {})
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
