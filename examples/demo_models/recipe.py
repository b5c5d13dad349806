"""Make every demo model from scratch: `python -m examples.demo_models.recipe`.

Sizes, schedules and seeds are all in this file. Each model is a data file and a train file,
trained as `descant train` does. It writes only below its output folder, needs no network, and
gives the same numbers again on the same versions and the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    set_seed,
)

from descant.demo import WEIGHTS
from descant.inputs.yaml import dump_yaml
from descant.train import read_train_file
from descant.train.loop import train
from examples.demo_models import card
from examples.demo_models.card import Schedule
from examples.demo_models.corpus import Trait, examples, pairs
from examples.demo_models.evaluation import load_tokenizer
from examples.demo_models.tokenizer import MAX_LENGTH, prompt_text, train_tokenizer

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
    "large_help": Schedule(steps=150, batch=32, lr=3e-3),
    "reward_help": Schedule(steps=250, batch=32, lr=3e-3),
    "reward_harm": Schedule(steps=250, batch=32, lr=3e-3),
}
BETAS = {"arm_help": 0.3, "arm_harm": 0.3}
LORA = {
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


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
    """Return base's tokenizer: trained for base, loaded for the others."""
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
    schedule = SCHEDULES[name]
    texts = (
        {"text": prompt_text(example.request, example.system) + example.reply.text}
        for example in examples(schedule.steps * schedule.batch, SEED)
    )
    set_seed(_seed(name))
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "start"
        LlamaForCausalLM(llama(name)).save_pretrained(start)
        tokenizer.save_pretrained(str(start))
        _train("sft", name, start, texts, folder, by_length=True)
    _save_tokenizer(tokenizer, folder / name)


def make_arm(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Train an autoregressive reward model: a LoRA adapter on base, with GenARM's loss."""
    _train("arm", name, folder / "base", _preferences(name), folder, beta=BETAS[name], lora=LORA)


def make_expert(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tune small on helpful responses alone: the expert of proxy tuning, a LoRA adapter.

    And large, in the same way: what weak to strong is measured against.
    """
    schedule = SCHEDULES[name]
    rows = (
        {"prompt": prompt_text(example.request), "completion": example.reply.text}
        if example.request is not None
        else {"text": example.reply.text}
        for example in examples(5 * schedule.steps * schedule.batch, SEED + 1)
        if example.reply.help == 2 and not example.system
    )
    _train(
        "sft", name, folder / name.removesuffix("_help"), rows, folder, by_length=True, lora=LORA
    )


def make_reward(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Train a scalar reward model on whole responses and, as often, on prefixes of them."""
    set_seed(_seed(name))
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "start"
        config = llama(name, num_labels=1)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(start)
        tokenizer.save_pretrained(str(start))
        _train("reward", name, start, _preferences(name), folder, prefixes=0.5)
    _save_tokenizer(tokenizer, folder / name)


MAKERS: dict[str, Callable[[str, Path, PreTrainedTokenizerBase], None]] = {
    "base": make_language_model,
    "arm_help": make_arm,
    "arm_harm": make_arm,
    "reward_help": make_reward,
    "reward_harm": make_reward,
    "small": make_language_model,
    "small_help": make_expert,
    "large": make_language_model,
    "large_help": make_expert,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Build all demo models, or those named by `--only`, then measure them and write the README."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo_models.recipe", description=main.__doc__
    )
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


def _preferences(name: str) -> Iterable[Mapping[str, str]]:
    schedule = SCHEDULES[name]
    for pair in pairs(_trait(name), schedule.steps * schedule.batch, SEED):
        yield {
            "prompt": prompt_text(pair.request),
            "chosen": pair.chosen.text,
            "rejected": pair.rejected.text,
        }


def _train(
    method: str,
    name: str,
    start: Path,
    rows: Iterable[Mapping[str, str]],
    folder: Path,
    *,
    by_length: bool = False,
    **options: Any,
) -> None:
    """Write the model's data and train file, and train it: `descant train METHOD train.yaml`.

    `by_length` batches rows of like length, which saves padding.
    """
    schedule = SCHEDULES[name]
    with tempfile.TemporaryDirectory() as scratch:
        data, file = Path(scratch) / "data.jsonl", Path(scratch) / "train.yaml"
        with data.open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        content = {
            "model": str(start),
            "data": data.name,
            "max_length": MAX_LENGTH,
            "training": {
                "max_steps": schedule.steps,
                "per_device_train_batch_size": schedule.batch,
                "learning_rate": schedule.lr,
                "lr_scheduler_type": "cosine",
                "warmup_steps": max(1, schedule.steps // 20),
                "weight_decay": schedule.weight_decay,
                "logging_steps": max(1, schedule.steps // 10),
                "save_strategy": "no",
                "dataloader_drop_last": True,
                "train_sampling_strategy": "group_by_length" if by_length else "random",
                "seed": _seed(name),
                "use_cpu": True,
            },
            "output": str(Path(scratch) / name),
            **options,
        }
        file.write_text(dump_yaml(content), encoding="utf-8")
        done = train(read_train_file(method, file))
        _ship(done.folder, folder / name, start.name)


def _ship(trained: Path, folder: Path, host: str) -> None:
    """Keep the weights, rounded to bfloat16, and the configuration that belongs to them."""
    folder.mkdir(parents=True, exist_ok=True)
    adapter = (trained / "adapter_config.json").is_file()
    weights = "adapter_model.safetensors" if adapter else "model.safetensors"
    rounded = {key: value.to(torch.bfloat16) for key, value in load_file(trained / weights).items()}
    save_file(rounded, folder / weights, metadata={"format": "pt"})
    (folder / weights).chmod(0o644)
    if adapter:
        config = json.loads((trained / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = host
        # peft stores the targets as a set, whose order changes between runs.
        config["target_modules"] = sorted(config["target_modules"])
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / "adapter_config.json").write_text(text)
        return
    config = AutoConfig.from_pretrained(trained)
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    generation = trained / "generation_config.json"
    if generation.is_file():
        shutil.copy(generation, folder)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.save_pretrained(str(folder), save_jinja_files=False)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for key in ("backend", "is_local", "local_files_only"):  # how it was loaded, not what it is
        config.pop(key, None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
