"""Declared models that score whole texts.

A checkpoint's configuration and tokenizer are read at once, its weights when they are needed.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..models import ModelError, ModelSpec, ResolvedModel, resolve
from ..models.checkpoint.description import REWARD, SCORES, Description
from ..models.loading.declared import describe_declared
from ..models.loading.value_head import as_reward
from ..models.tables import RuleReward
from ..models.text.chat import check_template

DescribedModel = tuple[ResolvedModel, Description]  # whose weights, how it reads, its checkpoint


def described(
    name: str, specs: Mapping[str, ModelSpec], dtype: str | None, device: str
) -> DescribedModel:
    """A declared model by its name; ``dtype`` and ``device`` are for a spec that names none.

    Raises:
        ModelError: an adapter without its base, split layers, a checkpoint that cannot be read, or
            a template that its tokenizer has not.
    """
    model = resolve(name, specs)
    if model.spec.tp_plan is not None:
        problem = f"the layers of {model.base} are split over processes, and each scores by itself"
        raise ModelError(problem, "declare the model again without tp_plan", name)
    description = describe_declared(model, dtype, device)
    check_template(name, model.spec, description.tokenizer)
    return model, description


def language_model(
    name: str, specs: Mapping[str, ModelSpec], dtype: str | None, device: str
) -> DescribedModel:
    """A declared language model; arguments and errors as ``described``'s.

    Raises:
        ModelError: it is another kind of model.
    """
    model, description = described(name, specs, dtype, device)
    if description.kind != SCORES:
        problem = f"{name} is no language model, and a likelihood is a language model's"
        raise ModelError(problem, "", name)
    return model, description


def reward_model(
    name: str, specs: Mapping[str, ModelSpec], dtype: str | None, device: str
) -> DescribedModel:
    """A declared reward model of texts; arguments and errors as ``described``'s.

    Raises:
        ModelError: it is another kind of model, or has no tokenizer.
    """
    model, description = described(name, specs, dtype, device)
    if isinstance(model.spec.model, RuleReward):
        raise ModelError(f"{name} is a rule over token ids, and no model of texts", "", name)
    description = as_reward(description, model.spec)
    if description.kind != REWARD:
        problem = f"{name} is a language model, and a reward is a reward model's"
        raise ModelError(problem, f"{{perplexity: {name}}} or {{kl: {name}}}", name)
    if description.tokenizer is None:
        raise ModelError(f"{name} has no tokenizer", "give tokenizer: … with it", name)
    return model, description


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
    description = describe_declared(model, dtype, device)
    return as_reward(description, model.spec).kind == REWARD
