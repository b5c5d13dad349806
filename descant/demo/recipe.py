"""Makes every demo model from nothing: `python -m descant.demo.recipe`.

The one place that knows sizes, schedules and seeds. It writes only below its output folder, needs
no network, and gives the same numbers again on the same versions and the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    Trainer,
    set_seed,
)

from descant.demo import WEIGHTS, card
from descant.demo.corpus import Trait, examples, pairs
from descant.demo.evaluation import load_tokenizer
from descant.demo.tokenizer import (
    MAX_LENGTH,
    encode_example,
    encode_prompt,
    encode_response,
    prompt_text,
    train_tokenizer,
)
from descant.demo.training import (
    ArmTrainer,
    PairCollator,
    RewardTrainer,
    Schedule,
    TextCollator,
    arguments,
    encode_pair,
    fit,
    labelled,
    truncated,
)

SEED = 20250
THREADS = 2


@dataclass(frozen=True)
class Shape:
    """The size of a Llama."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int


SHAPES = {
    "base": Shape(128, 4, 4, 2, 352),
    "small": Shape(64, 2, 4, 2, 160),
    "large": Shape(192, 4, 6, 2, 416),
    "reward_help": Shape(64, 2, 4, 2, 160),
    "reward_harm": Shape(64, 2, 4, 2, 160),
}
SCHEDULES = {
    "base": Schedule(steps=2400, batch=16, lr=3e-3),
    "small": Schedule(steps=1500, batch=16, lr=5e-3),
    "large": Schedule(steps=1500, batch=16, lr=2e-3),
    "arm_help": Schedule(steps=300, batch=16, lr=1.2e-3),
    "arm_harm": Schedule(steps=300, batch=16, lr=1.2e-3),
    "small_help": Schedule(steps=150, batch=32, lr=3e-3),
    "reward_help": Schedule(steps=250, batch=32, lr=3e-3),
    "reward_harm": Schedule(steps=250, batch=32, lr=3e-3),
}
BETAS = {"arm_help": 0.3, "arm_harm": 0.3}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def llama(name: str, **extra: Any) -> LlamaConfig:
    """Return the configuration of a full model."""
    shape = SHAPES[name]
    return LlamaConfig(
        vocab_size=1024,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **extra,
    )


def make_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return base's tokenizer: trained for base, read back for everyone else."""
    if (folder / "base" / "tokenizer.json").exists():
        return load_tokenizer(folder)
    texts = [
        prompt_text(example.request, example.system) + example.reply.text
        for example in examples(8000, SEED)
    ]
    tokenizer = train_tokenizer(texts)
    _save_tokenizer(tokenizer, folder / "base")
    return tokenizer


def make_language_model(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Train base, small or large on the corpus."""
    schedule, seed = SCHEDULES[name], _seed(name)
    set_seed(seed)
    model = LlamaForCausalLM(llama(name))
    rows = []
    for example in examples(schedule.steps * schedule.batch, SEED):
        ids = encode_example(tokenizer, example)
        rows.append({"input_ids": ids, "labels": ids})
    _train(Trainer, model, rows, TextCollator(0), name)
    _save_full(model, tokenizer, folder / name)


def make_arm(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Train an autoregressive reward model: a LoRA adapter on base, with GenARM's loss."""
    schedule = SCHEDULES[name]
    model = _with_adapter(folder / "base", name)
    drawn = pairs(_trait(name), schedule.steps * schedule.batch, SEED)
    rows = [encode_pair(tokenizer, pair) for pair in drawn]
    _train(ArmTrainer, model, rows, PairCollator(0), name, beta=BETAS[name])
    _save_adapter(model, folder / name, "base")


def make_expert(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tune small on helpful responses alone: the expert of proxy tuning, a LoRA adapter."""
    schedule = SCHEDULES[name]
    model = _with_adapter(folder / "small", name)
    rows = [
        labelled(
            encode_prompt(tokenizer, example.request, example.system),
            encode_response(tokenizer, example.reply.text),
        )
        for example in examples(5 * schedule.steps * schedule.batch, SEED + 1)
        if example.reply.help == 2 and not example.system
    ]
    _train(Trainer, model, rows, TextCollator(0), name)
    _save_adapter(model, folder / name, "small")


def make_reward(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Train a scalar reward model on whole responses and, as often, on prefixes of them."""
    schedule, seed = SCHEDULES[name], _seed(name)
    set_seed(seed)
    config = llama(name, num_labels=1)
    model = AutoModelForSequenceClassification.from_config(config)
    rng = Random(seed)
    rows = []
    for pair in pairs(_trait(name), schedule.steps * schedule.batch, SEED):
        row = encode_pair(tokenizer, pair)
        rows.append(row if rng.random() < 0.5 else truncated(row, rng))
    _train(RewardTrainer, model, rows, PairCollator(0), name)
    _save_full(model, tokenizer, folder / name)


MAKERS: dict[str, Callable[[str, Path, PreTrainedTokenizerBase], None]] = {
    "base": make_language_model,
    "arm_help": make_arm,
    "arm_harm": make_arm,
    "reward_help": make_reward,
    "reward_harm": make_reward,
    "small": make_language_model,
    "small_help": make_expert,
    "large": make_language_model,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Build all demo models, or those named by `--only`, then measure them and write the README."""
    parser = argparse.ArgumentParser(prog="python -m descant.demo.recipe", description=main.__doc__)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="folder to write to")
    parser.add_argument("--only", nargs="+", choices=sorted(MAKERS), help="rebuild only these")
    parser.add_argument("--no-card", action="store_true", help="skip measuring and the README")
    options = parser.parse_args(argv)
    torch.set_num_threads(THREADS)
    began = time.perf_counter()
    if not options.only or "base" in options.only:
        (options.output / "base" / "tokenizer.json").unlink(missing_ok=True)
    tokenizer = make_tokenizer(options.output)
    for name in options.only or MAKERS:
        print(f"{name}: training", flush=True)
        MAKERS[name](name, options.output, tokenizer)
        print(f"{name}: done after {time.perf_counter() - began:.0f} s in all", flush=True)
    if not options.no_card:
        text = card.write(options.output, SEED, SCHEDULES, BETAS)
        print(text)
    print(f"finished in {time.perf_counter() - began:.0f} s")


def _seed(name: str) -> int:
    return SEED + list(MAKERS).index(name)


def _trait(name: str) -> Trait:
    return "help" if name.endswith("_help") else "harm"


def _with_adapter(host: Path, name: str) -> Any:
    set_seed(_seed(name))
    model = AutoModelForCausalLM.from_pretrained(host, dtype=torch.float32)
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=TARGETS, bias="none", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def _train(
    trainer: type[Trainer],
    model: Any,
    rows: Sequence[Any],
    collator: Any,
    name: str,
    beta: float | None = None,
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        training = arguments(scratch, SCHEDULES[name], _seed(name), by_length=trainer is Trainer)
        fit(trainer, model, rows, collator, training, beta)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.save_pretrained(str(folder), save_jinja_files=False)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for key in ("backend", "is_local", "local_files_only"):  # how it was loaded, not what it is
        config.pop(key, None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _save_full(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    model.config.use_cache = True  # the Trainer turned it off
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    _save_tokenizer(tokenizer, folder)


def _save_adapter(model: Any, folder: Path, host: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "adapter_model.safetensors").chmod(0o644)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = host
    # peft stores the targets as a set, whose order changes between runs.
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
