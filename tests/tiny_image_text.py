"""Tiny members of the image-text families of transformers, as checkpoints in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_architectures import EXPERTS, GROUPED, MIXED, SIZES, V, shaken
from transformers import CONFIG_MAPPING, PretrainedConfig

from descant.models.checkpoint.architectures import model_class

TEXT = {**SIZES, **GROUPED, "head_dim": 8}
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14, "depth": 2, "num_heads": 2, "embed_dim": 16,
}  # fmt: skip
SECTIONS = {"rope_parameters": {
    "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1],
}}  # fmt: skip
QWEN_VISION = {**VISION, "out_hidden_size": 32, "spatial_merge_size": 2}
IMAGE = {"image_token_id": 3, "image_token_index": 3, "video_token_id": 4}
IMAGE |= {"vision_start_token_id": 5, "vision_end_token_id": 6}
HYBRID = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip

# A family's text and vision configuration, and what is the whole's.
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "qwen2_vl": ({**TEXT, **SECTIONS}, {**VISION, "hidden_size": 32}, {}),
    "qwen2_5_vl": ({**TEXT, **SECTIONS}, {**QWEN_VISION, "fullatt_block_indexes": [1]}, {}),
    "qwen3_vl": ({**TEXT, **SECTIONS}, {**QWEN_VISION, "deepstack_visual_indexes": [0]}, {}),
    "qwen3_vl_moe": (
        {**TEXT, **EXPERTS, **SECTIONS}, {**QWEN_VISION, "deepstack_visual_indexes": [0]}, {},
    ),
    "qwen3_5": ({**TEXT, **HYBRID}, QWEN_VISION, {}),
    "qwen3_5_moe": ({**TEXT, **HYBRID, **EXPERTS}, QWEN_VISION, {}),
    "llava": ({**TEXT, "model_type": "llama"}, {**VISION, "model_type": "clip_vision_model"}, {}),
    "llava_next": (
        {**TEXT, "model_type": "mistral"}, {**VISION, "model_type": "clip_vision_model"}, {},
    ),
    "llava_onevision": (
        {**TEXT, "model_type": "qwen2"}, {**VISION, "model_type": "siglip_vision_model"}, {},
    ),
    "mistral3": ({**TEXT, "model_type": "mistral"}, {**VISION, "model_type": "pixtral"}, {}),
    "pixtral (llava)": ({**TEXT, "model_type": "mistral"}, {**VISION, "model_type": "pixtral"}, {}),
    "gemma3": ({**TEXT, **MIXED}, VISION, {"mm_tokens_per_image": 4}),
    "gemma3n": ({
        **TEXT, **MIXED, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2, "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.0] * 4, "vocab_size_per_layer_input": V,
        "hidden_size_per_layer_input": 8, "laurel_rank": 4,
    }, {"hidden_size": 16, "vocab_offset": 90, "vocab_size": 4, "model_args": {}}, {}),
    "gemma4": ({
        **TEXT, **MIXED, "global_head_dim": 16, "vocab_size_per_layer_input": V,
        "hidden_size_per_layer_input": 8,
    }, {**VISION, "head_dim": 8, "num_key_value_heads": 2}, {}),
    "llama4": ({
        **TEXT, **EXPERTS, "intermediate_size_mlp": 48, "attention_chunk_size": 8,
        "layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0],
        "floor_scale": 4, "attn_scale": 0.5,
    }, {**VISION, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
        {}),
    "idefics3": ({**TEXT, "model_type": "llama"}, VISION, {"scale_factor": 2}),
    "smolvlm": ({**TEXT, "model_type": "llama"}, VISION, {"scale_factor": 2}),
    "internvl": ({**TEXT, "model_type": "qwen2"}, {**VISION, "image_size": [28, 28]}, {}),
    "glm4v": ({**TEXT, **SECTIONS}, {**QWEN_VISION}, {}),
    "glm4v_moe": ({**TEXT, **SECTIONS, **EXPERTS}, {**QWEN_VISION}, {}),
    "aya_vision": (
        {**TEXT, **MIXED, "model_type": "cohere2"}, {**VISION, "model_type": "siglip_vision_model"},
        {},
    ),
    "paligemma": ({**TEXT, "model_type": "gemma"}, {**VISION, "projection_dim": 32}, {}),
}  # fmt: skip


def config(family: str) -> PretrainedConfig:
    """The configuration of a family's tiny member, which names its image-text class."""
    kind = family.rpartition("(")[2].rstrip(")")
    text, vision, whole = FAMILIES[family]
    ends = {key: SIZES[key] for key in ("pad_token_id", "bos_token_id", "eos_token_id")}
    made = CONFIG_MAPPING[kind](text_config=text, vision_config=vision, **IMAGE, **ends, **whole)
    return made


def model(family: str, seed: int = 0) -> Any:
    """A family's tiny member, of its image-text class, with random weights."""
    made = config(family)
    made.architectures = [image_text_class(made).__name__]
    cls = model_class(made, False)
    return shaken(cls._from_config(made, dtype=torch.float32), seed).eval()


def image_text_class(made: PretrainedConfig) -> Any:
    """transformers' image-text class of a configuration."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText._model_mapping[type(made)]


def saved(family: str, folder: Path, seed: int = 0) -> Any:
    """The same, after it is saved in a folder."""
    made = model(family, seed)
    made.save_pretrained(folder)
    return made
