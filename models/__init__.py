"""Checkpoints to lanes that can step. This package knows nothing of formulas.

Importing it imports torch and, for its cache contract, transformers.
"""

from .adapters import adapter_folder
from .aligned import Counterparts, Side, counterparts, one_vocabulary
from .card import REWARD, SCORES, Card, describe
from .elsewhere import ElsewhereLane
from .errors import ModelError
from .fakes import RuleReward, TableModel
from .labels import choose_label
from .lane import CHUNK, TransformersLane
from .load import load_model
from .probe import tried
from .prompts import Prompt, is_ids, is_messages, is_one, render, render_text
from .protocols import Lane, LanguageLane, RewardLane
from .shared import Party, SharedLane
from .spec import ModelSpec, explain, make_spec
from .spelling import spelling
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
