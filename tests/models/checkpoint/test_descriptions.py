"""Checkpoints that cannot take part are refused, by name, before any weights are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import fresh, tokenizer
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BertConfig,
    PretrainedConfig,
    T5Config,
)

import descant
from descant import FormulaError, ModelError
from descant.models import make_spec


def refused(model, carets: str = "^^^^", formula: str = "base", **others) -> FormulaError:
    """Compiling over this model is refused, at its place in the formula."""
    with pytest.raises(FormulaError) as caught:
        descant.compile(formula, models={"base": model, **others})
    found = caught.value
    assert " " * found.span.start + "^" * (found.span.end - found.span.start) == carets
    return found


def configured(folder: Path, config: PretrainedConfig, architecture: str) -> str:
    config.architectures = [architecture]
    config.save_pretrained(folder)
    return str(folder)


def test_a_missing_folder(tmp_path) -> None:
    found = refused(str(tmp_path / "gone"))
    assert "there is no folder" in found.problem and "gone" in found.problem


@pytest.mark.parametrize("name", ["gone", "no-such/model"])
def test_a_hub_id_that_cannot_be_found(name) -> None:
    assert f"{name} cannot be found" in refused(name).problem


def test_a_folder_without_a_config(tmp_path) -> None:
    assert "has no readable config.json" in refused(str(tmp_path)).problem


def test_a_broken_config(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{ not json")
    assert "has no readable config.json" in refused(str(tmp_path)).problem


def test_a_folder_without_weights(zoo, tmp_path) -> None:
    shutil.copytree(zoo.path("base"), tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    assert "has no safetensors weights" in refused(str(tmp_path / "m")).problem


def test_pickled_weights_are_not_read(zoo, tmp_path) -> None:
    shutil.copytree(zoo.path("base"), tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"\x80\x04anything")
    found = refused(str(tmp_path / "m"))
    assert "only pytorch_model.bin, which can run code" in found.problem
    assert "safe_serialization" in found.cure


def test_weights_that_are_cut_short(zoo, tmp_path) -> None:
    shutil.copytree(zoo.path("base"), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:999])
    assert "cannot be read" in refused(str(tmp_path / "m")).problem


def test_weights_that_are_not_all_there(zoo, tmp_path) -> None:
    """transformers would fill the gap with random numbers and only warn."""
    shutil.copytree(zoo.path("rm"), tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    table = descant.TableModel.random(300, seed=1)
    found = refused(str(tmp_path / "m"), " " * 12 + "^^^^", "ok | rerank(base)", ok=table)
    assert "lack score.weight" in found.problem


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_that_is_cut_short(zoo, tmp_path, file) -> None:
    shutil.copytree(zoo.path("lora4"), tmp_path / "a")
    (tmp_path / "a" / file).write_bytes((tmp_path / "a" / file).read_bytes()[:50])
    adapter = {"adapter": str(tmp_path / "a"), "on": "weights"}
    assert "cannot be read" in refused(adapter, weights=zoo.path("base")).problem


@pytest.mark.parametrize(
    ("config", "architecture", "problem"),
    [
        (T5Config(), "T5ForConditionalGeneration", "encoder-decoder"),
        (BartConfig(), "BartForConditionalGeneration", "encoder-decoder"),
        (BertConfig(), "BertForMaskedLM", "neither a causal language model nor a classifier"),
        (BertConfig(), "BertLMHeadModel", "an encoder (bert)"),
        (BertConfig(), "BertForSequenceClassification", "it reads both ways, which needs tokeni"),
        (BertConfig(), "BertForTokenClassification", "reads both ways and marks every token"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_architectures_that_cannot_take_part(tmp_path, config, architecture, problem) -> None:
    folder = configured(tmp_path, config, architecture)
    reward = architecture.endswith("Classification")
    formula = "ok | rerank(base)" if reward else "base"
    found = refused(
        folder, " " * 12 + "^^^^" if reward else "^^^^", formula,
        **({"ok": descant.TableModel.random(8, seed=1)} if reward else {}),
    )  # fmt: skip
    assert problem in found.problem and "base" in found.problem


def test_an_attention_that_takes_no_mask(zoo) -> None:
    model = fresh(zoo.path("base"))
    model.config._attn_implementation = "flash_attention_2"
    assert "takes no mask per row" in refused(model).problem


def test_eager_attention_gives_the_same(zoo) -> None:
    from transformers import AutoModelForCausalLM

    eager = AutoModelForCausalLM.from_pretrained(
        zoo.path("base"), dtype=torch.float32, attn_implementation="eager"
    )
    prompts = [[1, 50, 60, 70], [1, 9]]
    one, two = (
        descant.compile("base", models={"base": model}).generate(prompts, max_new_tokens=8)
        for model in (eager, zoo.path("base"))
    )
    assert [row.token_ids for row in one] == [row.token_ids for row in two]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"peft_type": "IA3"}, "is IA3, not LoRA"),
        ({"modules_to_save": ["lm_head"]}, "replaces whole modules (modules_to_save)"),
        ({"use_bdlora": {"nblocks": 2}}, "is BD-LoRA"),
    ],
)
def test_adapters_that_rows_cannot_have(zoo, tmp_path, change, problem) -> None:
    shutil.copytree(zoo.path("lora4"), tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    adapter = {"adapter": str(tmp_path / "a"), "on": "weights"}
    found = refused(adapter, weights=zoo.path("base"))
    assert problem in found.problem and "merge: true" in found.cure


def test_an_adapter_of_another_model(zoo) -> None:
    for folder, problem in (
        (zoo.path("lora_gpt2"), "which its base does not have"),
        (str(zoo.root / "gone"), "has no adapter_config.json"),
    ):
        found = refused({"adapter": folder, "on": "weights"}, weights=zoo.path("strong"))
        assert problem in found.problem
    found = refused({"adapter": zoo.path("lora4"), "on": "weights"}, weights=zoo.path("strong"))
    assert "does not fit its base" in found.problem and "48" in found.problem


def test_an_adapter_on_what_is_not_there(zoo) -> None:
    adapter = {"adapter": zoo.path("lora4"), "on": "nobody"}
    with pytest.raises(ModelError, match="on nobody, which is not declared"):
        descant.compile("a", models={"a": adapter})
    two = {"a": {**adapter, "on": "b"}, "b": adapter, "nobody": zoo.path("base")}
    with pytest.raises(ModelError, match="on b, which is itself an adapter"):
        descant.compile("a", models=two)
    table = {"a": {**adapter, "on": "t"}, "t": descant.TableModel.random(300, seed=1)}
    with pytest.raises(FormulaError, match="an adapter on a table"):
        descant.compile("a", models=table)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({}, "exactly one of path, model, adapter, vector and head; here: none of them"),
        ({"path": "x", "adapter": "y", "on": "z"}, "here: path and adapter"),
        ({"adapter": "y"}, "an adapter needs the model that it goes on"),
        ({"path": "x", "on": "z"}, "an adapter needs the model that it goes on"),
        ({"adapter": "x", "vector": "y", "on": "z"}, "here: adapter and vector"),
        ({"vector": {0: [1.0]}}, "a vector needs the model that it goes on: vector: …, on: base"),
        ({"vector": "y", "on": "z", "dtype": "float32"}, "a vector takes its base's dtype"),
        ({"vector": "y", "on": "z", "merge": True}, "merge: true is of an adapter: adapter: …"),
        ({"path": "x", "tokens": "all"}, "tokens: all is of a vector: vector: …, on: base, tokens"),
        ({"vector": "y", "on": "z", "tokens": "some"}, "tokens"),
        ({"path": "x", "dtpe": "float32"}, "there is no option dtpe; did you mean dtype?"),
        ({"path": "x", "dtype": "float64"}, "dtype"),
        ({"path": "x", "read": "aloud"}, "read"),
    ],
)
def test_specs_that_say_no_model(spec, problem) -> None:
    with pytest.raises(ModelError) as caught:
        make_spec("base", spec)
    assert problem in str(caught.value) and "base" in str(caught.value)


def test_words_of_torch_and_paths_are_taken(tmp_path) -> None:
    spec = make_spec(
        "base", {"path": tmp_path, "dtype": torch.bfloat16, "device": torch.device("cpu")}
    )
    assert (spec.path, spec.dtype, spec.device) == (str(tmp_path), "bfloat16", "cpu")
    with pytest.raises(ModelError, match="int8 is not a dtype"):
        descant.compile("m", models={"m": descant.TableModel.random(4, seed=1)}, dtype="int8")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ({"models": ["my model"]}, "cannot be written in a formula"),
        ({"models": ["step"]}, "has the name of a built-in"),
        ({"models": ["base"], "params": {"base": 1}}, "both as a model and a parameter"),
        ({"models": ["base"], "prompts": {"none": "x"}}, "a prompt cannot be named none"),
    ],
)
def test_names_that_a_formula_could_not_use(names, problem) -> None:
    models = {name: descant.TableModel.random(4, seed=1) for name in names.pop("models")}
    with pytest.raises(ValueError, match=problem):
        descant.compile("base", models=models, **names)


def test_a_tokenizer_may_come_from_elsewhere(zoo) -> None:
    for source in (tokenizer(), zoo.path("arm")):
        spec = {"model": fresh(zoo.path("base")), "tokenizer": source}
        found = descant.compile("m", models={"m": spec}).generate("the river", max_new_tokens=4)
        own = descant.compile("m", models={"m": zoo.path("base")}).generate(
            "the river", max_new_tokens=4
        )
        assert found[0].token_ids == own[0].token_ids and found[0].text == own[0].text
