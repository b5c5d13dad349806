"""Checkpoints to lanes that can step. This package knows nothing of formulas.

Importing it imports neither torch nor transformers: what needs them comes when it is first asked
for, so that a run file is read, and a server's clients are answered, without them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .checkpoint.spec import ModelSpec, make_spec
from .errors import ModelError
from .text.prompts import Prompt, is_ids, is_messages, is_one, render, render_text
from .text.token_bytes import token_bytes

if TYPE_CHECKING:
    from .checkpoint.description import REWARD, SCORES, Description, describe
    from .checkpoint.labels import choose_label
    from .lanes.lora import adapter_folder
    from .lanes.protocols import Lane, LanguageLane, RewardLane
    from .lanes.remote import RemoteLane
    from .lanes.shared import LaneView, SharedLane
    from .lanes.text_reward import CachedTextLane, TextRewardLane
    from .lanes.transformers_lane import CHUNK, TransformersLane
    from .loading.load import load_model
    from .loading.self_check import tried
    from .loading.value_head import has_values, valued
    from .tables import RuleReward, TableModel
    from .text.token_map import Side, TokenMap, one_vocabulary, token_map
    from .text.vocabulary import common_vocabulary

__all__ = [
    "CHUNK",
    "REWARD",
    "SCORES",
    "CachedTextLane",
    "Description",
    "Lane",
    "LaneView",
    "LanguageLane",
    "ModelError",
    "ModelSpec",
    "Prompt",
    "RemoteLane",
    "RewardLane",
    "RuleReward",
    "SharedLane",
    "Side",
    "TableModel",
    "TextRewardLane",
    "TokenMap",
    "TransformersLane",
    "adapter_folder",
    "choose_label",
    "common_vocabulary",
    "describe",
    "has_values",
    "is_ids",
    "is_messages",
    "is_one",
    "load_model",
    "make_spec",
    "one_vocabulary",
    "render",
    "render_text",
    "token_bytes",
    "token_map",
    "tried",
    "valued",
]
_LATER = {
    "adapter_folder": ".lanes.lora",
    "TokenMap": ".text.token_map",
    "Side": ".text.token_map",
    "token_map": ".text.token_map",
    "one_vocabulary": ".text.token_map",
    "REWARD": ".checkpoint.description",
    "SCORES": ".checkpoint.description",
    "Description": ".checkpoint.description",
    "describe": ".checkpoint.description",
    "RemoteLane": ".lanes.remote",
    "RuleReward": ".tables",
    "TableModel": ".tables",
    "choose_label": ".checkpoint.labels",
    "CHUNK": ".lanes.transformers_lane",
    "TransformersLane": ".lanes.transformers_lane",
    "load_model": ".loading.load",
    "tried": ".loading.self_check",
    "Lane": ".lanes.protocols",
    "LanguageLane": ".lanes.protocols",
    "RewardLane": ".lanes.protocols",
    "LaneView": ".lanes.shared",
    "SharedLane": ".lanes.shared",
    "CachedTextLane": ".lanes.text_reward",
    "TextRewardLane": ".lanes.text_reward",
    "has_values": ".loading.value_head",
    "valued": ".loading.value_head",
    "common_vocabulary": ".text.vocabulary",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LATER[name], __name__), name)
    globals()[name] = value
    return value
