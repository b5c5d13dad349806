"""The model that learns: its card, its weights as they are trained, and the adapter on them.

It neither trains nor saves.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    TrainingArguments,
)

from ..extras import require
from ..models import SCORES, Description, ModelError, describe
from ..models.loading.quantized import check_packages, method_of, quantization_config
from .trainfile import TrainFile, TrainFileError


def description_of(said: TrainFile) -> Description:
    """What the checkpoint says of itself, if it can be trained so.

    Raises:
        ModelError: it cannot, or cannot be read.
    """
    description = describe("the model", said.model, None, None)
    if description.tokenizer is None:
        raise ModelError(f"{said.model.path} has no tokenizer", "name one with model.tokenizer")
    if said.method != "reward" and description.kind != SCORES:
        raise ModelError(
            f"{said.model.path} is a classifier, and {said.method} trains a language model",
            "write descant train reward, or give another model",
        )
    if said.max_length and description.positions and said.max_length > description.positions:
        raise ModelError(
            f"max_length is {said.max_length}, and {said.model.path} reads "
            f"{description.positions} tokens",
            f"say max_length: {description.positions} or less",
        )
    if method := method_of(description.config):
        check_packages("the model", method)
        if said.lora is None or said.method == "reward":
            cure = "give lora" if said.method != "reward" else "give plain weights"
            raise ModelError(
                f"{said.model.path} is quantised, and packed weights do not learn", cure
            )
    return description


def model_of(
    said: TrainFile, description: Description, arguments: TrainingArguments, pad: int
) -> Any:
    """The model, with its adapter where it has one.

    Raises:
        TrainFileError, ModelError: no such adapter, or weights that cannot be read so.
    """
    spec = said.model
    dtype = "auto" if spec.dtype == "auto" else getattr(torch, spec.dtype or "float32")
    auto = AutoModelForCausalLM
    more: dict[str, Any] = {}
    if said.method == "reward":
        auto, more = AutoModelForSequenceClassification, {"num_labels": 1}
    if spec.quantization is not None:
        more["quantization_config"] = quantization_config("the model", spec.quantization)
        more["device_map"] = {"": str(arguments.device)}
    model = auto.from_pretrained(
        spec.path, revision=spec.revision or "main", dtype=dtype,
        trust_remote_code=spec.trust_remote_code, **more,
    )  # fmt: skip
    if said.method == "reward" and model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = pad  # else it takes no batches
    return model if said.lora is None else _adapted(said, description, model)


def _adapted(said: TrainFile, description: Description, model: Any) -> Any:
    require("LoRA", "peft")
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    assert said.lora is not None
    if said.model.quantization is not None or method_of(description.config):
        # Checkpointing is the Trainer's to switch on, with its own arguments.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        for module in model.modules():
            # On some CPUs, bitsandbytes packs 4-bit weights anew when it first evaluates, in a way
            # that no gradient passes: the reference of dpo would end all learning.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    task = "SEQ_CLS" if said.method == "reward" else "CAUSAL_LM"
    try:
        model = get_peft_model(model, LoraConfig(task_type=task, **said.lora.model_dump()))
    except (ValueError, ImportError, NotImplementedError) as error:
        raise TrainFileError(f"lora: {' '.join(str(error).split())}") from None
    odd = next((name for name, _ in model.named_parameters() if "lora_embedding" in name), None)
    if odd is not None:
        raise TrainFileError("lora: embeddings cannot be rows of a shared base; target others")
    return model
