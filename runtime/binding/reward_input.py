"""What a reward model reads: the formula's token ids, the decoded text, or what a function takes.

A reward that reads tokens shares the formula's. The others read the decoded text, encoded by their
own tokenizer; what their cache holds of it is kept where the model allows it.
"""

from __future__ import annotations

from typing import Any

import torch

from ...formula.words.stages import Stage
from ...models import ModelError, ResolvedModel
from ...models.cache.layers.states import has_states
from ...models.checkpoint.description import Description
from ...models.functions import FunctionReward
from ...models.rewards.answer_lane import AnswerLane
from ...models.rewards.function_lane import FunctionLane
from ...models.rewards.text_lane import CachedTextLane, TextRewardLane


def why_text(model: ResolvedModel, description: Description, shared: Any) -> str:
    """Why a reward model reads text and not the formula's token ids; "" where it reads ids.

    ``shared`` is the tokenizer of the formula's tokens, or None.

    Raises:
        ModelError: it has to, and there is nothing to decode or to encode with.
    """
    name, read, reason = model.name, model.spec.read, description.full_text_reason
    if isinstance(model.spec.model, FunctionReward):
        if shared is None:
            problem = f"{name} is a function of texts, and the formula's models have no tokenizer"
            raise ModelError(problem, "give tokenizer: … with the models", name, "tokenizers")
        return "as a function does"
    if model.spec.steps is not None:
        if description.config is None:
            raise ModelError(f"{name} has steps, which are of text, and it reads tokens", "", name)
        read, reason = "text", reason or "it scores steps"
    if read == "tokens" and reason:
        problem = f"{name} reads whole texts, for it {reason}, and not tokens"
        raise ModelError(problem, "leave read: tokens out", name)
    if description.tokenizer is None or shared is None:
        if read == "text" or reason:
            why = f", for it {reason}" if reason else ""
            problem = f"{name} reads text{why}, which needs tokenizers"
            raise ModelError(problem, "give tokenizer: … with the models", name, "tokenizers")
        return ""
    if read == "text":
        return "as declared"
    if reason:
        return f"for it {reason}"
    differs = description.tokenizer.get_vocab() != shared.get_vocab()
    return "for its tokenizer is another" if differs and read != "tokens" else ""


def text_lane(
    model: ResolvedModel,
    weights: Any,
    description: Description,
    shared: Any,
    device: str,
    stage: Stage | None,
) -> AnswerLane:
    """The lane of a reward that reads text; ``stage`` is where it stands."""
    if isinstance(weights, FunctionReward):
        asks_texts = getattr(stage, "norm", None) == "prefix"
        return FunctionLane(model.name, weights, shared, torch.device(device), asks_texts)
    in_full = description.full_text_reason or has_states(description.config)
    kind = TextRewardLane if in_full else CachedTextLane
    return kind(weights, description, shared, model.spec.steps)
