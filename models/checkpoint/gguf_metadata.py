"""What a GGUF file's metadata says, against what transformers makes of it.

transformers leaves out keys that it does not know, without a word. A key is accepted here if
transformers reads it, if it is about the file alone, or if the configuration has its value anyway;
any other one is an error that names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers

from ..errors import ModelError, first_line
from .gguf_header import check_header

# What a key of the architecture says, where the configuration has it.
_CONFIG: dict[str, Callable[[Any], Any]] = {
    "attention.key_length": lambda config: config.head_dim,
    "attention.value_length": lambda config: config.head_dim,
    "attention.sliding_window": lambda config: config.sliding_window,
    "attn_logit_softcapping": lambda config: config.attn_logit_softcapping,
    "final_logit_softcapping": lambda config: config.final_logit_softcapping,
    "logit_scale": lambda config: config.logit_scale,
    "rope.freq_base": lambda config: config.rope_parameters["rope_theta"],
    "rope.freq_base_swa": lambda config: config.rope_parameters["sliding_attention"]["rope_theta"],
    "rope.dimension_count": lambda config: int(
        config.hidden_size // config.num_attention_heads
        * config.rope_parameters.get("partial_rotary_factor", 1.0)
    ),
    "use_parallel_residual": lambda config: config.use_parallel_residual,
    "expert_feed_forward_length": lambda config: config.moe_intermediate_size,
    "expert_shared_feed_forward_length": lambda config: config.shared_expert_intermediate_size,
    "vocab_size": lambda config: config.vocab_size,
}  # fmt: skip
_HARMLESS = {  # whatever the value is
    "rope.scaling.finetuned", "rope.scaling.original_context_length", "tensor_data_layout",
    "feed_forward_length",  # the weights' shapes say it
}  # fmt: skip
_NO_OP = {"rope.scaling.type": "none", "rope.scaling.factor": 1.0, "attention.causal": True}

ROPE_FACTORS = "rope_freqs.weight"
_LLAMA3 = {
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip

# How a vocabulary splits text before its merges, in the words of ``tokenizer.ggml.pre``.
_PLAIN = {"default", "gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "modern-bert"}
_DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}


def metadata_of(name: str, path: str) -> dict[str, Any]:
    """A file's metadata; long arrays stay unread.

    ``tensors`` has the number of elements of every tensor, by its name, ``types`` the name of the
    type that it is stored in, and ``rope_factors`` what the file divides rotary frequencies by.

    Raises:
        ModelError: cut short, or not made as GGUF files are.
    """
    import gguf

    try:
        check_header(path)
        header = gguf.GGUFReader(path)
        metadata: dict[str, Any] = {
            key: field.contents()
            for key, field in header.fields.items()
            if len(field.data) < 100 and field.types
        }
        metadata["tensors"] = {item.name: int(item.n_elements) for item in header.tensors}
        metadata["types"] = {item.name: item.tensor_type.name for item in header.tensors}
        metadata["rope_factors"] = next(
            (item.data.tolist() for item in header.tensors if item.name == ROPE_FACTORS), None
        )
    except (ValueError, KeyError, IndexError, OverflowError, TypeError) as error:
        problem = f"the GGUF file {path} of {name} is cut short or corrupt ({first_line(error)})"
        raise ModelError(problem, "copy or download it again", name) from error
    if not isinstance(metadata.get("general.architecture"), str) or not metadata["tensors"]:
        problem = f"the GGUF file {path} of {name} holds no model: it names no architecture, or "
        raise ModelError(f"{problem}has no tensors", "give a file with a language model", name)
    return metadata


def check_config(name: str, path: str, metadata: Mapping[str, Any], config: Any) -> None:
    """Refuse what the file says of its model and the configuration does not.

    Raises:
        ModelError: such a key; it is named.
    """
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS

    architecture = metadata["general.architecture"]
    read = GGUF_CONFIG_MAPPING.get(architecture) or GGUF_CONFIG_MAPPING.get(config.model_type, {})
    for key, value in metadata.items():
        key = key.removeprefix(f"{architecture}.")
        if f"{architecture}.{key}" not in metadata or architecture in GGUF_CONFIG_ARCHS:
            continue
        if key in read or key in _HARMLESS or _NO_OP.get(key) == value:
            continue
        if not _equal(key, value, config):
            problem = f"the GGUF file {path} of {name} says {architecture}.{key} = {value!r:.60}"
            cure = "give the safetensors checkpoint"
            raise ModelError(f"{problem}, which transformers leaves out", cure, name)


def set_rope(name: str, path: str, metadata: Mapping[str, Any], config: Any) -> None:
    """Llama 3's rotary frequencies, which a file stores as factors and transformers leaves out.

    Raises:
        ModelError: factors that are not Llama 3's.
    """
    factors = metadata["rope_factors"]
    if factors is None:
        return
    theta = config.rope_parameters["rope_theta"]
    rope = {"rope_theta": theta, "rope_type": "llama3", "factor": max(factors), **_LLAMA3}
    if not all(map(partial(math.isclose, rel_tol=1e-4), factors, _llama3_factors(rope, factors))):
        problem = f"the GGUF file {path} of {name} has rotary factors that are not Llama 3's"
        cure = "give the safetensors checkpoint"
        raise ModelError(f"{problem}, and transformers leaves them out", cure, name)
    config.rope_parameters = rope


def _llama3_factors(rope: Mapping[str, Any], factors: Sequence[float]) -> list[float]:
    """What Llama 3 divides each frequency by (transformers' ``rope_type: llama3``)."""
    low, high, length = (rope[key] for key in _LLAMA3)
    values = []
    for i in range(len(factors)):
        turns = length * rope["rope_theta"] ** (-i / len(factors)) / (2 * math.pi)
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        values.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return values


def check_tokenizer(metadata: Mapping[str, Any], tokenizer: Any) -> str | None:
    """Give a tokenizer what transformers leaves out; what is wrong where that is not known."""
    from transformers.integrations import gguf

    pre = metadata.get("tokenizer.ggml.pre", "default")
    splits = getattr(gguf.gguf_tokenizer_mapping, "GGUF_PRE_TOKENIZER_SPLITS", {})
    kind = metadata.get("tokenizer.ggml.model")
    for role in ("bos", "eos", "unknown", "padding"):
        number = metadata.get(f"tokenizer.ggml.{role}_token_id")
        token = None if number is None else tokenizer.convert_ids_to_tokens(int(number))
        setattr(tokenizer, f"{role[:3]}_token", token)
    if kind == "gpt2":
        if pre in _PLAIN or pre in _DIGITS_APART:
            _split_as_gpt2(tokenizer, digits_apart=pre in _DIGITS_APART)
        elif pre not in splits:
            known = f"which transformers {transformers.__version__} does not know"
            return f"splits text as {pre!r} does, {known}"
    bos = metadata.get("tokenizer.ggml.add_bos_token", kind == "llama")
    if tokenizer.bos_token_id is None:
        return None
    if _adds_bos(tokenizer) != bos:
        tokenizer.add_bos_token = bos
    if _adds_bos(tokenizer) != bos:
        return f"{'begins' if bos else 'does not begin'} texts with BOS, which cannot be set"
    return None


def end_ids(metadata: Mapping[str, Any]) -> list[int]:
    """Every id that ends an answer: of texts, of turns and of messages."""
    keys = (f"tokenizer.ggml.{key}_token_id" for key in ("eos", "eot", "eom"))
    return sorted({int(metadata[key]) for key in keys if key in metadata})


def float_type(metadata: Mapping[str, Any]) -> torch.dtype:
    """The type to compute in where none is declared: the file's, or float32 for packed numbers."""
    types = set(metadata["types"].values())
    if types <= {"F32", "BF16"}:
        return torch.bfloat16 if "BF16" in types else torch.float32
    return torch.float16 if types <= {"F32", "F16"} else torch.float32


def _equal(key: str, value: Any, config: Any) -> bool:
    try:
        known = _CONFIG[key](config)
    except (KeyError, AttributeError, TypeError):
        return False
    if isinstance(value, float):
        return math.isclose(value, known, rel_tol=1e-6)
    return bool(known == value)


def _adds_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def _split_as_gpt2(tokenizer: Any, digits_apart: bool) -> None:
    digits: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits_apart else []
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, words])
