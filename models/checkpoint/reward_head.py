"""Heads: how a reward comes from what a reward model has read.

A causal model's head is applied to the hidden states of its backbone, wherever they are wanted:
the model's own forward would look for the last token that is not padding, and score another place
where a real token is the padding token. A model that reads both ways, or brings code of its own,
says what a whole text is worth by its own forward (``whole``).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ModelError

CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
MULTI_LABEL, REGRESSION = "multi_label_classification", "regression"
ENCODER, OWN_CODE, BY_SLOT = "reads both ways", "runs its own code", "counts places by itself"


class Head:
    """What is on top of a causal reward model's backbone: one module, whatever it is called.

    Args:
        model: a classifier of transformers, or ``values.Valued``.

    Raises:
        ModelError: there is no such module, or several.
    """

    def __init__(self, model: nn.Module) -> None:
        self._config = model.config
        skipped = (nn.Dropout, nn.Identity)
        found = {
            name: module
            for name, module in model.named_children()
            if module is not model.base_model and not isinstance(module, skipped)
        }
        if len(found) != 1 or model.base_model is model:
            raise ModelError(
                f"{type(model).__name__} has {', '.join(found) or 'nothing'} on its backbone, and "
                "a reward is read from one module",
                "say read: text, or use a model with one head",
            )
        [(self.name, self._module)] = found.items()
        self._dtype = next((p.dtype for p in self._module.parameters()), None)

    def __call__(self, hidden: Tensor) -> Tensor:
        """``(…, size)`` hidden states to ``(…, labels)`` rewards, in float32."""
        if self._dtype is not None and self._dtype.is_floating_point:
            hidden = hidden.to(self._dtype)
        return rewards_of(self._module(hidden), self._config)


def rewards_of(outputs: Tensor, config: Any) -> Tensor:
    """A classifier's outputs, ``(…, labels)``, as rewards in float32.

    Independent labels (``problem_type`` says multi-label) are log-sigmoids; one output, and those
    of a regression, are values as they are; several classes of which one holds, log-softmaxes.
    """
    outputs = outputs.float()
    problem = getattr(config, "problem_type", None)
    if problem == MULTI_LABEL:
        return functional.logsigmoid(outputs)
    if problem == REGRESSION or outputs.shape[-1] == 1:
        return outputs
    return torch.log_softmax(outputs, dim=-1)


def is_reward(config: Any, model: Any) -> bool:
    """Whether a configuration, or a model in memory, is that of a classifier."""
    if any(name.endswith(CLASSIFIERS) for name in class_names(config, model)):
        return True
    return model is None and own_code(config) is not None


def class_names(config: Any, model: Any) -> list[str]:
    """The class of a model in memory and those it is made of, or what the configuration names."""
    if model is not None:
        return [kind.__name__ for kind in type(model).__mro__]
    return list(getattr(config, "architectures", None) or ())


def own_code(config: Any) -> tuple[str, str] | None:
    """The automatic class of a reward model with code of its own, and that code; None for none."""
    named = class_names(config, None)[:1]
    code: dict[str, str] = getattr(config, "auto_map", None) or {}
    if not named or not code or hasattr(transformers, named[0]):
        return None
    rewards = [f"AutoModel{kind}" for kind in CLASSIFIERS]
    rewards += ["AutoModel", "AutoModelForCausalLM"] if "Reward" in named[0] else []
    return next(((auto, code[auto]) for auto in rewards if auto in code), None)


def auto_class(config: Any) -> Any:
    """The automatic class that loads a reward model."""
    found = own_code(config)
    if found is not None:
        return getattr(transformers, found[0])
    tokens = any(name.endswith(CLASSIFIERS[1]) for name in class_names(config, None))
    return getattr(transformers, f"AutoModel{CLASSIFIERS[1 if tokens else 0]}")


def whole(name: str, config: Any, model: Any) -> str:
    """Why a reward model reads every text as a whole; "" where it goes on from what it has read.

    Raises:
        ModelError: an encoder that marks tokens, so that no place says what the text is worth.
    """
    if model is None and own_code(config) is not None:
        return OWN_CODE
    kinds = [getattr(transformers, item, None) for item in class_names(config, model)]
    known = next((kind for kind in kinds if kind and kind.__name__.endswith(CLASSIFIERS)), None)
    if known is None:
        return OWN_CODE
    if "past_key_values" not in inspect.signature(known.forward).parameters:
        if known.__name__.endswith(CLASSIFIERS[1]):
            raise ModelError(
                f"{name} is a {known.__name__}, which reads both ways and marks every token, so "
                "that no one of them says what the text is worth",
                "use a ForSequenceClassification",
                name,
            )
        return ENCODER
    backbone = transformers.AutoModel._model_mapping.get(type(config), None)
    backbone = backbone[0] if isinstance(backbone, (tuple, list)) else backbone
    takes = inspect.signature(backbone.forward).parameters if backbone is not None else ()
    by_slot = backbone is not None and "position_ids" not in takes
    return BY_SLOT if by_slot or getattr(config.get_text_config(), "alibi", False) else ""
