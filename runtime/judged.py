"""Reward models at their places: which path each takes to the candidates, and its lane.

The tree path shares the formula's tokens; the others decode them and encode the text anew, with
what is cached kept where the model allows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..formula import Plan
from ..models import (
    REWARD,
    SCORES,
    CachedTextLane,
    Card,
    ModelError,
    ModelSpec,
    TextRewardLane,
    has_values,
)


def why_text(card: Card, spec: ModelSpec, shared: Any) -> str:
    """Why a reward model reads text and not the formula's token ids; "" where it does not.

    Args:
        card: the reward model.
        spec: its declaration.
        shared: the tokenizer of the formula's tokens, or None.

    Raises:
        ModelError: it has to, and there is nothing to decode or to encode with.
    """
    if spec.read == "tokens" and card.whole:
        problem = f"{card.name} reads whole texts, for it {card.whole}, and not tokens"
        raise ModelError(problem, "leave read: tokens out", card.name)
    if card.tokenizer is None or shared is None:
        if spec.read == "text" or card.whole:
            why = f", for it {card.whole}" if card.whole else ""
            problem = f"{card.name} reads text{why}, which needs tokenizers"
            raise ModelError(problem, "give tokenizer: … with the models", card.name, "tokenizers")
        return ""
    if spec.read == "text":
        return "as declared"
    if card.whole:
        return f"for it {card.whole}"
    differs = card.tokenizer.get_vocab() != shared.get_vocab()
    return "for its tokenizer is another" if differs and spec.read != "tokens" else ""


def text_lane(model: Any, card: Card, shared: Any) -> TextRewardLane:
    """The lane of a reward model that reads text."""
    return (TextRewardLane if card.whole else CachedTextLane)(model, card, shared)


def with_values(
    plan: Plan,
    cards: dict[str, Card],
    spec_of: Callable[[str], ModelSpec],
) -> dict[str, Card]:
    """The cards, where a language model that stands for a reward is one by its value head."""
    terms = {term.model for term in plan.terms}
    found = dict(cards)
    for name in {term.model for term in (*plan.rewards, *plan.judges)} - terms:
        if cards[name].kind == SCORES and cards[name].config and has_values(spec_of(name)):
            found[name] = replace(cards[name], kind=REWARD, valued=True)
    return found
