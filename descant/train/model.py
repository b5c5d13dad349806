"""The model to train: its description, its weights, and the adapter on them.

It neither trains nor saves.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification

from ..extras import require
from ..models import ModelError
from ..models.checkpoint.architectures import language_auto
from ..models.checkpoint.description import SCORES, Description, describe
from ..models.checkpoint.hub import hub_error
from ..models.checkpoint.spec import ModelSpec
from ..models.loading import towers
from ..models.loading.quantized import check_packages, method_of, quantization_config
from ..models.loading.unpack import weights_source
from .trainfile import TrainFile, TrainFileError


def description_of(recipe: TrainFile) -> Description:
    """The checkpoint's description, if it can be trained this way.

    Raises:
        ModelError: it cannot, or cannot be read.
    """
    description = described(recipe.method, recipe.model, recipe.max_length)
    if method := method_of(description.config):
        check_packages("the model", method)
        if recipe.lora is None or recipe.method == "reward":
            problem = f"{recipe.model.path} is quantised, and packed weights do not learn"
            cure = "give plain weights" if recipe.method == "reward" else "give lora"
            raise ModelError(problem, cure)
    return description


def described(method: str, spec: ModelSpec, max_length: int | None) -> Description:
    """The checkpoint's description, if it reads what a method needs.

    Raises:
        ModelError: it does not, or cannot be read.
    """
    description = describe("the model", spec, None, None)
    path = spec.path
    if description.tokenizer is None:
        raise ModelError(f"{path} has no tokenizer", "name one with model.tokenizer")
    if method != "reward" and description.kind != SCORES:
        problem = f"{path} is a classifier, and {method} is for a language model"
        raise ModelError(problem, "write descant train reward, or give another model")
    if max_length and description.positions and max_length > description.positions:
        longest = description.positions
        problem = f"max_length is {max_length}, and {path} reads {longest} tokens"
        raise ModelError(problem, f"write max_length: {longest} or less")
    return description


def model_of(recipe: TrainFile, description: Description, device: Any, pad: int) -> Any:
    """The model, with its adapter where it has one.

    Raises:
        TrainFileError, ModelError: no such adapter, or weights that cannot be loaded this way.
    """
    spec = recipe.model
    dtype: torch.dtype | str = getattr(torch, spec.dtype or "float32", "auto")
    numbers = description.config.dtype if isinstance(dtype, str) else dtype
    auto = language_auto(description.config)
    options: dict[str, Any] = {}
    if recipe.method == "reward":
        auto, options = AutoModelForSequenceClassification, {"num_labels": 1}
    if spec.quantization is not None:
        options["quantization_config"] = quantization_config("the model", spec.quantization)
        options["device_map"] = {"": str(device)}
    source = weights_source("the model", spec, numbers)
    try:
        model = auto.from_pretrained(
            source, revision=None if description.gguf else spec.revision or "main", dtype=dtype,
            trust_remote_code=spec.trust_remote_code, **options,
        )  # fmt: skip
    except (OSError, SafetensorError) as error:
        other = f"the weights in {source} cannot be read: ", "copy or download them again"
        raise hub_error(error, source, spec.revision, "the model", other) from error
    if recipe.method == "reward" and model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = pad  # else it takes no batches
    return model if recipe.lora is None else _adapted(recipe, description, model)


def _adapted(recipe: TrainFile, description: Description, model: Any) -> Any:
    require("LoRA", "peft")
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    assert recipe.lora is not None
    if recipe.model.quantization is not None or method_of(description.config):
        # Checkpointing is the Trainer's to switch on, with its own arguments.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        for module in model.modules():
            # On some CPUs, bitsandbytes packs 4-bit weights anew when it first evaluates, in a way
            # that no gradient passes: the reference of dpo would end all learning.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    task = "SEQ_CLS" if recipe.method == "reward" else "CAUSAL_LM"
    options = recipe.lora.model_dump()
    if model.config.get_text_config() is not model.config:
        unseen = "|".join(map(re.escape, towers.towers_of(model)))
        options["exclude_modules"] = rf"({unseen})\..*" if unseen else None
    try:
        model = get_peft_model(model, LoraConfig(task_type=task, **options))
    except (ValueError, ImportError, NotImplementedError) as error:
        raise TrainFileError(f"lora: {' '.join(str(error).split())}") from None
    if any("lora_embedding" in name for name, _ in model.named_parameters()):
        raise TrainFileError("lora: embeddings cannot be rows of a shared base; target others")
    return model
