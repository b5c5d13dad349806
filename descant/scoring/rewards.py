"""Rewards of whole texts, in batches: what a reward model says of prompts and their answers.

A text is rendered and encoded as the runtime does for a reward that reads text (docs/rewards.md),
by the model's own tokenizer, whatever the formula's was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..api import where
from ..models import ModelError, ModelSpec, make_spec, render_text
from ..models.checkpoint.description import REWARD
from ..models.checkpoint.labels import choose_label
from ..models.checkpoint.reward_head import OWN_POSITIONS
from ..models.lanes.batch_classifier import BatchClassifier, max_tokens
from ..models.loading.value_head import has_value_head, with_value_head
from ..models.tables import RuleReward
from ..models.text.full_text import encode_texts, with_response
from .declared import Declared, declared


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
    """What a reward model says of each text as the answer to its prompt.

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
    word, place = where(dtype, device)
    return RewardScorer(name, specs, word, place, {}, tokenizer).scores(prompts, texts)


def reward_model(
    name: str, specs: Mapping[str, ModelSpec], dtype: str | None, device: str
) -> Declared:
    """A declared reward model of texts; arguments as ``RewardScorer``'s.

    Raises:
        ModelError: it is none, or cannot be read.
    """
    said = declared(name, specs, dtype, device)
    description = said.description
    if isinstance(said.spec.model, RuleReward):
        raise ModelError(f"{name} is a rule over token ids, and no model of texts", "", name)
    if description.kind != REWARD and description.config is not None and has_value_head(said.spec):
        description = replace(description, kind=REWARD, value_head=True)
    if description.kind != REWARD:
        problem = f"{name} is a language model, and scores are what reward models say"
        raise ModelError(problem, f"{{perplexity: {name}}} or {{kl: {name}}}", name)
    if description.tokenizer is None:
        raise ModelError(f"{name} has no tokenizer", "give tokenizer: … with it", name)
    return replace(said, description=description)


class RewardScorer:
    """One reward model over whole texts.

    Args:
        name: as declared.
        specs: every declared model.
        dtype: where the spec names none.
        device: where the spec names none.
        loaded: weights in memory, by ``Description.weights``; what is read is put there.
        shared: the tokenizer that decodes prompts of token ids, or None.
        longest: tokens of a text, where it is less than what the model reads.
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
        said = reward_model(name, specs, dtype, device)
        description, model = said.description, said.weights(loaded)
        if description.value_head:
            model = with_value_head(description.name, model, said.spec, False)
        self.name, self._spec = name, said.reads
        label = said.own.label if said.own.label is not None else said.spec.label
        self._label = choose_label(description, label)
        self._whole = BatchClassifier(
            name, model, description.tokenizer, description.full_text_reason or OWN_POSITIONS
        )
        most = [max_tokens(model, description.positions), longest]
        self._positions = min((one for one in most if one), default=None)
        self._tokenizer, self._shared = description.tokenizer, shared or description.tokenizer
        self._adapter = said.adapter(self._whole.adapters)

    def scores(self, prompts: Sequence[Any], texts: Sequence[str]) -> list[float]:
        """One reward per prompt and text.

        Raises:
            ModelError: a text is longer than the model reads.
        """
        if not texts:
            return []
        render = partial(render_text, self.name, self._spec, self._shared, self._tokenizer)
        full = [
            with_response(render(prompt, None), text)
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        codes = encode_texts(self.name, self._tokenizer, full, self._positions)
        outputs = self._whole.outputs(codes, [self._adapter] * len(codes))
        return [float(one) for one in outputs[:, self._label or 0]]

    def close(self) -> None:
        """Leave the model in memory as it was found."""
        self._whole.adapters.close()
