"""Reward models at their places: which path each takes to the candidates, and its lane.

The tree path shares the formula's tokens; the others decode them and encode the text anew, with
what is cached kept where the model allows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...formula import Plan
from ...models import ModelError, ModelSpec
from ...models.checkpoint.description import REWARD, SCORES, Description
from ...models.lanes.text_reward import CachedTextLane, TextRewardLane
from ...models.loading.value_head import has_value_head


def why_text(description: Description, spec: ModelSpec, shared: Any) -> str:
    """Why a reward model reads text and not the formula's token ids; "" where it does not.

    Args:
        card: the reward model.
        spec: its declaration.
        shared: the tokenizer of the formula's tokens, or None.

    Raises:
        ModelError: it has to, and there is nothing to decode or to encode with.
    """
    if spec.read == "tokens" and description.full_text_reason:
        reason = description.full_text_reason
        problem = f"{description.name} reads whole texts, for it {reason}, and not tokens"
        raise ModelError(problem, "leave read: tokens out", description.name)
    if description.tokenizer is None or shared is None:
        if spec.read == "text" or description.full_text_reason:
            why = f", for it {description.full_text_reason}" if description.full_text_reason else ""
            problem = f"{description.name} reads text{why}, which needs tokenizers"
            raise ModelError(
                problem, "give tokenizer: … with the models", description.name, "tokenizers"
            )
        return ""
    if spec.read == "text":
        return "as declared"
    if description.full_text_reason:
        return f"for it {description.full_text_reason}"
    differs = description.tokenizer.get_vocab() != shared.get_vocab()
    return "for its tokenizer is another" if differs and spec.read != "tokens" else ""


def text_lane(model: Any, description: Description, shared: Any) -> TextRewardLane:
    """The lane of a reward model that reads text."""
    return (TextRewardLane if description.full_text_reason else CachedTextLane)(
        model, description, shared
    )


def with_values(
    plan: Plan,
    descriptions: dict[str, Description],
    spec_of: Callable[[str], ModelSpec],
) -> dict[str, Description]:
    """The cards, where a language model that stands for a reward is one by its value head."""
    terms = {term.model for term in plan.terms}
    found = dict(descriptions)
    for name in {term.model for term in (*plan.rewards, *plan.search_terms)} - terms:
        if (
            descriptions[name].kind == SCORES
            and descriptions[name].config
            and has_value_head(spec_of(name))
        ):
            found[name] = replace(descriptions[name], kind=REWARD, value_head=True)
    return found
