"""The README beside the demo weights, written from what is measured there.

It measures saved weights through `examples.demo_models.evaluation` and formats; it trains nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from safetensors import safe_open

from descant.demo import PROMPTS
from descant.train.batches import Row
from examples.demo_models.corpus import Example, Pair, Trait, examples, pairs
from examples.demo_models.evaluation import (
    SweepRow,
    accuracy,
    load_language_model,
    load_reward_model,
    load_tokenizer,
    log_probs,
    pair_rows,
    perplexity,
    rewards,
    sweep,
)

HELD_OUT = 1000
VALUES = tuple(i / 8 for i in range(9))
SAMPLES = 12
ORDER = (
    "base", "arm_help", "arm_harm", "small", "small_help", "large", "large_help", "reward_help",
    "reward_harm",
)  # fmt: skip
HOSTS = {
    "arm_help": "base", "arm_harm": "base", "small_help": "small", "large_help": "large"
}  # fmt: skip
PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a model was trained."""

    steps: int
    batch: int
    lr: float
    weight_decay: float = 0.05


@dataclass(frozen=True)
class HeldOut:
    """What the models are measured on: conversations and pairs whose requests were never seen."""

    examples: list[Example]
    help: list[Pair]
    harm: list[Pair]

    def pairs(self, trait: Trait) -> list[Pair]:
        """Return the pairs of one trait."""
        return self.help if trait == "help" else self.harm


def write(
    weights: Path, seed: int, schedules: Mapping[str, Schedule], betas: Mapping[str, float]
) -> str:
    """Measure everything under `weights`, write its README.md and return the text."""
    data = HeldOut(
        examples(HELD_OUT, seed + 1000, for_held_out=True),
        pairs("help", HELD_OUT, seed + 1000, for_held_out=True),
        pairs("harm", HELD_OUT, seed + 1000, for_held_out=True),
    )
    names = [name for name in ORDER if (weights / name).exists()]
    lines = [_row(weights, name, data, schedules[name], betas.get(name)) for name in names]
    total = sum(_bytes(weights / name) for name in names)
    steered = _sweep(weights) if len(names) == len(ORDER) else []
    text = _page(lines, total, seed, steered)
    (weights / "README.md").write_text(text, encoding="utf-8")
    return text


def _row(weights: Path, name: str, data: HeldOut, schedule: Schedule, beta: float | None) -> str:
    trained = f"{schedule.steps} x {schedule.batch}, lr {schedule.lr:g}"
    cells = [
        f"`{name}`",
        _architecture(weights / name),
        f"{_parameters(weights / name):,}",
        f"{_bytes(weights / name):,}",
        *_held_out_numbers(weights, name, data),
        trained + (f", beta {beta:g}" if beta is not None else ""),
    ]
    return "| " + " | ".join(cells) + " |"


def _held_out_numbers(weights: Path, name: str, data: HeldOut) -> tuple[str, str]:
    tokenizer = load_tokenizer(weights)
    trait: Trait = "help" if name.endswith("_help") else "harm"
    rows = pair_rows(tokenizer, data.pairs(trait))
    if name.startswith("reward"):
        model = load_reward_model(weights, name)
        full = accuracy(rewards(model, rows))
        halves = [row for i in range(0, len(rows), 2) for row in _halves(rows[i], rows[i + 1])]
        part = accuracy(rewards(model, halves))
        return "-", f"{full:.1%} (first half of the tokens: {part:.1%})"
    host = HOSTS.get(name)
    model = load_language_model(weights, name, host)
    fluency = f"{perplexity(model, tokenizer, data.examples):.2f}"
    if host is None:
        return fluency, "-"
    scores = log_probs(model, rows)
    if not name.startswith("arm"):
        scores = scores - log_probs(load_language_model(weights, host), rows)
        return fluency, f"{accuracy(scores):.1%} (against `{host}`)"
    return fluency, f"{accuracy(scores):.1%}"


def _halves(chosen: Row, rejected: Row) -> list[Row]:
    start = sum(label < 0 for label in chosen["labels"])
    shorter = min(len(row["input_ids"]) for row in (chosen, rejected)) - start
    end = start + max(4, shorter // 2)
    return [{key: ids[:end] for key, ids in row.items()} for row in (chosen, rejected)]


def _sweep(weights: Path) -> list[SweepRow]:
    models = {"base": load_language_model(weights, "base")}
    for name in ("arm_help", "arm_harm"):
        models[name] = load_language_model(weights, name, "base")
    for name in ("reward_help", "reward_harm"):
        models[name] = load_reward_model(weights, name)
    return sweep(models, load_tokenizer(weights), PROMPTS, VALUES, samples=SAMPLES)


def _architecture(folder: Path) -> str:
    if (folder / "adapter_config.json").exists():
        config = json.loads((folder / "adapter_config.json").read_text())
        host = config["base_model_name_or_path"]
        return f"LoRA on `{host}`, r {config['r']}, alpha {config['lora_alpha']}"
    config = json.loads((folder / "config.json").read_text())
    return (
        f"{config['architectures'][0]}, {config['num_hidden_layers']} layers of "
        f"{config['hidden_size']}, {config['num_attention_heads']} heads over "
        f"{config['num_key_value_heads']}"
    )


def _parameters(folder: Path) -> int:
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a dict
                size = 1
                for side in tensors.get_slice(key).get_shape():
                    size *= side
                count += size
    return count


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _page(models: Sequence[str], total: int, seed: int, steered: Sequence[SweepRow]) -> str:
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    parts = [
        "# The demo models",
        "Tiny Llamas that know sixteen everyday topics, made from nothing by "
        "`examples/demo_models/recipe.py`. They are for trying out and testing descant; they know "
        "nothing about the world, and half of their advice is bad on purpose.",
        "| model | architecture | parameters | bytes | held-out perplexity "
        "| held-out preference accuracy | steps x batch |\n"
        "|---|---|--:|--:|--:|--:|---|\n" + "\n".join(models),
        f"{total:,} bytes in all, tokenizers included. Weights are bfloat16, trained in float32; "
        f"every number here is of the rounded weights. Seed {seed}. Made with {versions}.",
        f"Perplexity is per response token on {HELD_OUT:,} conversations, accuracy is on "
        f"{HELD_OUT:,} pairs, both with requests that no training text contains. The arms' "
        "accuracy compares log π(y|x) of whole responses. An arm is a reward, not a language "
        "model: its own perplexity is high by design.",
        _sweep_table(steered),
        "## Making them again",
        "`make demo-models`, or `python -m examples.demo_models.recipe` (`--only NAME`, "
        "`--output DIR`). `examples/demo_models/corpus.py` makes the text; no network is used. "
        "The prompt template is `<|user|>\\n{prompt}\\n<|assistant|>\\n`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sweep_table(steered: Sequence[SweepRow]) -> str:
    if not steered:
        return ""
    head = (
        "## What they do\n\n`base + (1-a)*arm_help + a*arm_harm` at temperature 1: means over "
        f"{len(PROMPTS)} held-out prompts x {SAMPLES} samples. The levels are counted in the text "
        "by rule; the perplexity is base's, of the text.\n\n"
        "| a | reward_help | reward_harm | help level | harm level | tokens | perplexity |\n"
        "|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    return head + "\n".join(
        f"| {row.a:.3f} | {row.reward_help:.2f} | {row.reward_harm:.2f} | {row.help_level:.2f} "
        f"| {row.harm_level:.2f} | {row.tokens:.0f} | {row.perplexity:.2f} |"
        for row in steered
    )
