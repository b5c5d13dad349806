"""transformers' Trainer with the losses of preferences, and what they log.

A method is a reward for each side of a pair; the loss and the metrics are the same for all.
Metrics have TRL's names. Nothing here knows where data comes from or where weights go.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EvalPrediction, TrainerCallback

from ..models.checkpoint.reward_head import Head, full_text_reason
from .batches import Batch
from .checkpoints import CheckpointTrainer
from .losses import last_scores, preference_loss, sequence_log_probs
from .trainfile import TrainFileError


class Finite(TrainerCallback):
    """Stops a training whose loss is not finite, before it is saved."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        losses = [(logs or {}).get(name, 0.0) for name in ("loss", "eval_loss", "train_loss")]
        if not all(map(math.isfinite, losses)):
            cure = "give a smaller learning_rate, or look at the dtype"
            problem = f"the loss is no number at step {state.global_step}: {cure}"
            raise TrainFileError(f"{problem}; checkpoints until then are kept")


METRICS = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins")


def metrics_of(rewards: Tensor) -> Tensor:
    """Return ``(4,)``: each of ``METRICS`` summed over pairs, from ``(B, 2)`` rewards."""
    chosen, rejected = rewards.detach().double().unbind(1)
    correct = (chosen > rejected).double()
    return torch.stack([chosen, rejected, correct, chosen - rejected]).sum(1)


def evaluated(prediction: EvalPrediction) -> dict[str, float]:
    """The loss and the metrics of an evaluation, over all its pairs at once; ties are wrong."""
    rewards = torch.as_tensor(prediction.predictions)
    means = metrics_of(rewards) / len(rewards)
    named = dict(zip(METRICS, means.tolist(), strict=True))
    return {"loss": float(preference_loss(rewards))} | named


class PairTrainer(CheckpointTrainer):
    """Learns from pairs. A subclass defines the reward of a text.

    Args:
        beta: the scale of a reward made of log-probabilities.
        mean: of the log-probabilities, instead of their sum.
        **arguments: the Trainer's own.
    """

    def __init__(self, *, beta: float = 1.0, mean: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments, compute_metrics=evaluated)
        # The losses here are means over pairs: accumulation must divide them by its steps.
        self.model_accepts_loss_kwargs = False
        self.beta, self.mean = beta, mean
        self._sums = torch.zeros(len(METRICS) + 1, dtype=torch.float64)

    def rewards(self, model: Any, rows: Batch) -> Tensor:
        """``(2*B,)`` rewards of ``(2*B, L)`` rows: chosen, rejected, chosen, …"""
        raise NotImplementedError

    def log_probs(self, model: Any, rows: Batch) -> Tensor:
        """``(2*B,)`` log-probabilities of the responses."""
        logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
        return sequence_log_probs(logits, rows["labels"], mean=self.mean)

    def compute_loss(self, model: Any, inputs: Batch, return_outputs: Any = False, **_: Any) -> Any:
        rows = {key: value.flatten(0, 1) for key, value in inputs.items()}
        rewards = self.rewards(model, rows).view(-1, 2)
        if model.training:
            count = torch.tensor([len(rewards)], device=rewards.device)
            self._sums = self._sums.to(rewards.device) + torch.cat([metrics_of(rewards), count])
        loss = preference_loss(rewards)
        return (loss, rewards) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: Batch, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, rewards = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        return None, rewards.float(), torch.zeros(len(rewards), device=rewards.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            sums = self.accelerator.reduce(self._sums.to(self.args.device), "sum").tolist()
            if sums[-1]:
                means = [value / sums[-1] for value in sums[:-1]]
                logs |= dict(zip(METRICS, means, strict=True))
            self._sums = torch.zeros_like(self._sums)
        super().log(logs, start_time)


class ArmTrainer(PairTrainer):
    """Trains an autoregressive reward model: ``r = beta * log π_r(y|x)`` (GenARM)."""

    def rewards(self, model: Any, rows: Batch) -> Tensor:
        return self.beta * self.log_probs(model, rows)


class DpoTrainer(PairTrainer):
    """``r = beta * (log π(y|x) - log π_ref(y|x))``; the reference is the model as it began.

    An adapter's reference is the model without it; a full model's is a frozen copy.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._frozen: Any = None
        if not hasattr(self.model, "disable_adapter"):
            frozen = copy.deepcopy(self.model).requires_grad_(False).eval()
            self._frozen = self.accelerator.prepare_model(frozen, evaluation_mode=True)

    def rewards(self, model: Any, rows: Batch) -> Tensor:
        with torch.no_grad(), self._as_it_began(model) as reference:
            before = self.log_probs(reference, rows)
        return self.beta * (self.log_probs(model, rows) - before)

    @contextlib.contextmanager
    def _as_it_began(self, model: Any) -> Iterator[Any]:
        if self._frozen is not None:
            yield self._frozen
            return
        training = model.training
        model.eval()  # no dropout in the reference
        try:
            with self.accelerator.unwrap_model(model).disable_adapter():
                yield model
        finally:
            model.train(training)


class RewardTrainer(PairTrainer):
    """Trains a scalar reward model: its head's output at the last token that is not padding.

    The reward is taken where the attention mask ends, as in decoding: a model's own forward would
    take an earlier position where a real token is the padding token.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        model = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        self._scores: Tensor | None = None
        self._by_token = not full_text_reason("the model", model.config, model)
        if self._by_token:
            getattr(model, Head(model).name).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, scores: Tensor) -> None:
        self._scores = scores

    def rewards(self, model: Any, rows: Batch) -> Tensor:
        mask = rows["attention_mask"]
        logits: Tensor = model(input_ids=rows["input_ids"], attention_mask=mask).logits
        if not self._by_token:
            return logits.squeeze(-1).float()
        assert self._scores is not None
        scores, self._scores = self._scores, None
        return last_scores(scores, mask)


TRAINERS = {"arm": ArmTrainer, "dpo": DpoTrainer, "reward": RewardTrainer}
