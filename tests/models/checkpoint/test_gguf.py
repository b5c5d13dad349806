"""GGUF files: read as their models are, kept unpacked, and refused where transformers errs."""

from __future__ import annotations

import logging
import math
import os
import shutil
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import gguf_files
import numpy as np
import pytest
import torch
from checkpoints import EOS, llama, qwen2, tokenizer
from command_line import command
from gguf import GGMLQuantizationType as Kind
from gguf import dequantize, quantize
from huggingface_hub import cached_assets_path
from transformers import LlamaConfig, LlamaForCausalLM

import descant
from descant import FormulaError
from descant.extras import pip_install
from descant.models.checkpoint import gguf

PROMPT, IDS = "a small stone", [70, 71, 290]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of its own for each test."""
    folder = tmp_path / "assets"
    assets = partial(cached_assets_path, assets_dir=folder)
    monkeypatch.setattr(gguf, "cached_assets_path", assets)
    return folder


def seeded(build: Any, **sizes: Any) -> Any:
    torch.manual_seed(5)
    return build(**sizes).eval()


def scores(model: Any, **options: Any) -> torch.Tensor:
    spec = model if isinstance(model, dict) else {"path": str(model)}
    return descant.compile("m", {"m": spec}, **options).scores(PROMPT, IDS)


def in_memory(model: Any) -> dict[str, Any]:
    return {"model": model, "tokenizer": tokenizer()}


def refused(path: Any, **options: Any) -> str:
    with pytest.raises(FormulaError) as caught:
        descant.compile("m", {"m": {"path": str(path), **options}})
    assert caught.value.span is not None
    return str(caught.value)


@pytest.mark.parametrize("build", [llama, qwen2], ids=["llama", "qwen2, tied"])
def test_a_file_gives_what_its_model_gives(tmp_path, build) -> None:
    model = seeded(build)
    file = gguf_files.write(tmp_path / "m.gguf", model, tokenizer())
    read, plain = (descant.compile("m", {"m": m}) for m in (str(file), in_memory(model)))
    assert torch.equal(read.scores(PROMPT, IDS), plain.scores(PROMPT, IDS))
    prompts = [PROMPT, [{"role": "user", "content": "the river"}]]
    answers = [d.generate(prompts, max_new_tokens=12, temperature=0) for d in (read, plain)]
    assert [a.token_ids for a in answers[0]] == [a.token_ids for a in answers[1]]
    assert [a.text for a in answers[0]] == [a.text for a in answers[1]]
    assert read.session.bound.eos == plain.session.bound.eos == frozenset({EOS})


@pytest.mark.parametrize("kind", [Kind.F16, Kind.Q8_0])
def test_packed_numbers_are_those_that_the_file_has(tmp_path, kind) -> None:
    model = seeded(llama, intermediate_size=64)
    file = gguf_files.write(tmp_path / "m.gguf", model, tokenizer(), kind=kind)
    rounded = seeded(llama, intermediate_size=64)
    for weight in rounded.state_dict().values():
        if weight.ndim > 1:
            weight.copy_(torch.from_numpy(dequantize(quantize(weight.numpy(), kind), kind).copy()))
    expected = scores(in_memory(rounded))
    assert torch.allclose(scores(file, dtype="float32"), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(scores(in_memory(model)), expected, atol=1e-4, rtol=0)


def test_numbers_are_unpacked_into_the_declared_type(tmp_path) -> None:
    file = gguf_files.write(tmp_path / "m.gguf", seeded(llama), tokenizer(), kind=Kind.F16)

    def dtype(**options: Any) -> torch.dtype:
        decoder = descant.compile("m", {"m": str(file)}, **options)
        word = str(decoder.plan).rsplit("unpacked into ", 1)[1].split()[0]
        return getattr(torch, word)

    assert dtype() == torch.float16  # the file's own
    assert dtype(dtype="bfloat16") == torch.bfloat16
    kept = {folder.name for folder in gguf.gguf_file("m", str(file), None).cache.iterdir()}
    assert {"description", "float16", "bfloat16"} <= kept


def test_a_file_is_unpacked_once_and_the_log_says_so(tmp_path, caplog) -> None:
    model = seeded(llama)
    file = gguf_files.write(tmp_path / "m.gguf", model, tokenizer())
    first = scores(file)
    unpacking = [r.getMessage() for r in caplog.records if "unpacking" in r.getMessage()]
    assert len(unpacking) == 1
    assert str(file) in unpacking[0] and "float32, kept in" in unpacking[0]
    caplog.clear()
    copy = shutil.copy(file, tmp_path / "copy.gguf")  # the same content under another name
    os.utime(file)
    assert torch.equal(scores(file), first) and torch.equal(scores(copy), first)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    torch.manual_seed(6)
    file.unlink()
    gguf_files.write(file, other := llama().eval(), tokenizer())
    assert torch.equal(scores(file), scores(in_memory(other)))


def test_the_plan_needs_no_weights(tmp_path) -> None:
    file = gguf_files.write(tmp_path / "m.gguf", seeded(llama), tokenizer())
    run_file = tmp_path / "run.yaml"
    run_file.write_text("formula: m\nmodels: {m: m.gguf}\ngenerate: {max_new_tokens: 4}\n")
    shown = command("explain", run_file).stdout
    assert "m is a GGUF file, unpacked into float32" in shown
    kept = gguf.gguf_file("m", str(file), None).cache
    assert (kept / "description" / "config.json").is_file() and not (kept / "float32").exists()
    answer = command("run", run_file, "--prompt", PROMPT)
    assert answer.returncode == 0 and (kept / "float32" / "model.safetensors").is_file()


def test_who_comes_second_waits_and_finds_what_was_unpacked(tmp_path) -> None:
    file = gguf_files.write(tmp_path / "m.gguf", seeded(llama), tokenizer())
    written: list[Path] = []

    def write(folder: Path) -> None:
        written.append(folder)
        time.sleep(0.2)
        (folder / "done").touch()

    def kept(_: int) -> str:
        folder = gguf.gguf_file("m", str(file), None).kept("entry", write)
        assert (Path(folder) / "done").exists()
        return folder

    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(kept, range(4)))
    assert len(folders) == len(written) == 1
    assert not written[0].exists()  # written elsewhere, and moved


def test_what_fails_leaves_nothing(tmp_path) -> None:
    file = gguf_files.write(tmp_path / "m.gguf", seeded(llama), tokenizer())
    unpacked = gguf.gguf_file("m", str(file), None)

    def write(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpacked.kept("entry", write)
    assert [entry.name for entry in unpacked.cache.iterdir()] == ["entry.lock"]


def test_a_split_file_is_one_model(tmp_path) -> None:
    model = seeded(llama)
    gguf_files.write(tmp_path / "m.gguf", model, tokenizer(), split=9)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert [part.name for part in parts] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert torch.equal(scores(parts[0]), scores(in_memory(model)))
    assert torch.equal(scores(parts[2]), scores(in_memory(model)))  # any part stands for all
    parts[1].unlink()
    assert "part 2 of 3 is not there" in refused(parts[0])
    shutil.copy(parts[0], tmp_path / "m-00007-of-00003.gguf")
    assert "says that it is part 7 of 3" in refused(tmp_path / "m-00007-of-00003.gguf")


def test_a_file_on_the_hub_is_found_in_its_cache(tmp_path, monkeypatch) -> None:
    model = seeded(llama)
    snapshot = tmp_path / "hub/models--org--m/snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    gguf_files.write(snapshot / "m.gguf", model, tokenizer())
    (tmp_path / "hub/models--org--m/refs").mkdir()
    (tmp_path / "hub/models--org--m/refs/main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert torch.equal(scores("org/m/m.gguf"), scores(in_memory(model)))
    assert "it is not in the cache" in refused("org/m/m.gguf", revision="b" * 40)
    assert "there is no file m.gguf" in refused("m.gguf")
    assert "there is no file ./org/m.gguf" in refused("./org/m.gguf")


@pytest.mark.parametrize("kept", [30, 0.999])
def test_a_file_that_is_cut_short_is_named(tmp_path, kept) -> None:
    file = gguf_files.write(tmp_path / "m.gguf", seeded(llama), tokenizer())
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    assert f"the GGUF file {file} of m is cut short or corrupt" in refused(file)


def test_an_array_that_counts_beyond_the_file_ends_at_once(tmp_path) -> None:
    """The gguf package reads on for ever behind the end."""
    file = gguf_files.write(tmp_path / "m.gguf", seeded(llama), tokenizer())
    content = file.read_bytes()
    at = content.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    file.write_bytes(content[:at] + struct.pack("<Q", 1 << 60) + content[at + 8 :])
    assert "cut short or corrupt (its arrays have more than 4,194,304 elem" in refused(file)


def test_what_is_no_gguf_file_is_named(tmp_path) -> None:
    for content in (b"", b"PK\x03\x04" + b"x" * 100):
        (tmp_path / "m.gguf").write_bytes(content)
        assert "is no GGUF file: it begins with" in refused(tmp_path / "m.gguf")


def test_what_transformers_does_not_read_is_named(tmp_path) -> None:
    def written(**more: Any) -> Path:
        (tmp_path / "m.gguf").unlink(missing_ok=True)
        return gguf_files.write(tmp_path / "m.gguf", seeded(llama), tokenizer(), **more)

    file = written(metadata={"general.architecture": "rwkv9"})
    assert "rwkv9" in refused(file)
    file = written(metadata={"llama.rope.scaling.type": "yarn"})
    message = refused(file)
    assert "says llama.rope.scaling.type = 'yarn', which transformers leaves out" in message
    assert "give the safetensors checkpoint" in message
    written(metadata={"llama.rope.scaling.type": "none", "llama.attention.key_length": 8})
    scores(file)
    file = written(metadata={"llama.attention.key_length": 16})
    assert "llama.attention.key_length = 16" in refused(file)


def test_weights_that_would_be_left_out_or_made_up_are_refused(tmp_path) -> None:
    model, extra = seeded(llama), {"blk.0.attn_q.bias": np.ones(32, dtype=np.float32)}
    file = gguf_files.write(tmp_path / "more.gguf", model, tokenizer(), tensors=extra)
    assert "numbers, and transformers' LlamaForCausalLM has" in refused(file)
    del model.model.layers[1].mlp.up_proj
    file = gguf_files.write(tmp_path / "less.gguf", model, tokenizer())
    assert "lacks model.layers.1.mlp.up_proj.weight" in refused(file)
    assert not list(gguf.gguf_file("m", str(file), None).cache.glob("float32"))


def llama3(**rope: Any) -> Any:
    parameters = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, **rope,
    }  # fmt: skip
    config = LlamaConfig(**{
        **llama().config.to_dict(), "rope_parameters": parameters, "head_dim": 64,
        "hidden_size": 256, "max_position_embeddings": 131072,
    })  # fmt: skip
    return LlamaForCausalLM(config)


def test_rotary_factors_of_llama_3_are_read(tmp_path) -> None:
    model = seeded(llama3)
    # What a plain rotation would have, over what the model has: as llama.cpp stores it.
    plain = 500000.0 ** (-torch.arange(0, 64, 2) / 64)
    factors = (plain / model.model.rotary_emb.inv_freq).numpy().astype(np.float32)
    assert factors.min() == pytest.approx(1) and factors.max() == pytest.approx(32)
    write = partial(gguf_files.write, model=model, tokenizer=tokenizer())
    file = write(tmp_path / "m.gguf", tensors={"rope_freqs.weight": factors})
    ids = [7 + i % 200 for i in range(600)]  # far enough that the factors matter
    read, plain = (descant.compile("m", {"m": m}) for m in (str(file), in_memory(model)))
    left_out = descant.compile("m", {"m": str(write(tmp_path / "plain.gguf"))})
    expected = plain.scores(ids, IDS)
    assert torch.allclose(read.scores(ids, IDS), expected, atol=1e-3)
    assert not torch.allclose(left_out.scores(ids, IDS), expected, atol=1e-1)
    factors[3] = 2.0
    file = write(tmp_path / "other.gguf", tensors={"rope_freqs.weight": factors})
    assert "rotary factors that are not Llama 3's" in refused(file)


def test_a_tokenizer_splits_text_as_its_file_says(tmp_path) -> None:
    def read(pre: str, **more: Any) -> Any:
        file = tmp_path / f"{pre}.gguf"
        metadata = {"tokenizer.ggml.pre": pre, **more}
        gguf_files.write(file, seeded(llama), tokenizer(), metadata=metadata)
        return gguf.described(gguf.gguf_file("m", str(file), None)), file

    from transformers import AutoTokenizer

    split = {}
    for pre in ("gpt-2", "smollm"):
        backend = AutoTokenizer.from_pretrained(read(pre)[0]).backend_tokenizer
        split[pre] = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("in 2026")]
    assert split == {"gpt-2": ["in", "Ġ2026"], "smollm": ["in", "Ġ", "2", "0", "2", "6"]}
    file = read("klingon")[1]
    message = refused(file)
    assert "splits text as 'klingon' does, which transformers " in message
    assert "name the original one with tokenizer: …" in message
    named = {"path": str(file), "tokenizer": tokenizer()}
    assert torch.equal(scores(named), scores(in_memory(seeded(llama))))


@pytest.mark.parametrize("begins", [True, False])
def test_bos_stands_where_the_file_says(tmp_path, begins) -> None:
    metadata = {"tokenizer.ggml.add_bos_token": begins}
    file = gguf_files.write(tmp_path / "m.gguf", seeded(llama), tokenizer(), metadata=metadata)
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained(gguf.described(gguf.gguf_file("m", str(file), None)))
    assert (read("a")["input_ids"][0] == read.bos_token_id) is begins


def test_every_end_of_the_file_ends_an_answer(tmp_path) -> None:
    metadata = {"tokenizer.ggml.eot_token_id": 77, "tokenizer.ggml.eom_token_id": 78}
    file = gguf_files.write(tmp_path / "m.gguf", seeded(llama), tokenizer(), metadata=metadata)
    assert descant.compile("m", {"m": str(file)}).session.bound.eos == frozenset({EOS, 77, 78})


def test_what_is_missing_is_said(tmp_path, monkeypatch, cache) -> None:
    file = gguf_files.write(tmp_path / "m.gguf", seeded(llama), tokenizer())
    with monkeypatch.context() as context:
        context.setattr(gguf, "find_spec", lambda name: None)
        assert pip_install("gguf") in refused(file)
    cache.write_text("a file, where the cache should be")
    assert "set HF_HOME to a folder that can be written" in refused(file)


def test_a_language_model_is_no_reward(tmp_path) -> None:
    file = gguf_files.write(tmp_path / "m.gguf", seeded(llama), tokenizer())
    with pytest.raises(FormulaError, match="m is a language model, and rerank takes reward"):
        descant.compile("b | rerank(m, k=2, w=1)", {"b": in_memory(seeded(llama)), "m": str(file)})


def test_the_type_without_a_declaration_is_the_files_own() -> None:
    def kind(*types: str) -> torch.dtype:
        return gguf.float_type({"types": dict(enumerate(types))})

    assert kind("F32") == kind("F32", "Q4_K", "F16") == torch.float32
    assert kind("F32", "F16") == torch.float16 and kind("F32", "BF16") == torch.bfloat16
    assert math.isfinite(torch.finfo(kind("F32", "F16", "BF16")).max)
