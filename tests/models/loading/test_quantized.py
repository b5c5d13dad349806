"""Quantised weights: transformers' own configurations, counted truly, with adapters beside them."""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import fresh, llama, tokenizer
from combined import rows_of
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from steered import logits_of, with_peft
from transformers import AutoModelForCausalLM
from transformers.quantizers.auto import AutoQuantizationConfig

import descant
from descant import FormulaError
from descant.models.lanes.transformers_lane import TransformersLane
from descant.models.loading import quantized
from descant.show.explain import plan_report

INT8 = {
    "quant_method": "torchao",
    "quant_type": {
        "default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"version": 2}}
    },
}
METHODS = {
    "torchao": INT8,
    "bitsandbytes-8": {"load_in_8bit": True},
    "bitsandbytes-4": {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "float32",
    },
}
PROMPT, BATCH = [1, 50, 60, 70], [[1, 50, 60, 70], [1, 9], [1, 33, 34]]


LORA = {
    "wide4": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "wide8": {"r": 8, "lora_alpha": 16, "target_modules": ["o_proj", "up_proj", "down_proj"]},
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """A checkpoint and two adapters whose layers are as wide as a block of four bits."""
    root = tmp_path_factory.mktemp("wide")
    torch.manual_seed(11)
    llama(hidden_size=64, intermediate_size=128).save_pretrained(root / "base")
    tokenizer().save_pretrained(root / "base")
    for name, options in LORA.items():
        config = LoraConfig(init_lora_weights=False, **options)
        get_peft_model(fresh(str(root / "base")), config).save_pretrained(root / name)
    return root


def near(found: torch.Tensor, expected: torch.Tensor, method: str) -> bool:
    """Equal; where activations are rounded to half precision on the way, to that."""
    worst = 0.05 if method == "bitsandbytes-8" else 1e-5
    return bool((found - expected).abs().max() < worst * expected.std())


def asks(method: str) -> None:
    for module in quantized.PACKAGES[method.partition("-")[0]]:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def plain(path: str, given: dict[str, Any]) -> Any:
    """transformers' own quantised model, float32 around it."""
    config = AutoQuantizationConfig.from_dict(given)
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, device_map={"": "cpu"}, quantization_config=config
    ).eval()


def greedy(model: Any, prompt: list[int], tokens: int = 6) -> list[int]:
    ids = list(prompt)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def scores(model: Any, prompt: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([prompt])).logits[0, -1].float().log_softmax(-1)


def spec(path: str, method: str) -> dict[str, Any]:
    return {"path": path, "quantization": METHODS[method], "dtype": "float32"}


@pytest.mark.parametrize("method", METHODS)
def test_a_quantised_model_gives_what_transformers_makes_of_it(wide, method) -> None:
    asks(method)
    path = str(wide / "base")
    model = plain(path, METHODS[method])
    decoder = descant.compile("m", models={"m": spec(path, method)})
    found = decoder.generate(BATCH, max_new_tokens=6, eos_token_id=[])
    assert [row.token_ids for row in found] == [greedy(model, prompt) for prompt in BATCH]
    own, exact = (scores(m, PROMPT) for m in (model, fresh(path)))
    assert near(decoder.scores(PROMPT, [])[0], own, method)
    assert not near(own, exact, method)  # it is quantised


@pytest.mark.parametrize("method", METHODS)
def test_bytes_are_those_that_are_stored(wide, method) -> None:
    """Linear layers at their width, with their scales; what is not quantised in full."""
    asks(method)
    decoder = descant.compile("m", models={"m": spec(str(wide / "base"), method)})
    whole = fresh(str(wide / "base"))
    width = {"torchao": 1, "bitsandbytes-8": 1, "bitsandbytes-4": 0.5}[method]
    kept = [whole.lm_head.weight, *(p for n, p in whole.named_parameters() if "norm" in n)]
    linear = [p for n, p in whole.named_parameters() if "_proj" in n]
    packed = sum(int(p.numel() * width) for p in linear)
    # At most 8 bytes a row, or in 4 bits 4 a block of 64, and bitsandbytes' table of 16 numbers.
    scales = sum(max(8 * p.shape[0], p.numel() // 16) + 400 for p in linear)
    least = packed + sum(p.nbytes for p in kept)
    assert least < decoder.plan.bytes_per_step < least + scales


@pytest.mark.parametrize("given", [*METHODS.values(), {"quant_method": "gptq", "bits": 4}])
def test_a_plan_without_weights_counts_what_they_will_take(zoo, given) -> None:
    model = llama()
    everything = sum(p.nbytes for p in model.parameters())
    linear = [m.weight for n, m in model.named_modules() if n.endswith("_proj")]
    before = sum(weight.nbytes for weight in linear)
    quantized.pack_skeleton(model, given)
    after = sum(p.nbytes for p in model.parameters()) - (everything - before)
    bits = 4 if given.get("load_in_4bit") or given.get("bits") else 8
    scales = sum(2 * weight.shape[0] for weight in linear)
    assert after == sum(weight.numel() * bits // 8 for weight in linear) + scales


@pytest.mark.parametrize("method", METHODS)
def test_adapters_beside_a_quantised_base(wide, method) -> None:
    """What peft makes of the same adapters on the same quantised base."""
    asks(method)
    path = str(wide / "base")
    adapters = {name: {"adapter": str(wide / name), "on": "base"} for name in LORA}
    models = {"base": spec(path, method), **adapters}
    decoder = descant.compile("base + wide8 - 0.5*wide4", models=models)
    assert decoder.plan.forwards == 1
    bare, *tuned = (
        scores(model, PROMPT)
        for model in (
            plain(path, METHODS[method]),
            *(PeftModel.from_pretrained(plain(path, METHODS[method]), wide / n) for n in LORA),
        )
    )
    expected = (bare + tuned[1] - 0.5 * tuned[0]).log_softmax(-1)
    assert near(decoder.scores(PROMPT, [])[0].log_softmax(-1), expected, method)
    assert not near(tuned[0], bare, method) and not near(tuned[1], bare, method)


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_weighted_adapters_and_a_vector_beside_a_quantised_base(wide, method) -> None:
    """What peft makes of both, each B times its number; and a plain hook of the vector."""
    asks(method)
    path, weights = str(wide / "base"), {str(wide / "wide4"): 0.6, str(wide / "wide8"): -1.5}
    lane = TransformersLane(plain(path, METHODS[method]), 300, reads_all=False)
    direction = {1: 0.5 * torch.randn(64, generator=torch.Generator().manual_seed(1))}
    numbers = [lane.adapters.add(Path(folder).name, folder) for folder in weights]
    steer = lane.adapters.add_vector("v", direction, tokens="all")
    mix = [*zip(numbers, weights.values(), strict=True), (steer, 2.0)]
    with lane.adapters.chosen(rows_of(lane.adapters, mix)):
        found = scores(lane.model, PROMPT)
    bare, tuned = plain(path, METHODS[method]), with_peft(plain(path, METHODS[method]), weights)
    layers = tuned.base_model.model.model.layers
    expected = logits_of(tuned, layers, PROMPT, (direction, 2.0, 0))[-1].log_softmax(-1)
    assert near(found, expected, method) and not near(scores(bare, PROMPT), expected, method)


def packed(folder: Path, group: int = 32) -> tuple[str, Any]:
    """A GPTQ checkpoint of 4 bits, and the plain model whose weights are what it stands for."""
    torch.manual_seed(11)
    model = llama(hidden_size=64, intermediate_size=128)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    out: dict[str, torch.Tensor] = {}
    for name, weight in model.state_dict().items():
        if "_proj" not in name:
            out[name] = weight.contiguous()
            continue
        rows, columns = weight.shape
        groups = weight.view(rows, columns // group, group)
        scale = (groups.abs().amax(-1) / 7).half()
        digits = (groups / scale.float()[..., None]).round().clamp(-8, 7).long() + 8
        weight.copy_(((digits - 8) * scale.float()[..., None]).view(rows, columns))
        digits = digits.view(rows, columns).T
        words = sum(digits[i::8] << (4 * i) for i in range(8))
        words = torch.where(words >= 2**31, words - 2**32, words).int().contiguous()
        zeros = torch.full((columns // group, rows // 8), 0x77777777, dtype=torch.int32)
        module = name.removesuffix(".weight")
        out |= {
            f"{module}.qweight": words,
            f"{module}.qzeros": zeros,
            f"{module}.scales": scale.T.contiguous(),
            f"{module}.g_idx": (torch.arange(columns) // group).int(),
        }
    save_file(out, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": False}
    config["quantization_config"] = quantization | {"sym": True, "checkpoint_format": "gptq"}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder), model.eval()


@pytest.mark.slow
def test_a_gptq_checkpoint_loads_by_itself(tmp_path) -> None:
    """A plain kernel is asked for: others are compiled when they are first used."""
    asks("gptq")
    path, model = packed(tmp_path / "q")
    kernel = {"quant_method": "gptq", "bits": 4, "backend": "torch"}
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}
    tuned = get_peft_model(copy.deepcopy(model), LoraConfig(init_lora_weights=False, **lora))
    tuned.save_pretrained(tmp_path / "lora")
    decoder = descant.compile(
        "base + 0.5*lora",
        models={
            "base": {"path": path, "dtype": "float32", "quantization": kernel},
            "lora": {"adapter": str(tmp_path / "lora"), "on": "base"},
        },
    )
    found = decoder.scores(PROMPT, [])[0]
    one, two = scores(model, PROMPT), scores(tuned, PROMPT)
    assert (found - one - 0.5 * two).abs().max() < 0.02 * one.std()
    assert (one - two).abs().max() > 0.5 * one.std()
    whole = sum(p.nbytes for p in model.parameters())
    stored = (tmp_path / "q" / "model.safetensors").stat().st_size
    assert decoder.plan.bytes_per_step < stored < whole


def test_a_checkpoint_quantised_already_is_described_without_its_package(tmp_path) -> None:
    path, model = packed(tmp_path / "q")
    linear = sum(m.weight.numel() for n, m in model.named_modules() if n.endswith("_proj"))
    described = plan_report("m", {"m": path}, {}, {})
    rest = model.lm_head.weight.nbytes + sum(
        p.nbytes for n, p in model.named_parameters() if "norm" in n
    )
    assert described.bytes_per_step == linear // 2 + 2 * linear // 32 + rest


@pytest.mark.parametrize("method", ["gptq", "torchao", "compressed-tensors"])
def test_a_package_that_is_not_there(tmp_path, monkeypatch, method) -> None:
    path, _ = packed(tmp_path / "q")
    file = Path(path) / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["quant_method"] = method
    file.write_text(json.dumps(config))
    monkeypatch.setattr(quantized, "find_spec", lambda module: None)
    with pytest.raises(FormulaError) as caught:
        descant.compile("base", models={"base": path})
    assert f"base is quantised with {method}" in caught.value.problem
    assert "pip install" in caught.value.cure
    assert all(name in caught.value.cure for name in quantized.PACKAGES[method].values())


@pytest.mark.parametrize(
    ("given", "problem", "cure"),
    [
        ({"bits": 4}, "has no quant_method", "quant_method: torchao"),
        ({"quant_method": "bitandbytes"}, "no quant_method bitandbytes", "mean bitsandbytes?"),
        ({"quant_method": "bitsandbytes"}, "has no width", "load_in_8bit: true"),
        ({"load_in_4bit": True, "bnb_4bit_quanttype": "nf4"}, "bnb_4bit_quanttype", "did you mean"),
        ({**INT8, "quant_type": "int8_weight_only"}, "cannot be read", "transformers"),
        ({**INT8, "quant_type": {"default": {"_type": "os.system", "_data": {}}}}, "cannot be", ""),
    ],
)
def test_quantisations_that_say_nothing(zoo, given, problem, cure) -> None:
    asks("bitsandbytes" if "torchao" not in given.values() else "torchao")
    with pytest.raises(FormulaError) as caught:
        descant.compile("base", models={"base": {"path": zoo.path("base"), "quantization": given}})
    assert problem in caught.value.problem and cure in caught.value.cure
    assert "base" in caught.value.problem


def test_an_adapter_takes_the_quantization_of_its_base(zoo) -> None:
    models = {"b": zoo.path("base"), "m": {**zoo.adapter("lora4"), "on": "b", "quantization": INT8}}
    with pytest.raises(descant.ModelError, match="takes its base's quantization"):
        descant.compile("m", models=models)


def test_two_quantisations_of_one_checkpoint_are_two_sets_of_weights(zoo) -> None:
    asks("torchao")
    models = {"a": zoo.path("base"), "b": spec(zoo.path("base"), "torchao")}
    assert descant.compile("a + b", models=models).plan.forwards == 2
