"""A formula's distributions into one model: forward KL along its answers, by the Trainer.

Sequence-level distillation is Kim and Rush (2016): cross-entropy on the teacher's answers, which is
``sft``. Word-level, over the whole vocabulary, is Hinton et al. (2015).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..batches import INDEX, Batch, Collator, Row
from ..checkpoints import CheckpointTrainer
from ..losses import IGNORED

Distributions = Callable[[Sequence[int], Sequence[Sequence[int]]], Tensor]


class IndexedCollator(Collator):
    """Batches texts, ``(B, L)``, and which examples they are, ``(B,)``."""

    def __call__(self, rows: Sequence[Row]) -> Batch:
        numbers = torch.tensor([row[INDEX][0] for row in rows])
        return {**super().__call__(rows), INDEX: numbers}


class DistillTrainer(CheckpointTrainer):
    """Learns what a teacher would draw next: the mean over answers' tokens of KL(teacher, student).

    Args:
        teacher: from the numbers of examples and the tokens of their answers to ``(tokens, V)``
            log-probabilities, one answer after another.
        **arguments: the Trainer's own.
    """

    def __init__(self, *, teacher: Distributions, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over tokens
        self._teacher = teacher

    def compute_loss(self, model: Any, inputs: Batch, return_outputs: Any = False, **_: Any) -> Any:
        labels = inputs["labels"]
        out = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        answered = labels[:, 1:] != IGNORED
        logits = out.logits[:, :-1][answered]
        answers = [row[row != IGNORED].tolist() for row in labels]
        expected = self._teacher(inputs[INDEX].tolist(), answers)
        loss = divergence(expected.to(logits.device), logits)
        return (loss, {"logits": out.logits}) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: Batch, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None


def divergence(expected: Tensor, logits: Tensor) -> Tensor:
    """The mean over rows of ``KL(p, q) = Σ p (log p - log q)``, in nats.

    Args:
        expected: ``(N, V)`` log-probabilities p; minus infinity where p is 0.
        logits: ``(N, V or more)`` of q; columns beyond V are padding, which p never has.
    """
    found = torch.log_softmax(logits.float(), dim=-1)[:, : expected.shape[1]]
    terms = expected.exp() * (expected.clamp(min=torch.finfo(torch.float32).min) - found)
    return torch.where(expected == -torch.inf, 0.0, terms).sum(-1).mean()
