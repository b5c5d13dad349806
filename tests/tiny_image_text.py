"""Tiny members of the image-text families of transformers: one table, and how to make a member.

A family's configurations are transformers' own, with small sizes wherever they have such a size. A
name is a ``model_type`` and, in brackets, what this member is there for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_architectures import EXPERTS, GROUPED, MIXED, SIZES, V, shaken
from transformers import (
    CONFIG_MAPPING,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    PretrainedConfig,
)

TEXT = {**SIZES, **GROUPED, **EXPERTS, "head_dim": 8, "vocab_size_per_layer_input": V}
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14, "depth": 2, "num_heads": 2, "embed_dim": 16,
    "spatial_merge_size": 2, "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "output_dim": 32,
}  # fmt: skip
MARKS = {
    "image_token_id": 3, "image_token_index": 3, "audio_token_id": 3, "video_token_id": 4,
    "vision_start_token_id": 5, "vision_end_token_id": 6, "image_start_token_id": 5,
    "image_end_token_id": 6,
}  # fmt: skip
ENDS = {key: SIZES[key] for key in ("pad_token_id", "bos_token_id", "eos_token_id")}

AXES = {"rope_parameters": {
    "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1],
    "partial_rotary_factor": 1.0,
}}  # fmt: skip
OUT = {"vision_config": {"out_hidden_size": 32}}
QWEN = {"text_config": AXES, **OUT}
HYBRID = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
DEEP = {"vision_config": {"out_hidden_size": 32, "deepstack_visual_indexes": [0]}}
CLIP, SIGLIP, PIXTRAL = (
    {"vision_config": {"model_type": kind}}
    for kind in ("clip_vision_model", "siglip_vision_model", "pixtral")
)
MISTRAL = {"text_config": {"model_type": "mistral"}}
NEXT = {"model_type": "qwen2"}

# What a family's configurations say beside their sizes, and what is noted of it.
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "aria": ({}, "experts"),
    "aya_vision": ({"text_config": MIXED}, ""),
    "cohere2_vision": ({"text_config": MIXED}, ""),
    "exaone4_5": (OUT, ""),
    "gemma3": ({"text_config": MIXED, "mm_tokens_per_image": 4}, ""),
    "gemma4": ({"text_config": {**MIXED, "global_head_dim": 16,
                                "hidden_size_per_layer_input": 8},
                "vision_config": {**VISION, "head_dim": 8, "num_key_value_heads": 2}},
               "two sizes of head"),
    "glm46v": (QWEN, "three rotary axes"),
    "glm4v": (QWEN, "three rotary axes"),
    "glm4v_moe": (QWEN, "three rotary axes, experts"),
    "glm_ocr": (QWEN, "three rotary axes"),
    "got_ocr2": ({}, ""),
    "idefics2": ({}, ""),
    "idefics3": ({"text_config": {"model_type": "llama"}, "scale_factor": 2}, ""),
    "internvl": ({"vision_config": {"image_size": [28, 28]}}, ""),
    "lfm2_vl": ({"text_config": {"layer_types": ["conv", "full_attention"]}}, "states"),
    "lighton_ocr": ({}, ""),
    "llama4": ({"text_config": {
        "intermediate_size_mlp": 48, "attention_chunk_size": 8, "floor_scale": 4,
        "layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0],
        "attn_scale": 0.5,
    }, "vision_config": {
        "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16,
    }}, "experts"),
    "llava": (CLIP, ""),
    "llava (pixtral)": ({**MISTRAL, **PIXTRAL}, ""),
    "llava_next": ({**MISTRAL, **CLIP}, ""),
    "llava_onevision": ({"text_config": NEXT, **SIGLIP}, ""),
    "minicpmv4_6": ({}, ""),
    "mistral3": ({**MISTRAL, **PIXTRAL}, ""),
    "mllama": ({}, "layers that see images are skipped"),
    "ovis2": ({}, ""),
    "paddleocr_vl": (QWEN, "three rotary axes"),
    "qwen2_5_omni_thinker": ({**QWEN, "vision_start_token_id": 5}, "three rotary axes"),
    "qwen2_5_vl": ({"text_config": AXES, "vision_config": {
        "out_hidden_size": 32, "fullatt_block_indexes": [1]}}, "three rotary axes"),
    "qwen2_audio": ({}, "the audio tower is read too"),
    "qwen2_vl": ({"text_config": AXES, "vision_config": {"hidden_size": 32}}, "three rotary axes"),
    "qwen3_5": ({"text_config": HYBRID, **OUT}, "three rotary axes, states"),
    "qwen3_5_moe": ({"text_config": HYBRID, **OUT}, "three rotary axes, states, experts"),
    "qwen3_vl": ({"text_config": AXES, **DEEP}, "three rotary axes"),
    "qwen3_vl_moe": ({"text_config": AXES, **DEEP}, "three rotary axes, experts"),
    "smolvlm": ({"text_config": {"model_type": "llama"}, "scale_factor": 2}, ""),
    "vipllava": ({}, ""),
    "voxtral": ({}, ""),
}  # fmt: skip


def model_type(family: str) -> str:
    """transformers' name of a family's architecture."""
    return family.split()[0]


def config(family: str) -> PretrainedConfig:
    """The configuration of a family's tiny member; it names its image-text class."""
    kind, options = model_type(family), dict(FAMILIES[family][0])
    default = CONFIG_MAPPING[kind]()
    text = default.get_text_config()
    for name in type(default).sub_configs:
        if (part := getattr(default, name, None)) is not None:
            sizes = _small(part, TEXT if part is text else VISION)
            options[name] = {"model_type": part.model_type, **sizes, **options.get(name, {})}
    marks = {key: token for key, token in MARKS.items() if hasattr(default, key)}
    made = CONFIG_MAPPING[kind](**{**ENDS, **marks, **options})
    autos = AutoModelForImageTextToText, AutoModelForMultimodalLM
    cls = next(
        auto._model_mapping[type(made)] for auto in autos if type(made) in auto._model_mapping
    )
    made.architectures = [cls.__name__]
    return made


def _small(part: PretrainedConfig, sizes: dict[str, Any]) -> dict[str, Any]:
    named = {**part.to_dict(), **part.attribute_map}
    small = {key: size for key, size in sizes.items() if key in named}
    if kinds := named.get("layer_types"):
        small["layer_types"] = [*dict.fromkeys(kinds)][:2] * 2
        small["layer_types"] = small["layer_types"][:2]
    return small


def model(family: str, seed: int = 0, dtype: Any = torch.float32) -> Any:
    """A family's tiny member, of its image-text class; every weight is random."""
    import transformers

    made = config(family)
    cls = getattr(transformers, made.architectures[0])
    network = shaken(cls._from_config(made, dtype=torch.float32), seed).eval()
    return network if dtype == torch.float32 else network.to(dtype)


def saved(family: str, folder: Path, **options: Any) -> Any:
    """The same, after it is saved in a folder."""
    made = model(family, **options)
    made.save_pretrained(folder)
    return made
