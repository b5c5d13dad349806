"""The losses of the demo models, and the transformers Trainers that use them.

Three ways to learn: a language model from text, an autoregressive reward model from preferences
(GenARM), a scalar reward model from preferences (Bradley-Terry). This module must not know where
the data comes from or where weights go; see `descant.demo.recipe` for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from descant.demo.corpus import Pair
from descant.demo.tokenizer import encode_prompt, encode_response

IGNORED = -100
Row = dict[str, list[int]]
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    steps: int
    batch: int
    lr: float
    weight_decay: float = 0.05


def sequence_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Return `log π(y|x)` of each row: the sum over labelled tokens, EOS included.

    `logits` is (B, L, V) and `labels` (B, L), not shifted; `IGNORED` marks prompt and padding.
    """
    targets = labels[:, 1:]
    log_probs = F.log_softmax(logits[:, :-1].float(), dim=-1)
    picked = log_probs.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (picked * (targets != IGNORED)).sum(-1)


def arm_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """GenARM (Xu et al., ICLR 2025), the mean over pairs of

    -log sigmoid(beta * (log π_r(y_w|x) - log π_r(y_l|x))).
    """
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


def reward_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Bradley-Terry: -log sigmoid(r(x, y_w) - r(x, y_l)), the mean over pairs."""
    return -F.logsigmoid(chosen - rejected).mean()


def labelled(prompt: Sequence[int], response: Sequence[int]) -> Row:
    """Join a prompt and a response; only the response carries labels."""
    return {
        "input_ids": [*prompt, *response],
        "labels": [*[IGNORED] * len(prompt), *response],
    }


def encode_pair(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> tuple[Row, Row]:
    """Encode (chosen, rejected) after their common prompt."""
    prompt = encode_prompt(tokenizer, pair.request)
    sides = (encode_response(tokenizer, reply.text) for reply in (pair.chosen, pair.rejected))
    chosen, rejected = (labelled(prompt, side) for side in sides)
    return chosen, rejected


def truncated(pair: tuple[Row, Row], rng: Random) -> tuple[Row, Row]:
    """Cut both sides of a pair to one random number of response tokens (ARGS scores prefixes)."""
    chosen, rejected = pair
    start = sum(label == IGNORED for label in chosen["labels"])
    longest = max(len(chosen["input_ids"]), len(rejected["input_ids"])) - start
    end = start + rng.randint(4, max(4, longest))
    cut = [{key: ids[:end] for key, ids in row.items()} for row in pair]
    return cut[0], cut[1]


def pad(rows: Sequence[Mapping[str, Sequence[int]]], pad_id: int) -> Batch:
    """Pad rows on the right into (B, L) tensors; padding is masked and carries no label."""
    length = max(len(row["input_ids"]) for row in rows)

    def stack(key: str, fill: int) -> Tensor:
        return torch.tensor([[*row[key], *[fill] * (length - len(row[key]))] for row in rows])

    lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
    mask = (torch.arange(length) < lengths).long()
    return {
        "input_ids": stack("input_ids", pad_id),
        "labels": stack("labels", IGNORED),
        "attention_mask": mask,
    }


class TextCollator:
    """Batches rows for language modelling."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Row]) -> Batch:
        return pad(rows, self.pad_id)


class PairCollator:
    """Batches pairs: all chosen rows first, then all rejected rows."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, pairs: Sequence[tuple[Row, Row]]) -> Batch:
        return pad([pair[side] for side in (0, 1) for pair in pairs], self.pad_id)


class ArmTrainer(Trainer):
    """Trains an autoregressive reward model on batches of pairs."""

    beta: float = 0.1

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        chosen, rejected = sequence_log_probs(outputs.logits, inputs["labels"]).chunk(2)
        loss = arm_loss(chosen, rejected, self.beta)
        return (loss, outputs) if return_outputs else loss


class RewardTrainer(Trainer):
    """Trains a scalar reward model on batches of pairs."""

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
        loss = reward_loss(chosen, rejected)
        return (loss, outputs) if return_outputs else loss


def arguments(
    output: str, schedule: Schedule, seed: int, *, by_length: bool = False
) -> TrainingArguments:
    """Return Trainer arguments: CPU, cosine, progress on screen, nothing left on disk.

    `by_length` batches rows of like length, which saves padding.
    """
    return TrainingArguments(
        output_dir=output,
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.batch,
        learning_rate=schedule.lr,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, schedule.steps // 20),
        weight_decay=schedule.weight_decay,
        max_grad_norm=1.0,
        logging_steps=max(1, schedule.steps // 10),
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        dataloader_drop_last=True,
        train_sampling_strategy="group_by_length" if by_length else "random",
        seed=seed,
        use_cpu=True,
    )


def fit(
    trainer: type[Trainer],
    model: PreTrainedModel | Any,
    rows: Sequence[Any],
    collator: Any,
    training: TrainingArguments,
    beta: float | None = None,
) -> None:
    """Train `model` in place on `rows`."""
    run = trainer(model=model, args=training, train_dataset=rows, data_collator=collator)
    if beta is not None and isinstance(run, ArmTrainer):
        run.beta = beta
    run.train()
