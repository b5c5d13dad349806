"""Reward heads: from a reward model's hidden states to rewards.

A causal model's head is applied to its backbone's hidden states at any position: the model's own
forward scores the last token that is not padding, and is wrong where a text contains the padding
token. A bidirectional model, or one with code of its own, scores a whole text by its own forward
(``full_text_reason``).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ModelError
from ..eval_mode import evaluating

CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
MULTI_LABEL, REGRESSION = "multi_label_classification", "regression"
ENCODER, OWN_CODE = "reads both ways", "runs its own code"
OWN_POSITIONS = "computes positions by itself"


class Head:
    """What is on the backbone of a classifier of transformers, or of a ``ValueHeadModel``.

    Raises:
        ModelError: there is no such module, or several.
    """

    def __init__(self, model: nn.Module) -> None:
        self._config = model.config
        skipped = (nn.Dropout, nn.Identity)
        heads = {
            name: module
            for name, module in model.named_children()
            if module is not model.base_model and not isinstance(module, skipped)
        }
        if len(heads) != 1 or model.base_model is model:
            problem = f"{type(model).__name__} has {', '.join(heads) or 'nothing'} on its backbone"
            cure = "say read: text, or use a model with one head"
            raise ModelError(f"{problem}, and a reward is read from one module", cure)
        [(self.name, self._module)] = heads.items()
        self._dtype = next((p.dtype for p in self._module.parameters()), None)

    def __call__(self, hidden: Tensor) -> Tensor:
        """``(…, size)`` hidden states to ``(…, labels)`` rewards, in float32."""
        if self._dtype is not None and self._dtype.is_floating_point:
            hidden = hidden.to(self._dtype)
        with evaluating(self._module.modules()):
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
    """The classes of a model in memory, or those that the configuration names."""
    if model is not None:
        return [kind.__name__ for kind in type(model).__mro__]
    return list(getattr(config, "architectures", None) or ())


def own_code(config: Any) -> tuple[str, str] | None:
    """The auto class of a reward model with code of its own, and that code; None for others."""
    names = class_names(config, None)
    code: dict[str, str] = getattr(config, "auto_map", None) or {}
    if not names or not code or hasattr(transformers, names[0]):
        return None
    classes = [f"AutoModel{kind}" for kind in CLASSIFIERS]
    classes += ["AutoModel", "AutoModelForCausalLM"] if "Reward" in names[0] else []
    return next(((auto, code[auto]) for auto in classes if auto in code), None)


def auto_class(config: Any) -> Any:
    """The auto class that loads a reward model."""
    custom = own_code(config)
    if custom is not None:
        return getattr(transformers, custom[0])
    tokens = any(name.endswith(CLASSIFIERS[1]) for name in class_names(config, None))
    return getattr(transformers, f"AutoModel{CLASSIFIERS[1 if tokens else 0]}")


def mapped_class(auto: Any, config: Any) -> Any:
    """The class that an auto class makes of a configuration; None where it has none."""
    classes = auto._model_mapping.get(type(config), None)
    if not isinstance(classes, (tuple, list)):
        return classes
    named = class_names(config, None)
    return next((cls for cls in classes if cls.__name__ in named), classes[0])


def full_text_reason(name: str, config: Any, model: Any) -> str:
    """Why a reward model must read every text in full; "" where it can continue from its cache.

    Raises:
        ModelError: an encoder that scores tokens, so that none is the score of the text.
    """
    if model is None and own_code(config) is not None:
        return OWN_CODE
    classes = [getattr(transformers, item, None) for item in class_names(config, model)]
    cls = next((item for item in classes if item and item.__name__.endswith(CLASSIFIERS)), None)
    if cls is None:
        return OWN_CODE
    if "past_key_values" not in inspect.signature(cls.forward).parameters:
        if cls.__name__.endswith(CLASSIFIERS[1]):
            problem = f"{name} is a {cls.__name__}, which reads both ways and marks every token"
            problem += ", so that no one of them says what the text is worth"
            raise ModelError(problem, "use a ForSequenceClassification", name)
        return ENCODER
    if getattr(config.get_text_config(), "alibi", False):
        return OWN_POSITIONS
    backbone = mapped_class(transformers.AutoModel, config)
    if backbone is None or "position_ids" in inspect.signature(backbone.forward).parameters:
        return ""
    return OWN_POSITIONS
