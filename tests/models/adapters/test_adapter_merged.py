"""``merge: true``: every kind that peft merges, as weights of its own, equal to peft's forward."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import fresh
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS
from peft.tuners.lora.config import BdLoraConfig, KasaConfig
from safetensors.torch import load_file, save_file
from trained_adapters import IDS, config_of, logprobs, trained, with_peft
from transformers import AutoModelForCausalLM

import descant
from descant import FormulaError, ModelError
from descant.extras import pip_install
from descant.models.adapters.fields import KINDS, MERGED_ONLY, NO_WEIGHTS

OF_LORA: list[tuple[str, str, dict[str, Any]]] = [
    ("modules_to_save", "base", {"modules_to_save": ["lm_head"]}),
    ("trainable_token_indices", "qwen2", {"trainable_token_indices": [1, 17]}),
    ("target_parameters", "base", {"target_modules": [], "target_parameters": ["q_proj.weight"]}),
    ("use_bdlora", "base", {"use_bdlora": BdLoraConfig(["q_proj"], ["v_proj"], nblocks=2)}),
    ("kasa_config", "base", {"kasa_config": KasaConfig()}),
    ("init_lora_weights", "base", {"init_lora_weights": "pissa"}),
    ("init_lora_weights", "base", {"init_lora_weights": "olora"}),
    ("use_dora", "base", {"use_dora": True}),
    ("bias", "gpt2", {"bias": "all", "fan_in_fan_out": True}),
    ("target_modules", "base", {"target_modules": ["lm_head", "embed_tokens"]}),
]


@pytest.fixture(scope="module")
def adapter(zoo, tmp_path_factory):
    """The folder of a trained adapter of a kind."""

    def make(kind: str, base: str = "base", size: float = 0.05, **options: Any) -> str:
        folder = tmp_path_factory.mktemp("adapter")
        return trained(zoo.path(base), config_of(kind, base, **options), folder, size=size)

    return make


def merged(zoo: Any, folder: str, base: str = "base", **spec: Any) -> Any:
    """A decoder of one merged adapter."""
    models = {
        "weights": {"path": zoo.path(base), "dtype": "float32"},
        "own": {"adapter": folder, "on": "weights", "merge": True, **spec},
    }
    return descant.compile("own", models=models)


def compared(zoo: Any, folder: str, base: str) -> None:
    found = torch.as_tensor(merged(zoo, folder, base).scores(IDS[:3], IDS[3:])).log_softmax(-1)
    bare = logprobs(fresh(zoo.path(base)), torch.tensor([IDS]))[0, 2:]
    assert (found - bare).abs().max() > 0.01
    expected = with_peft(zoo.path(base), folder)[2:]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_that_peft_merges(zoo, adapter, kind) -> None:
    base = "qwen2" if kind == "BEFT" else "base"  # it trains biases
    compared(zoo, adapter(kind, base, 0.5 if kind in ("VERA", "PVERA") else 0.05), base)


@pytest.mark.parametrize(("field", "base", "options"), OF_LORA, ids=lambda value: str(value))
def test_what_rows_cannot_have_of_lora(zoo, adapter, field, base, options) -> None:
    compared(zoo, adapter("LORA", base, r=4, **options), base)


def test_all_of_what_rows_cannot_have_is_tried() -> None:
    assert MERGED_ONLY.keys() <= {field for field, *_ in OF_LORA}


def test_it_is_a_lane_of_its_own_and_its_base_stays(zoo, adapter) -> None:
    folder, base = adapter("IA3"), {"path": zoo.path("base"), "dtype": "float32"}
    own = {"adapter": folder, "on": "base", "merge": True}
    file = Path(zoo.path("base")) / "model.safetensors"
    before = hashlib.sha256(file.read_bytes()).digest()
    models = {"base": base, "own": own, "row": zoo.adapter("lora4")}
    decoder = descant.compile("base + own + 0.1*row", models=models)
    plan = str(decoder.plan)
    assert decoder.plan.forwards == 2
    assert "own is an adapter merged into a copy of base: weights of its own" in plan
    found = decoder.scores(IDS[:3], [])[0]
    bare = logprobs(fresh(zoo.path("base")), torch.tensor([IDS]))[0]
    expected = bare + with_peft(zoo.path("base"), folder)
    expected += 0.1 * with_peft(zoo.path("base"), zoo.path("lora4"))
    found, expected = torch.as_tensor(found).log_softmax(-1), expected[2].log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert hashlib.sha256(file.read_bytes()).digest() == before


def test_a_model_in_memory_is_copied(zoo, adapter) -> None:
    model = fresh(zoo.path("base"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    own = {"adapter": adapter("LOHA"), "on": "base", "merge": True}
    descant.compile("base + own", models={"base": model, "own": own}).scores(IDS, [])
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_random_numbers_of_a_program_stay(zoo, adapter) -> None:
    folder = adapter("VERA", size=0.5)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    merged(zoo, folder)
    assert torch.equal(torch.rand(3), expected)


def test_a_reward_model_with_a_head_of_its_own(zoo, tmp_path) -> None:
    """peft's adapters of classifiers hold the head, which is a whole module."""
    import peft

    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"])
    folder = trained(zoo.path("rm"), config, tmp_path / "a")
    rm = {"path": zoo.path("rm"), "dtype": "float32"}
    row, own = {"adapter": folder, "on": "rm"}, {"adapter": folder, "on": "rm", "merge": True}
    with pytest.raises(ModelError, match=r"replaces whole modules \(modules_to_save\)"):
        descant.score("row", ["a b"], ["c"], models={"rm": rm, "row": row})
    texts = ["the river", "a dog"]
    found = descant.score("own", ["so "] * 2, texts, models={"rm": rm, "own": own})
    model = peft.PeftModel.from_pretrained(fresh(zoo.path("rm")), folder).eval()
    model = model.merge_and_unload()
    model.save_pretrained(tmp_path / "merged")
    shutil.copy(Path(zoo.path("rm")) / "tokenizer.json", tmp_path / "merged")
    shutil.copy(Path(zoo.path("rm")) / "tokenizer_config.json", tmp_path / "merged")
    expected = descant.score(
        "merged", ["so "] * 2, texts,
        models={"merged": {"path": str(tmp_path / "merged"), "dtype": "float32"}},
    )  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-5)
    assert found != pytest.approx(descant.score("rm", ["so "] * 2, texts, models={"rm": rm}))


@pytest.mark.parametrize(
    ("base", "options", "problem"),
    [
        (
            "qwen2",
            {"target_modules": ["lm_head"]},
            "on the embedding or the head of its base",
        ),
        ("qwen2", {"target_modules": ["embed_tokens"]}, "merged, it would change both"),
        ("base", {"lora_bias": True}, "cannot be merged by peft: Impossible to merge LoRA"),
        ("base", {"alora_invocation_tokens": [30]}, "is an aLoRA"),
        (
            "base",
            {"layer_replication": [(0, 2), (1, 2)]},
            "repeats layers of its base",
        ),
    ],
    ids=str,
)
def test_a_merge_that_would_be_another_model_is_refused(
    zoo, adapter, base, options, problem
) -> None:
    folder = adapter("LORA", base, r=4, **options)
    with pytest.raises(FormulaError, match=problem):
        merged(zoo, folder, base)


@pytest.mark.parametrize("kind", [*NO_WEIGHTS, "TOMORROW"])
def test_a_kind_that_is_no_weights_is_refused_before_weights_are_read(zoo, tmp_path, kind) -> None:
    shutil.copytree(zoo.path("lora4"), tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": kind}))
    shutil.copytree(zoo.path("base"), tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    models = {
        "m": str(tmp_path / "m"),
        "a": {"adapter": str(tmp_path / "a"), "on": "m", "merge": True},
    }
    with pytest.raises(FormulaError, match=f"the adapter a is {kind}") as caught:
        descant.compile("0.5*a", models=models)
    assert (caught.value.span.start, caught.value.span.end) == (4, 5)


def test_weights_that_are_missing_or_too_many_are_refused(zoo, adapter, tmp_path) -> None:
    weights = load_file(Path(adapter("LOHA")) / "adapter_model.safetensors")
    first, second = tmp_path / "less", tmp_path / "more"
    for folder in (first, second):
        shutil.copytree(adapter("LOHA"), folder)
    less = {key: value for key, value in weights.items() if "layers.1" not in key}
    save_file(less, first / "adapter_model.safetensors")
    with pytest.raises(FormulaError, match="lacks weights; peft says: Found missing adapter keys"):
        merged(zoo, str(first))
    more = weights | {"base_model.model.model.layers.7.hada_w1_a": torch.ones(3)}
    save_file(more, second / "adapter_model.safetensors")
    with pytest.raises(FormulaError, match=r"has .*layers\.7\.hada_w1_a, which its base"):
        merged(zoo, str(second))


def test_pickled_weights_are_not_merged(zoo, adapter, tmp_path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(adapter("IA3"), folder)
    weights = folder / "adapter_model.safetensors"
    torch.save(load_file(weights), folder / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(FormulaError, match=r"has no adapter_model\.safetensors"):
        merged(zoo, str(folder))


def test_bases_that_nothing_is_merged_into(zoo, adapter) -> None:
    own = {"adapter": adapter("IA3"), "on": "base", "merge": True}
    table = descant.TableModel.random(300, seed=1)
    with pytest.raises(FormulaError, match="own is an adapter on a table"):
        descant.compile("own", models={"base": table, "own": own})
    packed = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    base = {"path": zoo.path("base"), "quantization": packed}
    with pytest.raises(FormulaError, match="merged into base, whose weights are quantised"):
        descant.compile("own", models={"base": base, "own": own})
    base = {"path": zoo.path("base"), "device_map": "auto"}
    with pytest.raises(FormulaError, match="merged into base, whose weights are not in one place"):
        descant.compile("own", models={"base": base, "own": own})


def test_a_base_that_is_offloaded_is_refused(zoo, adapter, tmp_path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        zoo.path("base"), device_map={"": "disk"}, offload_folder=tmp_path
    )
    own = {"adapter": adapter("IA3"), "on": "base", "merge": True}
    with pytest.raises(FormulaError, match="merged into a base that is not in memory"):
        descant.compile("own", models={"base": model, "own": own})


def test_without_peft_it_says_what_to_install(zoo, monkeypatch) -> None:
    monkeypatch.setattr("descant.models.adapters.merged.find_spec", lambda name: None)
    with pytest.raises(FormulaError, match="needs peft") as caught:
        merged(zoo, zoo.path("lora4"))
    assert caught.value.cure == pip_install("train")


def test_what_the_installed_peft_would_leave_out_is_refused(zoo, adapter, monkeypatch) -> None:
    """An older peft drops fields of a later one with a warning."""
    folder = Path(adapter("LOHA"))
    monkeypatch.setitem(KINDS, "LOHA", f"{KINDS['LOHA']} tomorrow")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tomorrow": 3}))
    with pytest.raises(FormulaError, match=r"has tomorrow, which the installed peft .* has not fo"):
        merged(zoo, str(folder))
    monkeypatch.delitem(CONFIGS, "LOHA")
    with pytest.raises(FormulaError, match=r"is LOHA, which the installed peft .* has not"):
        merged(zoo, str(folder))


def test_merge_is_of_an_adapter(zoo) -> None:
    with pytest.raises(ModelError, match="merge: true is of an adapter"):
        descant.compile("m", models={"m": {"path": zoo.path("base"), "merge": True}})


def test_tokens_of_a_tied_embedding(zoo, adapter) -> None:
    compared(zoo, adapter("TRAINABLE_TOKENS", "qwen2"), "qwen2")


def test_a_merge_is_tried(zoo, adapter, monkeypatch) -> None:
    """Whatever a merge of peft's does wrong is found by a forward of both."""
    from peft.tuners.lora.layer import Linear

    half = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda *options: half(*options) / 2)
    with pytest.raises(FormulaError, match=r"is another model than peft's: [1-9].*% off"):
        merged(zoo, adapter("LORA", size=0.2))


def test_an_adapter_of_another_base_is_not_merged(zoo, adapter) -> None:
    with pytest.raises(FormulaError, match=r"cannot be merged by peft: .*size mismatch") as caught:
        merged(zoo, adapter("LOHA"), "strong")
    assert caught.value.cure == "give the base that it was trained on"
    with pytest.raises(FormulaError, match=r"cannot be merged by peft: Target modules"):
        merged(zoo, adapter("LOHA"), "gpt2")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounding(zoo, adapter, dtype) -> None:
    folder = adapter("LOHA", size=0.2)
    models = {
        "weights": {"path": zoo.path("base"), "dtype": dtype},
        "own": {"adapter": folder, "on": "weights", "merge": True},
    }
    found = torch.as_tensor(descant.compile("own", models=models).scores(IDS[:3], [])[0])
    expected = with_peft(zoo.path("base"), folder)[2]
    assert (found.float().log_softmax(-1) - expected).abs().max() < 0.5
    bare = logprobs(fresh(zoo.path("base")), torch.tensor([IDS]))[0, 2]
    assert (bare - expected).abs().max() > 1
