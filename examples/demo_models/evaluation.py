"""Held-out numbers for the demo models, read back from the saved (rounded) weights.

It measures; it never trains and never writes. The sampling loop is deliberately separate from
descant's runtime: it is a second route to the same distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DynamicCache,
    PreTrainedTokenizerBase,
)

from descant.train.batches import Row, pad
from descant.train.encode import labelled
from descant.train.losses import IGNORED, sequence_log_probs
from examples.demo_models.corpus import Example, Pair, harm_level, help_level
from examples.demo_models.tokenizer import encode_prompt, encode_response

Model = Any
CHUNK = 64


@dataclass(frozen=True)
class SweepRow:
    """Means over prompts and samples at one value of `a`."""

    a: float
    reward_help: float
    reward_harm: float
    help_level: float
    harm_level: float
    tokens: float
    perplexity: float
    texts: tuple[str, ...]


def load_language_model(weights: Path, name: str, host: str | None = None) -> Model:
    """Load a saved language model, or an adapter merged into its `host`, in float32."""
    folder = weights / (host or name)
    model: Model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if host is not None:
        model = PeftModel.from_pretrained(model, str(weights / name)).float().merge_and_unload()
    return model.eval()


def load_reward_model(weights: Path, name: str) -> Model:
    """Load a saved scalar reward model in float32."""
    model: Model = AutoModelForSequenceClassification.from_pretrained(
        weights / name, dtype=torch.float32
    )
    return model.eval()


def load_tokenizer(weights: Path, name: str = "base") -> PreTrainedTokenizerBase:
    """Load the tokenizer saved beside a model."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(weights / name)
    return tokenizer


@torch.no_grad()
def log_probs(model: Model, rows: Sequence[Row], pad_id: int = 0) -> Tensor:
    """Return `log π(y|x)` of each row, (N,)."""
    parts = []
    for start in range(0, len(rows), CHUNK):
        batch = pad(rows[start : start + CHUNK], pad_id)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        parts.append(sequence_log_probs(logits, batch["labels"]))
    return torch.cat(parts)


@torch.no_grad()
def rewards(model: Model, rows: Sequence[Row], pad_id: int = 0) -> Tensor:
    """Return the scalar reward of each row, (N,)."""
    parts = []
    for start in range(0, len(rows), CHUNK):
        batch = pad(rows[start : start + CHUNK], pad_id)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        parts.append(logits.squeeze(-1))
    return torch.cat(parts)


def perplexity(
    model: Model, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> float:
    """Return the perplexity per response token, `</s>` included, given the prompt."""
    rows = [
        labelled(
            encode_prompt(tokenizer, example.request, example.system),
            encode_response(tokenizer, example.reply.text),
        )
        for example in examples
    ]
    count = sum(label != IGNORED for row in rows for label in row["labels"])
    return float(torch.exp(-log_probs(model, rows).sum() / count))


def accuracy(scores: Tensor) -> float:
    """Return the share of pairs won, from scores laid out as chosen, rejected, chosen, …"""
    return float((scores[0::2] > scores[1::2]).float().mean())


def pair_rows(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> list[Row]:
    """Encode pairs as rows: chosen, rejected, chosen, …"""
    return [
        labelled(encode_prompt(tokenizer, pair.request), encode_response(tokenizer, reply.text))
        for pair in pairs
        for reply in (pair.chosen, pair.rejected)
    ]


@torch.no_grad()
def sample(
    terms: Sequence[tuple[Model, Tensor]],
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    max_new_tokens: int = 96,
    seed: int = 0,
    pad_id: int = 0,
    eos_id: int = 2,
) -> list[list[int]]:
    """Sample from `Σ wᵢ log πᵢ`; a weight is a tensor (rows,), so rows may differ."""
    generator = torch.Generator().manual_seed(seed)
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[*[pad_id] * (width - len(prompt)), *prompt] for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    caches = [DynamicCache() for _ in terms]
    done = torch.zeros(len(prompts), dtype=torch.bool)
    drawn = []
    for _ in range(max_new_tokens):
        scores = torch.zeros(())
        for (model, weight), cache in zip(terms, caches, strict=True):
            logits = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache
            ).logits[:, -1]
            scores = scores + weight[:, None] * torch.log_softmax(logits, dim=-1)
        token = torch.multinomial(torch.softmax(scores / temperature, -1), 1, generator=generator)
        token = token.masked_fill(done[:, None], pad_id)
        drawn.append(token)
        done |= token[:, 0] == eos_id
        if done.all():
            break
        ids, positions = token, positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(token)], dim=-1)
    return [[t for t in row if t != pad_id] for row in torch.cat(drawn, dim=-1).tolist()]


def sweep(
    models: Mapping[str, Model],
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[str],
    values: Sequence[float],
    *,
    samples: int = 4,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[SweepRow]:
    """Measure `base + (1-a)*arm_help + a*arm_harm` at each value of `a`, all values alike seeded.

    `models` holds base, arm_help, arm_harm, reward_help and reward_harm.
    """
    prompts = [encode_prompt(tokenizer, request) for request in requests] * samples
    ones = torch.ones(len(prompts))
    rows = []
    for a in values:
        terms = [
            (models["base"], ones),
            (models["arm_help"], (1 - a) * ones),
            (models["arm_harm"], a * ones),
        ]
        outputs = sample(terms, prompts, temperature=temperature, seed=seed)
        rows.append(_measure(models, tokenizer, a, prompts, outputs))
    return rows


def _measure(
    models: Mapping[str, Model],
    tokenizer: PreTrainedTokenizerBase,
    a: float,
    prompts: Sequence[list[int]],
    outputs: Sequence[list[int]],
) -> SweepRow:
    rows = [labelled(prompt, output) for prompt, output in zip(prompts, outputs, strict=True)]
    texts = [str(tokenizer.decode(output, skip_special_tokens=True)) for output in outputs]
    count = sum(len(output) for output in outputs)
    return SweepRow(
        a=a,
        reward_help=float(rewards(models["reward_help"], rows).mean()),
        reward_harm=float(rewards(models["reward_harm"], rows).mean()),
        help_level=sum(map(help_level, texts)) / len(texts),
        harm_level=sum(map(harm_level, texts)) / len(texts),
        tokens=count / len(outputs),
        perplexity=float(torch.exp(-log_probs(models["base"], rows).sum() / count)),
        texts=tuple(texts),
    )
