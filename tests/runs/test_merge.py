"""A merge of adapters is the weighted sum of what each adds, whatever its ranks and scalings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoints import fresh
from peft import PeftModel

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
            with adapters.chosen(torch.tensor([number])):
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
    with adapters.chosen(torch.tensor([1])):
        logits = model(ids).logits
    peft = PeftModel.from_pretrained(fresh(zoo.path("base")), folder).eval()
    torch.testing.assert_close(logits, peft(ids).logits, rtol=1e-4, atol=1e-5)


def test_what_no_term_takes_is_not_merged(zoo, tmp_path) -> None:
    folder = tmp_path / "dora"
    folder.mkdir()
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / file).write_bytes((Path(zoo.path("lora4")) / file).read_bytes())
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    spec = make_spec("dora", {"adapter": str(folder), "on": "base"})
    with pytest.raises(ModelError, match="uses DoRA"):
        merged_adapter({"dora": spec}, {"dora": 1.0}, tmp_path / "merged")
