"""Whole texts through a classifier, side by side: nothing is cached, and memory is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.reward_head import BY_SLOT, OWN_CODE, Head, rewards_of
from ..errors import ModelError
from .lora import Adapters

TOKENS = 8192  # in one forward, with its padding

Encoding = Mapping[str, list[int]]


class BatchClassifier:
    """A classifier that is given whole texts.

    Args:
        name: as declared.
        model: of transformers, or with code of its own.
        tokenizer: its own.
        why: it reads whole texts, as ``heads.whole`` says.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, why: str) -> None:
        self.name, self.model, self._tokenizer = name, model, tokenizer
        self.adapters = Adapters(model)
        self._head = Head(model) if why == BY_SLOT else None
        self._own_code = why == OWN_CODE
        self.device: torch.device = model.get_input_embeddings().weight.device

    @torch.no_grad()
    def outputs(self, texts: Sequence[Encoding], adapters: Sequence[int]) -> Tensor:
        """``(texts, labels)`` float32 rewards, in the order of the texts."""
        found: list[Tensor] = [torch.empty(0)] * len(texts)
        for some in self._together([len(text["input_ids"]) for text in texts]):
            inputs = self._padded([texts[i] for i in some])
            numbers = [adapters[i] for i in some]
            chosen = torch.tensor(numbers, device=self.device) if any(numbers) else None
            with self.adapters.chosen(chosen):
                rewards = self._forward(inputs)
            for i, reward in zip(some, rewards, strict=True):
                found[i] = reward
        return torch.stack(found)

    def _forward(self, inputs: dict[str, Tensor]) -> Tensor:
        if self._head is not None:
            ends = inputs["attention_mask"].sum(dim=-1) - 1
            out = self.model.base_model(**inputs)
            return self._head(
                out.last_hidden_state[torch.arange(len(ends), device=ends.device), ends]
            )
        out = self.model(**inputs)
        if not self._own_code:
            return rewards_of(out.logits, self.model.config)
        found = getattr(out, "score", None)
        score: Tensor = out.logits if found is None else found
        score = score.float().reshape(len(inputs["input_ids"]), -1)
        if score.shape[1] != 1:
            raise ModelError(
                f"{self.name} gives {score.shape[1]} numbers for a text by its own code, and a "
                "reward is one",
                "",
                self.name,
            )
        return score

    @property
    def _padding(self) -> int | None:
        """The id to pad with; None where every text has to be alone.

        Code of its own may look for the last token in its own way, so that it is never given any.
        """
        if self._own_code:
            return None
        if self._head is not None:
            return 0  # masked, and read nowhere
        config = self.model.config.get_text_config()
        own: int | None = getattr(config, "pad_token_id", None)
        return self._tokenizer.pad_token_id if own is None else own

    def _together(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """The texts of each forward: of like lengths, and not more than there is room for."""
        some: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            full = some and (len(some) + 1) * lengths[some[0]] > TOKENS
            if full or (some and self._padding is None):
                yield some
                some = []
            some.append(i)
        if some:
            yield some

    def _padded(self, texts: Sequence[Encoding]) -> dict[str, Tensor]:
        """What the tokenizer said of each text, to the same length, with a mask."""
        longest = max(len(text["input_ids"]) for text in texts)
        fill = {"input_ids": self._padding or 0, "attention_mask": 0}
        left = self._head is None and self._tokenizer.padding_side == "left"
        rows: dict[str, list[list[int]]] = {key: [] for key in texts[0]}
        for text in texts:
            for key, values in text.items():
                more = [fill.get(key, 0)] * (longest - len(values))
                rows[key].append(more + values if left else values + more)
        return {key: torch.tensor(values, device=self.device) for key, values in rows.items()}


def usable(model: nn.Module, positions: int | None) -> int | None:
    """The longest text that a model reads: RoBERTa's places begin behind that of its padding."""
    for name, module in model.named_modules():
        table = isinstance(module, nn.Embedding) and name.endswith("position_embeddings")
        if table and module.padding_idx is not None:
            return int(module.num_embeddings - module.padding_idx - 1)
    return positions if positions and positions > 0 else None
