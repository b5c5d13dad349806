"""How likely a language model finds answers: the log-probability of every token, in batches.

Plain forwards over whole texts, without a cache; the formula's runtime has no part in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models import SCORES, ModelError, ModelSpec, render
from ..models.adapters import Adapters
from .declared import Declared, declared

FLOATS = 2**26  # of logits in one forward


def language_model(
    name: str, specs: Mapping[str, ModelSpec], dtype: str | None, device: str
) -> Declared:
    """A declared language model; arguments as ``LikelihoodScorer``'s.

    Raises:
        ModelError: it is none, or cannot be read.
    """
    said = declared(name, specs, dtype, device)
    if said.card.kind != SCORES or said.card.config is None:
        raise ModelError(f"{name} is no language model, and likelihood is what one says", "", name)
    return said


class LikelihoodScorer:
    """One language model over prompts and answers.

    Args:
        name: as declared.
        specs: every declared model.
        dtype: where the spec names none.
        device: where the spec names none.
        loaded: weights in memory, by ``Card.weights``; what is read is put there.
    """

    def __init__(
        self,
        name: str,
        specs: Mapping[str, ModelSpec],
        dtype: str | None,
        device: str,
        loaded: dict[tuple[Any, ...], Any],
    ) -> None:
        said = language_model(name, specs, dtype, device)
        self._model = said.weights(loaded)
        self.name, self._spec, self.tokenizer = name, said.reads, said.card.tokenizer
        self._device = self._model.get_input_embeddings().weight.device
        self._adapters = Adapters(self._model)
        self._adapter = said.adapter(self._adapters)

    def scores(self, prompts: Sequence[Any], answers: Sequence[Sequence[int]]) -> list[float]:
        """``log p(answer | prompt)`` of each, summed over its tokens, in natural logarithms."""
        before = [render(self.name, self._spec, self.tokenizer, prompt) for prompt in prompts]
        found = [0.0] * len(before)
        for some in self._together([len(b) + len(a) for b, a in zip(before, answers, strict=True)]):
            sums = self._forward([before[i] for i in some], [answers[i] for i in some])
            for i, value in zip(some, sums, strict=True):
                found[i] = value
        return found

    def close(self) -> None:
        """Leave the model in memory as it was found."""
        self._adapters.close()

    @torch.no_grad()
    def _forward(
        self, before: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[float]:
        rows = [[*b, *a] for b, a in zip(before, answers, strict=True)]
        longest = max(map(len, rows))
        padded = [[*row, *[0] * (longest - len(row))] for row in rows]  # masked, and read nowhere
        ids = torch.tensor(padded, device=self._device)
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        mask = torch.arange(longest, device=self._device) < lengths[:, None]
        numbers = torch.tensor([self._adapter] * len(rows), device=self._device)
        with self._adapters.chosen(numbers if self._adapter else None):
            logits: Tensor = self._model(input_ids=ids, attention_mask=mask.long()).logits
        said = torch.log_softmax(logits[:, :-1].float(), dim=-1)
        said = said.gather(-1, ids[:, 1:, None])[..., 0].double().cpu()
        return [
            float(said[i, len(b) - 1 : len(row) - 1].sum())
            for i, (b, row) in enumerate(zip(before, rows, strict=True))
        ]

    def _together(self, lengths: Sequence[int]) -> list[list[int]]:
        """The texts of each forward, of like lengths, so that their logits have room."""
        width = int(self._model.get_output_embeddings().weight.shape[0])
        batches: list[list[int]] = []
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            some = batches[-1] if batches else []
            if some and (len(some) + 1) * lengths[some[0]] * width <= FLOATS:
                some.append(i)
            else:
                batches.append([i])
        return batches
