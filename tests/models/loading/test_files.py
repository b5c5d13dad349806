"""Weight files: read once, refused where they are not whole, and never all in memory at once."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpoints import fresh, llama, tokenizer
from safetensors.torch import load_file, save_file
from transformers.utils import hub, logging

import descant
from descant import FormulaError, ModelError

ROOT = Path(__file__).parents[3]
INDEX = "model.safetensors.index.json"
COMMITS = {"main": "a" * 40, "old": "b" * 40}


def refused(model, formula: str = "base") -> FormulaError:
    with pytest.raises(FormulaError) as caught:
        descant.compile(formula, models={"base": model})
    assert caught.value.span is not None
    return caught.value


@pytest.fixture
def sharded(tmp_path) -> Path:
    """A checkpoint of several shards."""
    torch.manual_seed(3)
    llama().save_pretrained(tmp_path / "m", max_shard_size="20KB")
    tokenizer().save_pretrained(tmp_path / "m")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 2
    return tmp_path / "m"


@pytest.fixture
def cache(zoo, tmp_path, monkeypatch) -> Path:
    """A hub cache that holds org/base, and an older revision of it that is another model."""
    place = tmp_path / "hub" / "models--org--base"
    for (name, commit), model in zip(COMMITS.items(), ("base", "arm"), strict=True):
        snapshot = place / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (place / "blobs").mkdir(exist_ok=True)
        for file in Path(zoo.path(model)).iterdir():
            blob = place / "blobs" / f"{commit}-{file.name}"
            shutil.copy(file, blob)
            os.symlink(os.path.relpath(blob, snapshot), snapshot / file.name)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return place


def test_shards_give_the_model_that_one_file_gives(sharded) -> None:
    whole = fresh(str(sharded))
    found = descant.compile("m", models={"m": str(sharded)}).scores([1, 50, 60], [])
    with torch.no_grad():
        expected = whole(torch.tensor([[1, 50, 60]])).logits[0, -1].log_softmax(-1)
    assert torch.allclose(found[0], expected, atol=1e-5)


def test_a_shard_that_is_not_there(sharded) -> None:
    gone = sorted(sharded.glob("*.safetensors"))[1]
    gone.unlink()
    found = refused(str(sharded))
    assert "is partial" in found.problem and gone.name in found.problem
    assert INDEX in found.cure


def test_a_shard_that_is_cut_short(sharded) -> None:
    cut = sorted(sharded.glob("*.safetensors"))[1]
    cut.write_bytes(cut.read_bytes()[:-40])
    found = refused(str(sharded))
    assert cut.name in found.problem and "cut short or corrupt" in found.problem


def test_a_file_that_is_not_safetensors(sharded) -> None:
    file = sorted(sharded.glob("*.safetensors"))[0]
    file.write_bytes(b"<html>rate limited</html>" * 99)
    found = refused(str(sharded))
    assert file.name in found.problem and "cut short or corrupt" in found.problem


@pytest.mark.parametrize("content", ["{ not json", "[]", '{"weight_map": {"a": 1}}', "{}"])
def test_an_index_that_says_nothing(sharded, content) -> None:
    (sharded / INDEX).write_text(content)
    assert INDEX in refused(str(sharded)).problem


def test_weights_under_another_name(zoo, tmp_path) -> None:
    shutil.copytree(zoo.path("base"), tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "gptq-4bit.safetensors")
    found = refused(str(tmp_path / "m"))
    assert "gptq-4bit.safetensors" in found.problem and "model.safetensors" in found.cure


def test_weights_of_another_shape(zoo, tmp_path) -> None:
    """The first parameter in the model's own order that differs, and both shapes."""
    shutil.copytree(zoo.path("base"), tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"intermediate_size": 40}))
    found = refused(str(tmp_path / "m"))
    assert "model.layers.0.mlp.gate_proj.weight is (48, 32)" in found.problem
    assert "config.json makes it (40, 32); 5 more differ" in found.problem


def test_a_tensor_that_is_missing(sharded) -> None:
    file = sorted(sharded.glob("*.safetensors"))[1]
    weights = load_file(file)
    gone = next(iter(weights))
    del weights[gone]
    save_file(weights, file, metadata={"format": "pt"})
    assert f"lack {gone}" in refused(str(sharded)).problem


def test_a_device_that_is_not_there(zoo) -> None:
    found = refused({"path": zoo.path("base"), "device": "xpu:7"})
    assert "base cannot be put on xpu:7" in found.problem and "cpu" in found.cure


def test_a_device_is_where_weights_go_one_by_one(zoo) -> None:
    """Under another name, the processor is what a GPU is: each tensor is moved as it is read."""
    plain, moved = (
        descant.compile("m", models={"m": {"path": zoo.path("base"), "device": device}})
        for device in ("cpu", "cpu:0")
    )
    assert torch.equal(plain.scores([1, 50, 60], [70]), moved.scores([1, 50, 60], [70]))


def answer(kind: str) -> Exception:
    if kind == "LocalEntryNotFoundError":
        return hub.LocalEntryNotFoundError("not in the cache")
    response = SimpleNamespace(headers={}, request=None)
    return getattr(hub, kind)("the hub says no", response=response)


@pytest.mark.parametrize(
    ("kind", "offline", "problem", "cure"),
    [
        ("GatedRepoError", False, "org/m is gated", "https://huggingface.co/org/m, then log in"),
        ("RepositoryNotFoundError", False, "no such model, or it is private", "hf auth login"),
        ("RevisionNotFoundError", False, "org/m has no revision v9", "branch, tag or commit"),
        ("LocalEntryNotFoundError", False, "hub cannot be reached", "hf download org/m"),
        ("LocalEntryNotFoundError", True, "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE"),
    ],
)
@pytest.mark.parametrize("adapter", [False, True])
def test_what_the_hub_answers(zoo, monkeypatch, kind, offline, problem, cure, adapter) -> None:
    def no(*args, **kwargs):
        raise answer(kind)

    monkeypatch.setattr(hub, "hf_hub_download", no)
    monkeypatch.setattr(hub, "is_offline_mode", lambda: offline)
    if adapter:
        models = {"b": zoo.path("base"), "m": {"adapter": "org/m", "on": "b", "revision": "v9"}}
    else:
        models = {"m": {"path": "org/m", "revision": "v9"}}
    with pytest.raises(FormulaError) as caught:
        descant.compile("m", models=models)
    assert problem in caught.value.problem and cure in caught.value.cure
    assert "m" in caught.value.problem


def ways(zoo, tmp_path, monkeypatch) -> dict[str, str]:
    """Other names of one folder."""
    real = Path(zoo.path("base"))
    os.symlink(real, tmp_path / "link")
    (tmp_path / "files").mkdir()
    for file in real.iterdir():
        os.symlink(file, tmp_path / "files" / file.name)
    monkeypatch.chdir(real.parent)
    return {
        "a link": str(tmp_path / "link"),
        "a folder of links": str(tmp_path / "files"),
        "a relative path": "./base",
        "a detour": str(real / ".." / "base") + "/",
    }


@pytest.mark.parametrize("way", ["a link", "a folder of links", "a relative path", "a detour"])
def test_one_checkpoint_under_two_names_is_read_once(zoo, tmp_path, monkeypatch, way) -> None:
    other = ways(zoo, tmp_path, monkeypatch)[way]
    decoder = descant.compile("a + 0.5*b", models={"a": zoo.path("base"), "b": other})
    assert decoder.plan.forwards == 1


def test_a_hub_id_and_its_folder_in_the_cache_are_read_once(cache) -> None:
    folder = str(cache / "snapshots" / COMMITS["main"])
    models = {"a": "org/base", "b": folder, "c": {"path": "org/base", "revision": COMMITS["main"]}}
    assert descant.compile("a + b + c", models=models).plan.forwards == 1


def test_two_revisions_are_two_checkpoints(cache, zoo) -> None:
    models = {"a": "org/base", "b": {"path": "org/base", "revision": "old"}}
    decoder = descant.compile("a + b", models=models)
    assert decoder.plan.forwards == 2
    for formula, name in (("a", "base"), ("b", "arm")):
        found = descant.compile(formula, models=models).generate([[1, 50]], max_new_tokens=6)
        own = descant.compile("m", models={"m": zoo.path(name)})
        assert found[0].token_ids == own.generate([[1, 50]], max_new_tokens=6)[0].token_ids


def test_auto_is_the_dtype_that_the_configuration_names(zoo) -> None:
    models = {
        "a": zoo.path("base"),
        "b": {"path": zoo.path("base"), "dtype": "auto"},
        "c": {"path": zoo.path("base"), "dtype": "float32"},
    }
    assert descant.compile("a + b + c", models=models).plan.forwards == 1


def test_a_copy_is_another_checkpoint(zoo, tmp_path) -> None:
    shutil.copytree(zoo.path("base"), tmp_path / "m")
    models = {"a": zoo.path("base"), "b": str(tmp_path / "m")}
    assert descant.compile("a + b", models=models).plan.forwards == 2


MEMORY = """
import gc, sys
import descant

def held(key):
    with open("/proc/self/status") as file:
        found = dict(line.split(":", 1) for line in file)
    return int(found[key].split()[0]) << 10

small, big = sys.argv[1:]
for dtype in ("float32", "bfloat16"):
    descant.compile("m", models={"m": small}, dtype=dtype)  # what is allocated once
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts from here
    before = held("VmRSS")
    decoder = descant.compile("m", models={"m": big}, dtype=dtype)
    weights = sum(p.nbytes for p in decoder.session.bound.lanes[0].model.parameters())
    print(dtype, held("VmHWM") - before, weights)
    del decoder
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="asks Linux for the peak")
def test_memory_while_loading(zoo, tmp_path) -> None:
    """At most 1.2 times the largest shard and the model, as the system counts memory."""
    torch.manual_seed(0)
    model = llama(
        vocab_size=8000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=8,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "big", max_shard_size="50MB")
    shards = [file.stat().st_size for file in (tmp_path / "big").glob("*.safetensors")]
    assert sum(shards) > 250e6 and len(shards) > 4
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, zoo.path("base"), str(tmp_path / "big")],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [dtype for dtype, *_ in lines] == ["float32", "bfloat16"]
    for _, peak, weights in lines:
        allowed = int(weights) + 1.2 * max(shards) + 8e6
        assert int(peak) <= allowed < int(weights) + sum(shards)  # all files mapped would be more


class Terminal(io.StringIO):
    """Where progress is drawn, if it says that it is a terminal."""

    def __init__(self, answer: bool) -> None:
        super().__init__()
        self._answer = answer

    def isatty(self) -> bool:
        return self._answer


def test_progress_is_drawn_on_a_terminal_and_nowhere_else(zoo, monkeypatch) -> None:
    logging.enable_progress_bar()  # whoever ran in this process before
    for answer in (True, False):
        drawn = Terminal(answer)
        monkeypatch.setattr(sys, "stderr", drawn)
        descant.compile("m", models={"m": zoo.path("base")})
        assert ("Loading weights: 100%" in drawn.getvalue()) == answer


def test_an_adapter_that_does_not_fit_names_the_first_module(zoo, tmp_path) -> None:
    """Both shapes, and the first module in the model's own order, not in that of its name."""
    shutil.copytree(zoo.path("lora8"), tmp_path / "a")
    models = {"b": zoo.path("strong"), "m": {"adapter": str(tmp_path / "a"), "on": "b"}}
    with pytest.raises(FormulaError) as caught:
        descant.compile("m", models=models)
    problem = caught.value.problem
    assert "model.layers.0.self_attn.q_proj is 48→48, the adapter's is 32→32" in problem


@pytest.mark.parametrize(
    ("change", "problem"),
    [("drop", "has no lora_B for"), ("cut", "A has rank 3 and B has rank 4")],
)
def test_an_adapter_that_is_not_whole(zoo, tmp_path, change, problem) -> None:
    shutil.copytree(zoo.path("lora4"), tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    weights = load_file(file)
    key = next(name for name in sorted(weights) if "lora_B" in name)
    if change == "drop":
        del weights[key]
    else:
        other = key.replace("lora_B", "lora_A")
        weights[other] = weights[other][:3].contiguous()
    save_file(weights, file)
    models = {"b": zoo.path("base"), "m": {"adapter": str(tmp_path / "a"), "on": "b"}}
    with pytest.raises(FormulaError) as caught:
        descant.compile("m", models=models)
    assert problem in caught.value.problem and "m" in caught.value.problem


@pytest.mark.parametrize("key", ["dtype", "device", "device_map", "revision"])
def test_a_model_in_memory_is_as_it_is(zoo, key) -> None:
    with pytest.raises(ModelError, match=f"in memory has its {key}"):
        descant.compile("m", models={"m": {"model": zoo.model("base"), key: "float32"}})
