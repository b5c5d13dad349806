"""The weights of a GGUF file, unpacked by transformers and kept as safetensors.

Unpacking takes many seconds, so it is done once per file and type of numbers.
"""

from __future__ import annotations

import logging
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import save_torch_model
from transformers import AutoConfig, AutoModelForCausalLM

from ..checkpoint.gguf import GgufFile, described, gguf_file, is_gguf, parsed_once
from ..checkpoint.gguf_metadata import ROPE_FACTORS, metadata_of
from ..checkpoint.spec import ModelSpec
from ..errors import ModelError, first_line, read_by_a_library

_log = logging.getLogger("descant")


def weights_source(name: str, spec: ModelSpec, dtype: torch.dtype | None) -> str:
    """The folder or hub id with a declared model's weights; a GGUF file is unpacked first.

    Args:
        name, spec: of the model, which has a path.
        dtype: the numbers that a GGUF file is unpacked into; None is float32.

    Raises:
        ModelError: a GGUF file that cannot be unpacked, or not fully.
    """
    assert spec.path is not None
    if not is_gguf(spec.path):
        return spec.path
    file = gguf_file(name, spec.path, spec.revision)
    dtype = dtype or torch.float32
    kind = str(dtype).removeprefix("torch.")
    return file.kept(kind, partial(_unpack, file, described(file), dtype))


def _unpack(file: GgufFile, description: str, dtype: torch.dtype, folder: Path) -> None:
    kept = file.cache / folder.name
    _log.warning(
        "%s: unpacking %s into %s, kept in %s", file.name, file.parts[0], folder.name, kept
    )
    shutil.copytree(description, folder, dirs_exist_ok=True)
    config = AutoConfig.from_pretrained(folder)
    config.dtype = dtype
    config.save_pretrained(folder)
    with file.as_one(folder) as path, parsed_once():
        model, report = _read(file, path, dtype)
        lacking = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
        if lacking:
            problem = f"lacks {lacking[0]}, or has it in another shape"
            raise file.error(problem, "give the file of a full language model")
        stored = metadata_of(file.name, path)["tensors"]
        stored.pop(ROPE_FACTORS, None)  # in the configuration
    tied = list(getattr(model, "_tied_weights_keys", None) or ())
    tied = tied if model.config.get_text_config().tie_word_embeddings else []
    tensors = model.state_dict()
    read = sum(tensor.numel() for key, tensor in tensors.items() if key not in tied)
    if read != (written := sum(stored.values())):
        kind = type(model).__name__
        problem = f"holds {written:,} numbers, and transformers' {kind} has {read:,}"
        cure = "transformers leaves some out; give the safetensors checkpoint"
        raise file.error(problem, cure)
    save_torch_model(model, folder, shared_tensors_to_discard=tied, max_shard_size="5GB")


def _read(file: GgufFile, path: str, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    def unreadable(error: BaseException) -> ModelError:
        problem = f"cannot be unpacked: {first_line(error)}"
        return file.error(problem, "give the safetensors checkpoint")

    with read_by_a_library(unreadable):
        return AutoModelForCausalLM.from_pretrained(  # type: ignore[no-any-return]
            os.path.dirname(os.path.abspath(path)),
            gguf_file=os.path.basename(path),
            dtype=dtype,
            device_map={"": "cpu"},
            # Where there are kernels for packed numbers, transformers would keep them packed.
            quantization_config=transformers.GgufConfig(dequantize=True),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
