"""Checkpoints to lanes that can step. This package knows nothing of formulas.

Importing it imports neither torch nor transformers: what needs them comes when it is first asked
for, so that a run file is read, and a server's clients are answered, without them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import ModelError
from .prompts import Prompt, is_ids, is_messages, is_one, render, render_text
from .spec import ModelSpec, explain, make_spec
from .spelling import spelling

if TYPE_CHECKING:
    from .adapters import adapter_folder
    from .aligned import Counterparts, Side, counterparts, one_vocabulary
    from .card import REWARD, SCORES, Card, describe
    from .elsewhere import ElsewhereLane
    from .fakes import RuleReward, TableModel
    from .labels import choose_label
    from .lane import CHUNK, TransformersLane
    from .load import load_model
    from .probe import tried
    from .protocols import Lane, LanguageLane, RewardLane
    from .shared import Party, SharedLane
    from .text_reward import CachedTextLane, TextRewardLane
    from .values import has_values, valued
    from .vocabulary import common_vocabulary

__all__ = [
    "CHUNK",
    "REWARD",
    "SCORES",
    "CachedTextLane",
    "Card",
    "Counterparts",
    "ElsewhereLane",
    "Lane",
    "LanguageLane",
    "ModelError",
    "ModelSpec",
    "Party",
    "Prompt",
    "RewardLane",
    "RuleReward",
    "SharedLane",
    "Side",
    "TableModel",
    "TextRewardLane",
    "TransformersLane",
    "adapter_folder",
    "choose_label",
    "common_vocabulary",
    "counterparts",
    "describe",
    "explain",
    "has_values",
    "is_ids",
    "is_messages",
    "is_one",
    "load_model",
    "make_spec",
    "one_vocabulary",
    "render",
    "render_text",
    "spelling",
    "tried",
    "valued",
]
_LATER = {
    "adapter_folder": ".adapters",
    "Counterparts": ".aligned",
    "Side": ".aligned",
    "counterparts": ".aligned",
    "one_vocabulary": ".aligned",
    "REWARD": ".card",
    "SCORES": ".card",
    "Card": ".card",
    "describe": ".card",
    "ElsewhereLane": ".elsewhere",
    "RuleReward": ".fakes",
    "TableModel": ".fakes",
    "choose_label": ".labels",
    "CHUNK": ".lane",
    "TransformersLane": ".lane",
    "load_model": ".load",
    "tried": ".probe",
    "Lane": ".protocols",
    "LanguageLane": ".protocols",
    "RewardLane": ".protocols",
    "Party": ".shared",
    "SharedLane": ".shared",
    "CachedTextLane": ".text_reward",
    "TextRewardLane": ".text_reward",
    "has_values": ".values",
    "valued": ".values",
    "common_vocabulary": ".vocabulary",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LATER[name], __name__), name)
    globals()[name] = value
    return value
