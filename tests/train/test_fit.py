"""``descant train`` from end to end: what is learnt, kept, gone on with, and loaded."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import gguf_files
import pytest
import tiny_image_text as image_text
import torch
from checkpoints import fresh, llama, tokenizer
from huggingface_hub import cached_assets_path
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration

import descant
from descant.models import ModelError
from descant.train import TrainFileError

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "up_proj"]}
KINDS = [("arm", None), ("arm", LORA), ("dpo", None), ("dpo", LORA), ("reward", None),
         ("reward", LORA), ("sft", None), ("sft", LORA)]  # fmt: skip
IDS = [f"{method}-{'lora' if lora else 'full'}" for method, lora in KINDS]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("method", "lora"), KINDS, ids=IDS)
def test_it_learns_and_tells(trained: Any, method: str, lora: Any) -> None:
    done = trained(method, lora=lora, eval_share=0.25, training={"max_steps": 24})
    log = json.loads((done.folder / "training.json").read_text())["log"]
    losses = [row["loss"] for row in log if "loss" in row]
    assert len(losses) == 24 and sum(losses[-4:]) < 0.7 * sum(losses[:4])
    if method != "sft":
        first = next(row for row in log if "rewards/accuracies" in row)
        assert done.metrics["eval_rewards/accuracies"] == 1
        assert done.metrics["eval_rewards/margins"] > first["rewards/margins"]
    assert "eval_loss" in done.metrics
    names = {file.name for file in done.folder.iterdir()}
    assert {"train.yaml", "training.json", "curve.png"} <= names
    assert ("adapter_config.json" in names) == (lora is not None and method != "reward")
    assert not list(done.folder.glob("*.bin")), "a pickle"


def test_the_language_part_of_an_image_text_model_learns(trained: Any, tmp_path: Path) -> None:
    """An adapter on every linear layer is on those that read text, and is rows by path."""
    torch.manual_seed(3)
    made = image_text.config("qwen2_5_vl")
    made.text_config.vocab_size = llama().config.vocab_size
    model = Qwen2_5_VLForConditionalGeneration(made)
    model.save_pretrained(tmp_path / "m")
    tokenizer().save_pretrained(tmp_path / "m")
    path, lora = str(tmp_path / "m"), {"r": 4, "target_modules": "all-linear"}
    done = trained("arm", model=path, lora=lora, training={"max_steps": 2})
    assert all(".language_model.layers." in key for key in weights(done.folder))
    models = {"base": path, "arm": {"adapter": str(done.folder), "on": "base"}}
    assert descant.compile("arm - base", models=models).scores("say it", [])[0].abs().max() > 1e-4


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_gguf_file_learns_what_its_model_does(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: Any
) -> None:
    assets = partial(cached_assets_path, assets_dir=tmp_path / "assets")
    monkeypatch.setattr("descant.models.checkpoint.gguf.cached_assets_path", assets)
    torch.manual_seed(3)
    model = llama()
    file = gguf_files.write(tmp_path / "m.gguf", model, tokenizer())
    model.save_pretrained(tmp_path / "m")
    tokenizer().save_pretrained(tmp_path / "m")
    options = {"lora": lora, "training": {"max_steps": 4}}
    packed = trained("arm", "packed", model=str(file), **options)
    plain = trained("arm", "plain", model=str(tmp_path / "m"), **options)
    assert same(packed.folder, plain.folder)


def test_what_is_kept_of_a_training(trained: Any, zoo: Any) -> None:
    done = trained("arm", lora=LORA, beta=0.3, training={"max_steps": 2, "seed": 7})
    kept = json.loads((done.folder / "training.json").read_text())
    assert kept["recipe"]["model"]["path"] == zoo.path("base")
    assert (kept["recipe"]["beta"], kept["recipe"]["too_long"]) == (0.3, "truncate")
    assert kept["training_arguments"]["seed"] == 7
    assert kept["rows"] == {"train": {"rows": 24, "used": 24, "bad": 0, "dropped": 0,
                                      "truncated": 0}}  # fmt: skip
    assert kept["versions"]["torch"] == torch.__version__
    assert (kept["processes"], kept["device"]) == (1, "cpu")
    assert (done.folder / "curve.png").read_bytes().startswith(b"\x89PNG")


RESUMED = [("arm", LORA), ("dpo", None), ("reward", LORA), ("sft", None)]


@pytest.mark.parametrize(("method", "lora"), RESUMED)
def test_gone_on_with_equals_uninterrupted(
    trained: Any, tmp_path: Path, method: str, lora: Any
) -> None:
    lora = lora and lora | {"lora_dropout": 0.1}
    training = {"max_steps": 8, "save_steps": 4, "gradient_accumulation_steps": 2}
    options = {"lora": lora, "training": training, "eval_share": 0.2}
    whole = trained(method, "whole", **options)
    killed = tmp_path / "killed"
    killed.mkdir()
    shutil.copy(whole.folder / "train.yaml", killed)
    shutil.copytree(whole.folder / "checkpoint-4", killed / "checkpoint-4")
    half = killed / "checkpoint-8"  # killed while it was written
    half.mkdir()
    shutil.copy(killed / "checkpoint-4" / "optimizer.pt", half)
    done = trained(method, "killed", **options)
    log = json.loads((killed / "training.json").read_text())["log"]
    assert [row["step"] for row in log if "loss" in row] == list(range(1, 9))
    assert same(whole.folder, done.folder)
    assert not same(whole.folder, killed / "checkpoint-4")


def test_another_seed_is_another_training(trained: Any) -> None:
    one, two, three = (
        trained("arm", f"out{number}", lora=LORA, training={"max_steps": 3, "seed": seed}).folder
        for number, seed in enumerate((1, 1, 2))
    )
    assert same(one, two) and not same(one, three)


@pytest.mark.parametrize(("method", "lora"), [("arm", LORA), ("reward", None)])
def test_gradient_checkpointing_changes_nothing(trained: Any, method: str, lora: Any) -> None:
    ends = [
        weights(trained(method, f"out{on}", lora=lora,
                        training={"max_steps": 3, "gradient_checkpointing": on}).folder)
        for on in (False, True)
    ]  # fmt: skip
    for key in ends[0]:
        torch.testing.assert_close(ends[0][key], ends[1][key], atol=1e-6, rtol=1e-4)


def test_bfloat16_weights_learn_through_float32_adapters(trained: Any, zoo: Any) -> None:
    done = trained("arm", lora=LORA, model={"path": zoo.path("base"), "dtype": "bfloat16"},
                   training={"max_steps": 12, "bf16": True})  # fmt: skip
    assert {tensor.dtype for tensor in weights(done.folder).values()} == {torch.float32}
    assert done.metrics["rewards/accuracies"] == 1


def test_formulas_load_what_was_trained(trained: Any, zoo: Any) -> None:
    arm = trained("arm", "arm", lora=LORA, training={"max_steps": 6}).folder
    full = trained("sft", "full", training={"max_steps": 6}).folder
    reward = trained("reward", "reward", lora=LORA, training={"max_steps": 6}).folder
    models = {"base": zoo.path("base"), "arm": {"adapter": str(arm), "on": "base"},
              "full": str(full), "rm": str(reward)}  # fmt: skip
    from peft import PeftModel

    decoder = descant.compile("base + 0.5*arm - 0.25*full", models)
    ids, said = [1, 40, 50, 60], [70, 80]
    with torch.no_grad():
        each = [
            model(torch.tensor([[*ids, *said]])).logits[0, len(ids) - 1 :].log_softmax(-1)
            for model in (fresh(zoo.path("base")), PeftModel.from_pretrained(
                fresh(zoo.path("base")), str(arm)).eval(), fresh(str(full)))
        ]  # fmt: skip
    want = each[0] + 0.5 * each[1] - 0.25 * each[2]
    torch.testing.assert_close(decoder.scores(ids, said), want, atol=1e-3, rtol=1e-4)
    assert (each[0] - each[1]).abs().max() > 0.1 < (each[0] - each[2]).abs().max()

    guided = descant.compile("base | rerank(rm, k=5, w=50)", models)
    plain = descant.compile("base", {"base": zoo.path("base")})
    prompt = "3: say it"
    sure = [d.generate(prompt, max_new_tokens=6)[0].token_ids for d in (guided, plain)]
    assert sure[0] != sure[1]
    rm = fresh(str(reward))
    scores = [rm(torch.tensor([tokens])).logits.item() for tokens in sure]
    assert scores[0] > scores[1]


@pytest.mark.parametrize(
    ("keys", "kind", "says"),
    [
        ({"on": "rm"}, ModelError, "is a classifier, and arm is for a language model"),
        ({"max_length": 1000}, ModelError, "reads 128 tokens\nwrite max_length: 128 or less"),
        ({"model": "/no/such"}, ModelError, "there is no folder /no/such"),
        ({"lora": {"target_modules": ["nowhere"]}}, TrainFileError, "lora: "),
        ({"lora": {"target_modules": ["embed_tokens"]}}, TrainFileError, "embeddings cannot"),
        ({"training": {"lr_scheduler_type": "round"}}, TrainFileError, "training: "),
        ({"max_length": 3}, TrainFileError, "no train row is left: 0 of 24 rows used, 24 dropped"),
        ({"data": "/no/such.jsonl"}, TrainFileError, "there is no data file"),
        ({"training": {"learning_rate": float("nan")}}, TrainFileError, "must be a finite number"),
        ({"beta": float("inf")}, TrainFileError, "beta must be a finite number"),
    ],
)
def test_what_cannot_be_trained(trained: Any, keys: Any, kind: Any, says: str) -> None:
    with pytest.raises(kind) as caught:
        trained("arm", **keys)
    assert says in str(caught.value)


def test_a_loss_that_is_no_number_ends_a_training(trained: Any, tmp_path: Path) -> None:
    steps = {"max_steps": 6, "learning_rate": 1e30, "max_grad_norm": 0, "save_steps": 1}
    with pytest.raises(TrainFileError, match=r"the loss is no number at step \d: give a smaller"):
        trained("arm", training=steps)
    assert not list((tmp_path / "out").glob("*.safetensors"))
    with pytest.raises(TrainFileError, match="the loss is no number at step 2"):
        trained("sft", "late", training={**steps, "max_steps": 2, "logging_steps": 10})


def test_a_folder_holds_one_training(trained: Any, tmp_path: Path) -> None:
    trained("arm", training={"max_steps": 1})
    with pytest.raises(TrainFileError, match="is trained already"):
        trained("arm", training={"max_steps": 1})
    with pytest.raises(TrainFileError, match=r"another training: beta is 0\.1 there and 0\.3 here"):
        trained("arm", beta=0.3, training={"max_steps": 1})
    (tmp_path / "out" / "training.json").unlink()
    shutil.rmtree(tmp_path / "out" / "checkpoint-1")  # nothing was done: everything may change
    assert trained("arm", beta=0.3, training={"max_steps": 1}).folder == tmp_path / "out"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(TrainFileError, match="holds other files"):
        trained("arm", "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_several_devices_need_a_launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """transformers would split a batch over all GPUs of one process, and multiply it."""
    from transformers import TrainingArguments

    from descant.train import read_train_file
    from descant.train.loop import training_arguments

    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: self._n_gpu or 4))
    said = read_train_file("arm", None, model="a", data="b.jsonl", output=str(tmp_path))
    assert training_arguments(said)._n_gpu == 1
