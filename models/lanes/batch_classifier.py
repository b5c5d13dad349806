"""Whole texts through a classifier, in batches of bounded size: nothing is cached."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..cache.rope import length_limits
from ..checkpoint.reward_head import OWN_CODE, OWN_POSITIONS, Head, rewards_of
from ..combinations import Combination, chosen
from ..errors import ModelError
from ..eval_mode import evaluating
from ..text.full_text import Encoding
from .adapters import Adapters

TOKENS = 8192  # in one forward, with its padding


class BatchClassifier:
    """A classifier of whole texts, with its own tokenizer.

    ``reason`` is why it reads whole texts, of ``reward_head.full_text_reason``.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, reason: str) -> None:
        self.name, self.model, self._tokenizer = name, model, tokenizer
        self.adapters = Adapters(model, knows_answers=False)
        self._head = Head(model) if reason == OWN_POSITIONS else None
        self._own_code = reason == OWN_CODE
        self._limits = length_limits(model.config)
        self.device: torch.device = model.get_input_embeddings().weight.device

    @torch.no_grad()
    def outputs(self, texts: Sequence[Encoding], combinations: Sequence[Combination]) -> Tensor:
        """``(texts, labels)`` float32 rewards, in the order of the texts."""
        rewards: list[Tensor] = [torch.empty(0)] * len(texts)
        for group in self._groups([len(text["input_ids"]) for text in texts]):
            inputs = self._padded([texts[i] for i in group])
            rows = chosen([combinations[i] for i in group], self.device)
            with evaluating(self.model.modules()), self.adapters.chosen(rows):
                outputs = self._forward(inputs)
            for i, reward in zip(group, outputs, strict=True):
                rewards[i] = reward
        return torch.stack(rewards)

    def _forward(self, inputs: dict[str, Tensor]) -> Tensor:
        if self._head is not None:
            last = inputs["attention_mask"].sum(dim=-1) - 1
            hidden = self.model.base_model(**inputs).last_hidden_state
            return self._head(hidden[torch.arange(len(last), device=last.device), last])
        out = self.model(**inputs)
        if not self._own_code:
            return rewards_of(out.logits, self.model.config)
        score: Tensor | None = getattr(out, "score", None)
        score = out.logits if score is None else score
        score = score.float().reshape(len(inputs["input_ids"]), -1)
        if (count := score.shape[1]) != 1:
            problem = f"{self.name} gives {count} numbers for a text by its own code"
            raise ModelError(f"{problem}, and a reward is one", "", self.name)
        return score

    @property
    def _padding(self) -> int | None:
        """The id to pad with; None where texts run one by one.

        A model's own code may look for the last token in its own way, and gets no padding.
        """
        if self._own_code:
            return None
        if self._head is not None:
            return 0  # masked
        config = self.model.config.get_text_config()
        padding: int | None = getattr(config, "pad_token_id", None)
        return self._tokenizer.pad_token_id if padding is None else padding

    def _groups(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """The texts of each forward: of similar lengths, and at most ``TOKENS`` in all."""
        group: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            full = group and (len(group) + 1) * lengths[group[0]] > TOKENS
            full = full or (group and self._kind(lengths[i]) != self._kind(lengths[group[0]]))
            if full or (group and self._padding is None):
                yield group
                group = []
            group.append(i)
        if group:
            yield group

    def _kind(self, length: int) -> int:
        """A number that texts share if they may be in one forward: of their rotary frequencies."""
        return bisect_left(self._limits, length)

    def _padded(self, texts: Sequence[Encoding]) -> dict[str, Tensor]:
        """The model's inputs, padded to one length."""
        longest = max(len(text["input_ids"]) for text in texts)
        fill = {"input_ids": self._padding or 0, "attention_mask": 0}
        left = self._head is None and self._tokenizer.padding_side == "left"
        rows: dict[str, list[list[int]]] = {key: [] for key in texts[0]}
        for text in texts:
            for key, values in text.items():
                padding = [fill.get(key, 0)] * (longest - len(values))
                rows[key].append(padding + values if left else values + padding)
        return {key: torch.tensor(values, device=self.device) for key, values in rows.items()}


def max_tokens(model: nn.Module, positions: int | None) -> int | None:
    """The longest text that a model reads: RoBERTa's positions begin after its padding index."""
    for name, module in model.named_modules():
        table = isinstance(module, nn.Embedding) and name.endswith("position_embeddings")
        if table and module.padding_idx is not None:
            return int(module.num_embeddings - module.padding_idx - 1)
    return positions if positions and positions > 0 else None
