"""Declared models that score whole texts.

A checkpoint's configuration and tokenizer are read at once, its weights when they are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..models import ModelError, ModelSpec, ResolvedModel, resolve
from ..models.checkpoint.adapter import adapter_folder
from ..models.checkpoint.description import REWARD, SCORES, Description, describe
from ..models.lanes.lora import Adapters
from ..models.loading.load import load_model
from ..models.loading.value_head import as_reward
from ..models.tables import RuleReward


@dataclass(frozen=True)
class DescribedModel:
    """A declared model and its checkpoint's description.

    Attributes:
        model: whose weights, and how it reads.
        description: of its checkpoint.
        dtype: of weights whose spec names none.
        device: of weights whose spec names none.
    """

    model: ResolvedModel
    description: Description
    dtype: str | None
    device: str

    def weights(self, loaded: dict[tuple[Any, ...], Any]) -> Any:
        """The model, from ``loaded`` (by ``Description.weights``) or read into it."""
        key = self.description.weights
        if key not in loaded:
            loaded[key] = load_model(self.description, self.model.spec, self.dtype, self.device)
        return loaded[key]

    def adapter(self, adapters: Adapters) -> int:
        """The number of its adapter on the model; 0 for a model with weights of its own."""
        spec = self.model.adapter
        if spec is None:
            return 0
        return adapters.add(self.model.name, adapter_folder(spec.adapter, spec.revision))


def described(
    name: str, specs: Mapping[str, ModelSpec], dtype: str | None, device: str
) -> DescribedModel:
    """A declared model by its name.

    Args:
        name: as declared.
        specs: every declared model.
        dtype: where the spec names none.
        device: where the spec names none.

    Raises:
        ModelError: an adapter without its base, split layers, or a checkpoint that cannot be read.
    """
    model = resolve(name, specs)
    if model.spec.tp_plan is not None:
        problem = f"the layers of {model.base} are split over processes, and each scores by itself"
        raise ModelError(problem, "declare the model again without tp_plan", name)
    return DescribedModel(model, describe(model.base, model.spec, dtype, device), dtype, device)


def language_model(
    name: str, specs: Mapping[str, ModelSpec], dtype: str | None, device: str
) -> DescribedModel:
    """A declared language model; arguments and errors as ``described``'s.

    Raises:
        ModelError: it is another kind of model.
    """
    language = described(name, specs, dtype, device)
    if language.description.kind != SCORES:
        problem = f"{name} is no language model, and a likelihood is a language model's"
        raise ModelError(problem, "", name)
    return language


def reward_model(
    name: str, specs: Mapping[str, ModelSpec], dtype: str | None, device: str
) -> DescribedModel:
    """A declared reward model of texts; arguments and errors as ``described``'s.

    Raises:
        ModelError: it is another kind of model, or has no tokenizer.
    """
    reward = described(name, specs, dtype, device)
    if isinstance(reward.model.spec.model, RuleReward):
        raise ModelError(f"{name} is a rule over token ids, and no model of texts", "", name)
    description = as_reward(reward.description, reward.model.spec)
    if description.kind != REWARD:
        problem = f"{name} is a language model, and a reward is a reward model's"
        raise ModelError(problem, f"{{perplexity: {name}}} or {{kl: {name}}}", name)
    if description.tokenizer is None:
        raise ModelError(f"{name} has no tokenizer", "give tokenizer: … with it", name)
    return replace(reward, description=description)


def is_reward_model(
    name: str, specs: Mapping[str, ModelSpec], dtype: str | None, device: str
) -> bool:
    """Whether a declared model can score texts; arguments as ``described``'s. Reads no weights."""
    try:
        model = resolve(name, specs)
    except ModelError:  # an adapter without its base, which a formula that uses it reports
        return False
    if isinstance(model.spec.model, RuleReward):
        return False
    description = describe(model.base, model.spec, dtype, device)
    return as_reward(description, model.spec).kind == REWARD
