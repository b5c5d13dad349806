"""A merge of adapters is the weighted sum of what each adds, whatever its ranks and scalings."""

from __future__ import annotations

import pytest
import torch
from checkpoints import fresh
from combined import rows_of
from peft import PeftModel
from trained_adapters import config_of, trained

from descant.inputs.expand import sums_of
from descant.inputs.runfile import RunFile, RunFileError
from descant.models import ModelError, make_spec
from descant.models.lanes.lora import Adapters
from descant.runs.merge import merged_adapter

WEIGHTS = {"patterns": 0.7, "lora8": -1.5, "lora4": 0.4}  # an alpha_pattern, rsLoRA, plain


def added(model, adapters: Adapters, number: int) -> dict[str, torch.Tensor]:
    """What an adapter adds to each linear layer's output, for fixed inputs."""
    torch.manual_seed(0)
    outputs = {}
    for path, module in model.named_modules():
        if path.startswith("model.layers") and hasattr(module, "in_features"):
            hidden = torch.randn(1, 3, module.in_features)
            with adapters.chosen(rows_of(adapters, number)):
                outputs[path] = module(hidden) - module.forward(hidden)
    return outputs


@torch.no_grad()
def test_a_merge_is_the_sum_of_its_terms(zoo, tmp_path) -> None:
    parts = {name: make_spec(name, zoo.adapter(name)) for name in WEIGHTS}
    folder = merged_adapter(parts, WEIGHTS, tmp_path)
    model = fresh(zoo.path("base"))
    adapters = Adapters(model)
    merged = added(model, adapters, adapters.add("merged", folder))
    expected = {path: torch.zeros_like(output) for path, output in merged.items()}
    for name, weight in WEIGHTS.items():
        for path, output in added(model, adapters, adapters.add(name, zoo.path(name))).items():
            expected[path] += weight * output
    assert any(output.abs().max() > 0.01 for output in expected.values())
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)

    ids = torch.tensor([[1, 17, 30, 9]])
    with adapters.chosen(rows_of(adapters, 1)):
        logits = model(ids).logits
    peft = PeftModel.from_pretrained(fresh(zoo.path("base")), folder).eval()
    torch.testing.assert_close(logits, peft(ids).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_merge_of_biases_embeddings_and_heads(zoo, tmp_path) -> None:
    base = zoo.path("base")
    options = {"bias": {"lora_bias": True}, "ends": {"target_modules": ["lm_head", "embed_tokens"]}}
    parts, model = {}, fresh(base)
    for name, more in options.items():
        folder = trained(base, config_of("LORA", r=4, **more), tmp_path / name)
        parts[name] = make_spec(name, {"adapter": folder, "on": "base"})
    parts["lora4"] = make_spec("lora4", zoo.adapter("lora4"))
    weights = {"bias": 0.5, "ends": -0.7, "lora4": 1.5}
    adapters = Adapters(model)
    numbers = {name: adapters.add(name, str(part.adapter)) for name, part in parts.items()}
    number = adapters.add("merged", merged_adapter(parts, weights, tmp_path / "merged"))
    torch.manual_seed(0)
    for path, module in model.named_modules():
        inputs = torch.tensor([[5, 9, 200]])
        if hasattr(module, "in_features"):
            inputs = torch.randn(1, 3, module.in_features)
        elif not hasattr(module, "num_embeddings"):
            continue
        bare = module(inputs)
        expected = bare.clone()
        for name, own in numbers.items():
            with adapters.chosen(rows_of(adapters, own)):
                expected += weights[name] * (module(inputs) - bare)
        with adapters.chosen(rows_of(adapters, number)):
            torch.testing.assert_close(module(inputs), expected, rtol=1e-4, atol=1e-5, msg=path)


@pytest.mark.parametrize(
    ("base", "options", "problem"),
    [
        ("base", {"use_dora": True}, "has DoRA on model.layers.0.self_attn.q_proj, which is no"),
        ("qwen2", {"bias": "all"}, "has another bias than its base on model.layers.0.self_attn"),
        ("base", {"modules_to_save": ["lm_head"]}, r"replaces whole modules \(modules_to_save\)"),
    ],
)
def test_what_is_no_weighted_sum_is_not_merged(zoo, tmp_path, base, options, problem) -> None:
    folder = trained(zoo.path(base), config_of("LORA", base, **options), tmp_path / "a")
    spec = make_spec("a", {"adapter": folder, "on": "base"})
    with pytest.raises(ModelError, match=problem):
        merged_adapter({"a": spec}, {"a": 1.0}, tmp_path / "merged")


def test_adapters_of_two_bases_are_not_merged(zoo, tmp_path) -> None:
    parts = {}
    for name in ("base", "arm"):
        config = config_of("LORA", target_modules=["lm_head"])
        folder = trained(zoo.path(name), config, tmp_path / name)
        parts[name] = make_spec(name, {"adapter": folder, "on": "base"})
    with pytest.raises(ModelError, match="the adapter base is of another base: lm_head differs"):
        merged_adapter(parts, dict.fromkeys(parts, 0.5), tmp_path / "merged")


def test_a_sum_is_of_rows_and_not_of_weights_of_their_own() -> None:
    own = make_spec("own", {"adapter": "org/own", "on": "base", "merge": True})
    run = RunFile(formula="soup", models={"base": "org/base", "own": own}, merge={"soup": "own"})
    with pytest.raises(RunFileError, match=r"merge\.soup: .* leave out their merge: true"):
        sums_of(run)
