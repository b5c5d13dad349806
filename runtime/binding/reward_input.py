"""What a reward model reads: the formula's token ids, or the decoded text.

A reward that reads tokens shares the formula's. The others read the decoded text, encoded by their
own tokenizer; what their cache holds of it is kept where the model allows it.
"""

from __future__ import annotations

from typing import Any

from ...models import ModelError, ResolvedModel
from ...models.checkpoint.description import Description
from ...models.lanes.text_reward import CachedTextLane, TextRewardLane


def why_text(model: ResolvedModel, description: Description, shared: Any) -> str:
    """Why a reward model reads text and not the formula's token ids; "" where it reads ids.

    ``shared`` is the tokenizer of the formula's tokens, or None.

    Raises:
        ModelError: it has to, and there is nothing to decode or to encode with.
    """
    name, read, reason = model.name, model.spec.read, description.full_text_reason
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


def text_lane(model: Any, description: Description, shared: Any) -> TextRewardLane:
    """The lane of a reward model that reads text."""
    kind = TextRewardLane if description.full_text_reason else CachedTextLane
    return kind(model, description, shared)
