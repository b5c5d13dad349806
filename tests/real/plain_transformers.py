"""transformers alone, a text at a time: what the real models must say."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from descant.models.checkpoint.spec import ModelSpec
from descant.models.loading.unpack import weights_source


class PlainModel:
    """A model in float32, and its tokenizer, from the folder that a GGUF file is unpacked into."""

    def __init__(self, path: str) -> None:
        self.folder = weights_source("plain", ModelSpec(path=path), torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self._answers: dict[tuple[tuple[int, ...], int], list[int]] = {}

    @cached_property
    def model(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype="float32").eval()

    def ids(self, prompt: str | Sequence[dict[str, str]]) -> list[int]:
        """What the model reads of a text, or of a chat."""
        if isinstance(prompt, str):
            return list(self.tokenizer(prompt)["input_ids"])
        text = self.tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=True
        )
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def generate(self, prompt: str | Sequence[dict[str, str]], tokens: int) -> list[int]:
        """The best tokens, one after the other, by ``model.generate``."""
        ids = self.ids(prompt)
        key = tuple(ids), tokens
        if key not in self._answers:
            read = torch.tensor([ids])
            written = self.model.generate(
                read,
                attention_mask=torch.ones_like(read),
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
            self._answers[key] = written[0, len(ids) :].tolist()
        return self._answers[key]

    @torch.no_grad()
    def along(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Tensor:
        """``(len(answer_ids) + 1, V)`` log-probabilities after each token, in one forward."""
        read = torch.tensor([[*prompt_ids, *answer_ids]])
        keep = len(answer_ids) + 1
        logits = self.model(input_ids=read, logits_to_keep=keep, use_cache=False).logits[0]
        return torch.log_softmax(logits.double(), dim=-1)


def assert_best(scores: Tensor, answer_ids: Sequence[int], tie: float = 1e-4) -> None:
    """Each token of an answer is the best where it stands, or as good as the best.

    Args:
        scores: ``(len(answer_ids) or more, V)``, before each token.
        tie: what float32 may differ by.
    """
    for place, (row, token) in enumerate(zip(scores, answer_ids, strict=False)):
        lost = float(row.max() - row[token])
        assert lost <= tie, f"token {place}, {token}, is {lost} below {int(row.argmax())}"
