"""Rewards of whole texts, in batches: a prompt and its answer each.

A text is rendered and encoded as the runtime does for a reward that reads text (docs/rewards.md),
by the model's own tokenizer, whatever the formula's was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ..models import ModelSpec, prompt_of, render_text
from ..models.checkpoint.labels import choose_label, gives_logs
from ..models.checkpoint.reward_head import OWN_POSITIONS
from ..models.combinations import BARE
from ..models.lanes.batch_classifier import BatchClassifier, max_tokens
from ..models.loading.declared import add_declared, load_declared
from ..models.loading.value_head import with_value_head
from ..models.rewards.steps import reduced, step_ends
from ..models.text.chat import RawTextLog, reads_raw_text
from ..models.text.full_text import Encoding, encode_texts, with_response
from .declared import reward_model


class RewardScorer:
    """One reward model over whole texts; ``dtype`` and ``device`` are for a spec that names none.

    Args:
        name: as declared.
        specs: every declared model.
        loaded: weights in memory, by ``Description.weights``; weights that are read are added.
        shared: the tokenizer that decodes prompts of token ids, or None.
        longest: the most tokens of a text, where that is fewer than the model reads.
        raw_text: warns of prompts that the model reads raw.
    """

    def __init__(
        self,
        name: str,
        specs: Mapping[str, ModelSpec],
        dtype: str | None,
        device: str,
        loaded: dict[tuple[Any, ...], Any],
        shared: Any = None,
        longest: int | None = None,
        raw_text: RawTextLog | None = None,
    ) -> None:
        resolved, description = reward_model(name, specs, dtype, device)
        spec, key = resolved.spec, description.weights
        if key not in loaded:
            loaded[key] = load_declared(description, resolved, dtype, device)
        model = loaded[key]
        if description.value_head:
            model = with_value_head(description.name, model, spec, False)
        self.name, self._spec, self._raw_text = name, spec, raw_text or RawTextLog()
        self._label = choose_label(description, spec.label)
        self._classifier = BatchClassifier(
            name, model, description.tokenizer, description.full_text_reason or OWN_POSITIONS
        )
        limits = [max_tokens(model, description.positions), longest]
        self._positions = min((limit for limit in limits if limit), default=None)
        self._size, self._description = description.size, description
        self._tokenizer, self._shared = description.tokenizer, shared or description.tokenizer
        self._added = BARE
        if resolved.addition is not None and not resolved.merged:
            number = add_declared(resolved, self._classifier.adapters)
            self._added = self._classifier.adapters.combination([(number, 1.0)])

    def scores(self, prompts: Sequence[Any], texts: Sequence[str]) -> list[float]:
        """One reward per prompt and text.

        Raises:
            ModelError: a text is longer than the model reads.
        """
        if not texts:
            return []
        encodings, counts = self.encoded(prompts, texts)
        return self.rewards(self.outputs(encodings), counts)

    def encoded(
        self, prompts: Sequence[Any], texts: Sequence[str]
    ) -> tuple[list[Encoding], list[int]]:
        """What the model reads of prompts and texts, and how many of these each text is.

        Raises:
            ModelError: a text is longer than the model reads.
        """
        prompts = [prompt_of(prompt) for prompt in prompts]
        if reads_raw_text(self._spec, self._tokenizer):
            self._raw_text.warn([self.name], prompts)
        render = partial(render_text, self.name, self._spec, self._shared, self._tokenizer)
        steps, full = self._spec.steps, list[str]()
        ends = [[text] if steps is None else step_ends(text, steps) for text in texts]
        for prompt, own in zip(prompts, ends, strict=True):
            rendered = render(prompt, None)
            full += [with_response(rendered, text) for text in own]
        encodings = encode_texts(self.name, self._tokenizer, full, self._positions, self._size)
        return encodings, list(map(len, ends))

    def outputs(self, encodings: Sequence[Encoding]) -> torch.Tensor:
        """``(encodings, labels)`` the outputs of the model's head."""
        return self._classifier.outputs(encodings, [self._added] * len(encodings))

    def rewards(self, outputs: torch.Tensor, counts: Sequence[int]) -> list[float]:
        """One reward per text, each of which has so many rows of the outputs."""
        if (steps := self._spec.steps) is not None:
            logs = gives_logs(self._description, outputs.shape[-1])
            of_texts = torch.split(outputs, list(counts))
            outputs = torch.stack([reduced(own, steps, logs) for own in of_texts])
        return [float(reward) for reward in outputs[:, self._label or 0]]

    def close(self) -> None:
        """Remove what is added from the model in memory."""
        self._classifier.adapters.close()
