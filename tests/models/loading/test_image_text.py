"""Image-text checkpoints by path, as text models: the language part alone is read.

The reference is transformers' own ``generate`` of the whole model, one text at a time.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_image_text as families
import torch
import transformers
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from steered import steered
from tiny_architectures import V, shaken
from tiny_image_text import FAMILIES, model_type
from transformers import CONFIG_MAPPING

import descant
from descant.models.checkpoint.architectures import IMAGE_TEXT, language_auto
from descant.models.checkpoint.description import describe
from descant.models.checkpoint.spec import ModelSpec
from descant.models.loading import towers
from descant.models.loading.load import load_model
from descant.models.loading.read_tower import read_tower
from descant.show.explain import plan_report

TEXTS = [[5, 7, 9, 11, 20, 30, 41, 8, 9, 33, 21, 60, 61, 62, 63], [7, 8], [40, 41, 42, 43, 44, 11]]
NEW = 6
SAMPLE = ["qwen2_5_vl", "gemma3", "llama4"]  # a tower each: by its own name, two parts, no backbone
here = [family for family in FAMILIES if model_type(family) in CONFIG_MAPPING]
READ = {"qwen2_audio"}  # text asks its tower for a device


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Iterator[Any]:
    """Makes a family's checkpoint, once: the whole model, and its folder."""
    made: dict[str, tuple[Any, Path]] = {}

    def checkpoint(family: str) -> tuple[Any, Path]:
        if family not in made:
            folder = tmp_path_factory.mktemp("checkpoint")
            made[family] = families.saved(family, folder), folder
        return made[family]

    return checkpoint


def loaded(folder: Path, **options: Any) -> tuple[Any, Any, ModelSpec]:
    """A model by path, with what it was loaded from."""
    spec = ModelSpec(path=str(folder), **options)
    description = describe("base", spec, None, None)
    return load_model(description, spec, None, "cpu"), description, spec


def by_generate(model: Any, text: list[int]) -> list[int]:
    ids = torch.tensor([text])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return made[0, len(text) :].tolist()


def by_path(model: Any) -> list[list[int]]:
    decoder = descant.compile("base", models={"base": model})
    made = decoder.generate(TEXTS, max_new_tokens=NEW, eos_token_id=[], temperature=0)
    return [row.token_ids for row in made]


def last(model: Any, text: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([text]), use_cache=False).logits
    return logits[0, -1].float().log_softmax(-1)


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.std()).item()


def rewritten(folder: Path, to: Path, change: Any) -> Path:
    """A checkpoint whose tensors are changed."""
    to.mkdir()
    for file in folder.glob("*.json"):
        (to / file.name).write_text(file.read_text())
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), to / "model.safetensors", {"format": "pt"})
    return to


def of_tower(key: str) -> bool:
    return any(part in key for part in ("vis", "projector"))


@pytest.mark.parametrize("family", here)
def test_text_as_transformers_generates_it(family, zoo) -> None:
    whole, folder = zoo(family)
    assert by_path(str(folder)) == [by_generate(whole, text) for text in TEXTS]
    model, description, spec = loaded(folder)
    assert type(model) is type(whole)
    left_out, state = towers.paths(model), whole.state_dict()
    assert bool(left_out) == (family not in READ)
    assert {*model.state_dict()} == {key for key in state if not key.startswith(left_out or "-")}
    read_tower(model, description, spec)
    assert towers.tower_is_read(model)
    for kind in ("named_parameters", "named_buffers"):
        expected, found = dict(getattr(whole, kind)()), dict(getattr(model, kind)())
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)


FILE = Path(__file__).parents[3] / "docs/models.md"
OLD = Version(transformers.__version__) < Version("5.23")


def table_of_tested() -> str:
    """The table of the families that are tested, and what text leaves out of them."""
    lines = ["| family | class | left out | notes |", "|---|---|---|---|"]
    for family, (_, note) in FAMILIES.items():
        cls = getattr(transformers, families.config(family).architectures[0])
        with torch.device("meta"):
            made = cls._from_config(families.config(family)).eval()
        towers.take_out_towers(made, torch.float32)
        left_out = ", ".join(f"`{path}`" for path in towers.paths(made)) or "nothing"
        lines.append(f"| {family} | {cls.__name__} | {left_out} | {note} |")
    return "\n".join(lines)


@pytest.mark.skipif(OLD, reason="transformers of old has some towers elsewhere")
def test_the_document_says_what_table_of_tested() -> None:
    text, table = FILE.read_text(encoding="utf-8"), table_of_tested()
    if os.environ.get("DESCANT_GOLDEN") == "write":
        pattern = r"(## Image-text checkpoints\n.*?\n)\n\| family \| class \| left out.*?\n\n"
        text = re.sub(pattern, rf"\1\n{table}\n\n", text, flags=re.S)
        FILE.write_text(text, encoding="utf-8")
    assert f"\n\n{table}\n\n" in text


def test_the_code_names_the_families_that_are_here() -> None:
    assert {model_type(family) for family in FAMILIES} == IMAGE_TEXT


@pytest.mark.parametrize("family", SAMPLE)
@pytest.mark.parametrize("how", ["absent", "NaN"])
def test_the_tower_is_not_read(family, how, zoo, tmp_path) -> None:
    whole, folder = zoo(family)

    def without(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert any(map(of_tower, weights))
        if how == "absent":
            return {key: value for key, value in weights.items() if not of_tower(key)}
        return {k: torch.full_like(v, torch.nan) if of_tower(k) else v for k, v in weights.items()}

    made = rewritten(folder, tmp_path / "made", without)
    assert by_path(str(made)) == [by_generate(whole, text) for text in TEXTS]
    model, description, spec = loaded(made)
    held = sum(p.nbytes for p in model.parameters())
    language = [p.nbytes for key, p in whole.named_parameters() if not of_tower(key)]
    assert held == sum(language) < sum(p.nbytes for p in whole.parameters())
    if how == "absent":
        with pytest.raises(descant.ModelError, match=r"lack .*(vis|projector)"):
            read_tower(model, description, spec)
        assert not towers.tower_is_read(model)


@pytest.mark.parametrize("family", SAMPLE)
def test_what_text_needs_is_read(family, zoo, tmp_path) -> None:
    folder = zoo(family)[1]
    ends = ("1.mlp.up_proj.weight", "1.feed_forward.router.weight")
    key = next(key for key in load_file(folder / "model.safetensors") if key.endswith(ends))
    lacking = rewritten(folder, tmp_path / "a", lambda w: {k: w[k] for k in w if k != key})
    with pytest.raises(descant.FormulaError, match="lack "):
        descant.compile("base", models={"base": str(lacking)})
    other = rewritten(folder, tmp_path / "b", lambda w: {**w, key: w[key][:-1].clone()})
    with pytest.raises(descant.FormulaError, match="are another model's"):
        descant.compile("base", models={"base": str(other)})


@pytest.mark.parametrize("family", SAMPLE)
def test_the_plan_counts_what_is_read(family, zoo) -> None:
    """With weights, and of shapes alone."""
    whole, folder = zoo(family)
    decoder = descant.compile("base", models={"base": str(folder)})
    language = {id(p): p.nbytes for k, p in whole.named_parameters() if not of_tower(k)}
    embedding = whole.get_input_embeddings().weight
    if whole.get_output_embeddings().weight is not embedding:
        del language[id(embedding)]
    assert decoder.plan.bytes_per_step == sum(language.values())
    report = plan_report("base", {"base": str(folder)}, {}, {})
    assert report.bytes_per_step == decoder.plan.bytes_per_step
    [note] = report.notes
    assert "base is loaded without " in note and note == decoder.plan.notes[0]


def test_images_are_seen_once_the_tower_is_read(zoo) -> None:
    whole, folder = zoo("llava")
    model, description, spec = loaded(folder)
    assert towers.has_tower(model) and not towers.tower_is_read(model)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 28, 28, generator=generator)
    inputs = {"input_ids": torch.tensor([[7, 3, 3, 3, 3, 9]]), "pixel_values": image}
    with torch.no_grad():
        expected = whole(**inputs).logits
        read_tower(model, description, spec)
        assert torch.equal(model(**inputs).logits, expected)
        assert not torch.allclose(model(**{**inputs, "pixel_values": -image}).logits, expected)


def test_shards_dtypes_and_maps(zoo, tmp_path) -> None:
    whole, _ = zoo("qwen3_vl")
    whole.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 2
    ways: list[dict[str, Any]] = [{}, {"device_map": "auto"}, {"dtype": "bfloat16"}]
    for options in ways:
        model, description, spec = loaded(tmp_path, **options)
        dtype = torch.bfloat16 if "dtype" in options else torch.float32
        assert towers.paths(model) == ("model.visual",)
        read_tower(model, description, spec)
        found = dict(model.named_parameters())
        assert {p.dtype for p in found.values()} == {dtype}
        assert all(torch.equal(found[k], p.to(dtype)) for k, p in whole.named_parameters())


def test_quantised_while_it_is_read(zoo) -> None:
    pytest.importorskip("bitsandbytes")
    whole, folder = zoo("qwen2_5_vl")
    options = {"quantization": {"load_in_8bit": True}, "dtype": "float32"}
    model, description, spec = loaded(folder, **options)
    quantised = transformers.BitsAndBytesConfig(load_in_8bit=True)
    same = type(whole).from_pretrained(
        folder, dtype=torch.float32, quantization_config=quantised, device_map={"": "cpu"}
    )
    assert off(last(model, TEXTS[0]), last(same, TEXTS[0])) < 0.05
    assert model.model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.int8
    read_tower(model, description, spec)
    assert model.model.visual.blocks[0].mlp.up_proj.weight.dtype == torch.int8


def lora(family: str, folder: Path, targets: Any) -> Any:
    """A LoRA adapter that peft saved, on the whole model."""
    options = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(4)
    made = get_peft_model(families.model(family), options).eval()
    made.save_pretrained(folder)
    return made


def test_a_reward_with_a_tower(zoo, tmp_path) -> None:
    """A classifier of an image-text configuration reads text as one in memory does."""
    made = families.config("gemma3")
    made.num_labels, made.architectures = 1, ["Gemma3ForSequenceClassification"]
    cls = transformers.Gemma3ForSequenceClassification
    reward = shaken(cls._from_config(made, dtype=torch.float32), 1).eval()
    reward.save_pretrained(tmp_path)
    base, texts = descant.TableModel.random(V, seed=1), TEXTS[1:]
    said = []
    for rm in (str(tmp_path), reward):
        decoder = descant.compile("base | rerank(rm, k=4, w=1)", models={"base": base, "rm": rm})
        said.append([row.token_ids for row in decoder.generate(texts, max_new_tokens=NEW)])
    assert said[0] == said[1]
    assert towers.paths(loaded(tmp_path)[0]) == (
        "model.vision_tower",
        "model.multi_modal_projector",
    )


LANGUAGE = r".*language_model.*(q_proj|v_proj|down_proj)"


@pytest.mark.parametrize("family", SAMPLE)
def test_what_is_added_to_the_language_model(family, zoo, tmp_path) -> None:
    """LoRA as rows, of the whole model's paths and of the language model's; a vector; a head."""
    whole, folder = zoo(family)
    adapted = lora(family, tmp_path / "lora", LANGUAGE)
    own = tmp_path / "own"
    own.mkdir()
    (own / "adapter_config.json").write_text((tmp_path / "lora/adapter_config.json").read_text())
    weights = load_file(tmp_path / "lora/adapter_model.safetensors")
    prefix = "base_model.model.model.layers."
    renamed = {prefix + key.split(".layers.")[1]: value for key, value in weights.items()}
    save_file(renamed, own / "adapter_model.safetensors", {"format": "pt"})
    vector = torch.randn(32, generator=torch.Generator().manual_seed(2))
    models = {
        "base": str(folder), "lora": {"adapter": str(tmp_path / "lora"), "on": "base"},
        "own": {"adapter": str(own), "on": "base"},
        "v": {"vector": {1: vector}, "on": "base", "tokens": "all"},
        "h": {"head": "own", "on": "base", "layer": 1},
    }  # fmt: skip
    text = TEXTS[0]
    for formula in ("lora", "own"):
        found = descant.compile(formula, models=models).scores(text, [])[0]
        assert off(found, last(adapted, text)) < 1e-5 < off(found, last(whole, text))
    exits = descant.compile("head(base, h)", models=models).scores(text, [])[0]
    assert off(exits.log_softmax(-1), last(whole, text)) < 1e-5
    layers = whole.get_submodule(holder(whole)).layers
    with steered(layers, [({1: vector}, 1.0, 0)]):
        expected = last(whole, text)
    assert off(descant.compile("base[v]", models=models).scores(text, [])[0], expected) < 1e-5


def holder(whole: Any) -> str:
    """Where the language model's layers are."""
    embedding = whole.get_input_embeddings()
    return next(k for k, module in whole.named_modules() if embedding in module.children())


def test_an_adapter_on_the_tower_too(zoo, tmp_path) -> None:
    """Rows cannot have it, and say so; merged, it is in both."""
    folder = zoo("qwen2_5_vl")[1]
    adapted = lora("qwen2_5_vl", tmp_path, "all-linear")
    models = {"base": str(folder), "arm": {"adapter": str(tmp_path), "on": "base"}}
    with pytest.raises(descant.FormulaError, match=r"has weights for model\.visual") as caught:
        descant.compile("arm", models=models)
    assert "merge: true" in caught.value.cure
    models["arm"] = {**models["arm"], "merge": True}  # type: ignore[dict-item]
    decoder = descant.compile("arm", models=models)
    assert off(decoder.scores(TEXTS[0], [])[0], last(adapted, TEXTS[0])) < 1e-5


def test_the_class_is_the_one_that_the_configuration_names() -> None:
    """Where transformers has both for a configuration, as for Qwen3.5."""
    made = families.config("qwen3_5")
    assert language_auto(made) is transformers.AutoModelForImageTextToText
    made.architectures = ["Qwen3_5ForCausalLM"]
    assert language_auto(made) is transformers.AutoModelForCausalLM
    made.architectures = None
    assert language_auto(made) is transformers.AutoModelForCausalLM
    assert language_auto(families.config("llava")) is transformers.AutoModelForImageTextToText


REFUSED = {
    "paligemma": ({}, "which reads its prompt both ways"),
    "blip-2": ({}, "forward needs pixel_values, and not text alone"),
    "florence2": ({}, "encoder-decoder"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_read_text_from_left_to_right(kind, tmp_path) -> None:
    options, why = REFUSED[kind]
    made = CONFIG_MAPPING[kind](**options)
    made.architectures = ["SomeForConditionalGeneration"]
    (tmp_path / "config.json").write_text(json.dumps(made.to_dict(), default=str))
    with pytest.raises(descant.FormulaError, match=why):
        descant.compile("base", models={"base": str(tmp_path)})


def test_sizes_are_those_of_the_text(zoo) -> None:
    description = loaded(zoo("gemma3")[1])[1]
    assert (description.size, description.positions, description.eos) == (V, 128, {2})
