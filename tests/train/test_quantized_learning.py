"""Adapters that are trained on packed weights: what plain training makes of the unpacked ones."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import fresh, llama, tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.quantizers.auto import AutoQuantizationConfig

import descant
from descant.models import ModelError
from descant.train import TrainFileError, read_train_file

INT8 = {
    "quant_method": "torchao",
    "quant_type": {
        "default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"version": 2}}
    },
}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}
METHODS = {"torchao": INT8, "bitsandbytes": NF4}
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "up_proj"]}
STEPS = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose layers are as wide as a block of four bits."""
    folder = tmp_path_factory.mktemp("wide") / "base"
    torch.manual_seed(11)
    llama(hidden_size=64, intermediate_size=128).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def unpacked(base: Path, given: dict[str, Any], folder: Path) -> str:
    """A plain checkpoint whose weights are what the packed ones stand for."""
    config = AutoQuantizationConfig.from_dict(given)
    packed = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, device_map={"": "cpu"}, quantization_config=config
    )
    plain = fresh(str(base))
    layers = dict(packed.named_modules())
    for name, module in plain.named_modules():
        if name.endswith("_proj"):
            weight = layers[name].weight
            if given is NF4:
                from bitsandbytes.functional import dequantize_4bit

                value = dequantize_4bit(weight.data, weight.quant_state)
            else:
                value = weight.dequantize()
            assert not torch.equal(value.float(), module.weight)  # it is quantised
            module.weight.data.copy_(value)
    plain.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("learns", ["arm", "dpo"])
@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_learns_what_it_would_on_the_unpacked_weights(
    trained: Any, wide: Path, tmp_path: Path, method: str, learns: str
) -> None:
    if find_spec(method) is None:
        pytest.skip(f"{method} is not installed")
    plain = unpacked(wide, METHODS[method], tmp_path / "unpacked")
    models = {"packed": {"path": str(wide), "quantization": METHODS[method]}, "plain": plain}
    done = {
        name: trained(learns, name, model=model, lora=LORA, eval_share=0.25, training=STEPS)
        for name, model in models.items()
    }
    ends = [load_file(one.folder / "adapter_model.safetensors") for one in done.values()]
    assert ends[0].keys() == ends[1].keys()
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], atol=2e-4, rtol=1e-2)
    assert any(value.abs().max() > 1e-2 for key, value in ends[0].items() if "lora_B" in key)
    log = json.loads((done["packed"].folder / "training.json").read_text())["log"]
    losses = [row["eval_loss"] for row in log if "eval_loss" in row]
    assert len(losses) == 3 and losses[-1] < losses[0]

    base = {"path": str(wide), "quantization": METHODS[method], "dtype": "float32"}
    arm = {"adapter": str(done["packed"].folder), "on": "base"}
    decoder = descant.compile("base + arm", {"base": base, "arm": arm})
    assert decoder.generate("3: say it", max_new_tokens=4)[0].text


@pytest.mark.parametrize(
    ("method", "keys", "says"),
    [
        ("arm", {}, "packed weights do not learn; an adapter is trained on them: give lora"),
        ("reward", {"lora": LORA}, "a reward model is saved whole"),
    ],
)
def test_packed_weights_alone_do_not_learn(
    tmp_path: Path, method: str, keys: Any, says: str
) -> None:
    file = tmp_path / "train.yaml"
    model = {"path": "some/base", "quantization": NF4}
    file.write_text(json.dumps({"model": model, "data": "x.jsonl", "output": "y", **keys}))
    with pytest.raises(TrainFileError) as caught:
        read_train_file(method, file)
    assert says in str(caught.value)


def test_a_checkpoint_that_is_quantised_needs_an_adapter(trained: Any, wide: Path) -> None:
    if find_spec("torchao") is None:
        pytest.skip("torchao is not installed")
    config = json.loads((wide / "config.json").read_text())
    folder = wide.parent / "packed"
    folder.mkdir()
    for file in wide.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": INT8}))
    with pytest.raises(ModelError, match=r"packed weights do not learn\ngive lora"):
        trained("arm", model=str(folder))
