"""Prompts for transformers' generate, and what it says with models that nobody caches."""

from __future__ import annotations

import torch
from checkpoints import EOS, tokenizer
from transformers import LogitsProcessor

PROMPTS = ["the river", "a small stone in the river, and", "def add"]


def inputs(prompts: list[str] = PROMPTS) -> dict[str, torch.Tensor]:
    return dict(tokenizer()(prompts, padding=True, padding_side="left", return_tensors="pt"))


def unpadded(given: dict[str, torch.Tensor]) -> list[list[int]]:
    pairs = zip(given["input_ids"], given["attention_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


def new(sequences: torch.Tensor, given: dict[str, torch.Tensor]) -> list[list[int]]:
    """The generated ids of each row, up to and with its end."""
    rows = sequences[:, given["input_ids"].shape[1] :].tolist()
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


class Plain(LogitsProcessor):
    """A sum of log-probabilities, every model but the first run on every row from scratch."""

    def __init__(self, models, weights, mask) -> None:
        self.models, self.weights, self.mask = models, weights, mask

    def __call__(self, input_ids, scores):
        total = self.weights[0] * scores.log_softmax(-1)
        mask = self.mask.repeat_interleave(len(input_ids) // len(self.mask), 0)
        for row, (ids, seen) in enumerate(zip(input_ids, mask, strict=True)):
            whole = ids[len(seen) - int(seen.sum()) :][None]
            for model, weight in zip(self.models, self.weights[1:], strict=True):
                total[row] += weight * model(whole).logits[0, -1].log_softmax(-1)
        return total
