"""Rewards of whole texts, in batches: a prompt and its answer each.

A text is rendered and encoded as the runtime does for a reward that reads text (docs/rewards.md),
by the model's own tokenizer, whatever the formula's was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..api import where
from ..models import ModelError, ModelSpec, choose_label, make_spec, render_text, valued
from ..models.checkpoint.reward_head import BY_SLOT
from ..models.lanes.batch_classifier import BatchClassifier, usable
from ..models.lanes.text_reward import encoded, rendered
from .declared import reward_model


def score(
    model: Any,
    prompts: Sequence[Any],
    texts: Sequence[str],
    *,
    models: Mapping[str, Any] | None = None,
    dtype: Any = None,
    device: Any = None,
    tokenizer: Any = None,
) -> list[float]:
    """The rewards of texts as answers to their prompts.

    Args:
        model: a path or hub id, a spec, a model in memory, or the name of one of ``models``.
        prompts: one per text: text, chat messages or token ids.
        texts: the answers.
        models: declared models by name, for a name and for an adapter's ``on``.
        dtype: where the spec names none.
        device: where the spec names none.
        tokenizer: decodes prompts that are token ids.

    Returns:
        One float per text.

    Raises:
        ModelError: not a reward model, or a text that it cannot read.
    """
    if len(prompts) != len(texts):
        raise ValueError(f"there are {len(prompts)} prompts and {len(texts)} texts")
    specs = {name: make_spec(name, value) for name, value in (models or {}).items()}
    known = isinstance(model, str) and model in specs
    name = str(model) if known else "the reward model"
    specs = specs if known else {**specs, name: make_spec(name, model)}
    dtype, device = where(dtype, device)
    return RewardScorer(name, specs, dtype, device, {}, tokenizer).scores(prompts, texts)


class RewardScorer:
    """One reward model over whole texts.

    Args:
        name: as declared.
        specs: every declared model.
        dtype: where the spec names none.
        device: where the spec names none.
        loaded: weights in memory, by ``Description.weights``; weights that are read are added.
        shared: the tokenizer that decodes prompts of token ids, or None.
        longest: the most tokens of a text, where that is fewer than the model reads.
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
    ) -> None:
        reward = reward_model(name, specs, dtype, device)
        description, spec = reward.description, reward.model.spec
        model = reward.weights(loaded)
        if description.valued:
            model = valued(description.name, model, spec, False)
        self.name, self._spec = name, spec
        self._label = choose_label(description, spec.label)
        self._classifier = BatchClassifier(
            name, model, description.tokenizer, description.whole or BY_SLOT
        )
        limits = [usable(model, description.positions), longest]
        self._positions = min((limit for limit in limits if limit), default=None)
        self._tokenizer, self._shared = description.tokenizer, shared or description.tokenizer
        self._adapter = reward.adapter(self._classifier.adapters)

    def scores(self, prompts: Sequence[Any], texts: Sequence[str]) -> list[float]:
        """One reward per prompt and text.

        Raises:
            ModelError: a text is longer than the model reads.
        """
        if not texts:
            return []
        render = partial(render_text, self.name, self._spec, self._shared, self._tokenizer)
        whole_texts = [
            rendered(render(prompt, None), text)
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        encodings = encoded(self._tokenizer, whole_texts)
        for text, encoding in zip(whole_texts, encodings, strict=True):
            length = len(encoding["input_ids"])
            if length == 0 or (self._positions and length > self._positions):
                what = f"has {length} tokens, and it reads at most {self._positions}"
                problem = f"the text that {self.name} scores {what if length else 'is empty'}"
                cure = "give fewer max_new_tokens, or another reward; nothing is cut silently"
                raise ModelError(f"{problem}: {text[:40]!r}…", cure, self.name)
        outputs = self._classifier.outputs(encodings, [self._adapter] * len(encodings))
        return [float(reward) for reward in outputs[:, self._label or 0]]

    def close(self) -> None:
        """Remove the adapters from the model in memory."""
        self._classifier.adapters.close()
