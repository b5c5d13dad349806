"""Tiny members of the families of transformers: one table, and how to make a member of it.

A name is a ``model_type`` and, in brackets, what this member is there for. Weights, biases, sinks
and norms are all random and large, so that a key too many or too few changes what the model says.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
)

V = 97
PAD = 0
SIZES = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 128,
    "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2}
WINDOW = {"sliding_window": 8}
MIXED = {**GROUPED, **WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {
    "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts": 4, "num_local_experts": 4,
    "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "shared_expert_intermediate_size": 16,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 12, "head_dim": 8,
}  # fmt: skip
INDEXED = {**EXPERTS, **LATENT, "index_topk": 4, "index_n_heads": 24, "index_head_dim": 16}
SSM = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 8}
DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
ALIBI, SINKS, CAPPED = "ALiBi", "attention sinks", "soft-capping"
MOE, MLA, CHOSEN = "experts", "latent attention", "keys chosen by an indexer"
NET, CONV, MAMBA, MAMBA2 = "gated delta net", "short convolutions", "Mamba", "Mamba 2"

FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "afmoe": ({**GROUPED, **EXPERTS, **MIXED}, MOE),
    "apertus": (GROUPED, ""),
    "arcee": (GROUPED, ""),
    "biogpt": ({}, ""),
    "bitnet": (GROUPED, ""),
    "bloom": ({}, ALIBI),
    "codegen": ({"n_inner": 48, "rotary_dim": 4}, ""),
    "axk2": ({**INDEXED, "n_shared_experts": 1}, f"{MLA}, {CHOSEN}, {MOE}"),
    "cohere": (GROUPED, ""),
    "cohere2": (MIXED, ""),
    "ctrl": ({"dff": 48}, ""),
    "cwm": (MIXED, ""),
    "deepseek_v2": ({**EXPERTS, **LATENT}, f"{MLA}, {MOE}"),
    "deepseek_v3": ({**EXPERTS, **LATENT}, f"{MLA}, {MOE}"),
    "deepseek_v32": (INDEXED, f"{MLA}, {CHOSEN}, {MOE}"),
    "diffllama": (GROUPED, "differential attention"),
    "dots1": ({**EXPERTS, **MIXED, "n_shared_experts": 1}, MOE),
    "ernie4_5": (GROUPED, ""),
    "ernie4_5_moe": ({**GROUPED, **EXPERTS, "moe_num_experts": 4, "moe_k": 2}, MOE),
    "exaone4": (MIXED, ""),
    "falcon": ({"new_decoder_architecture": False, "multi_query": True}, ""),
    "falcon (ALiBi)": ({"alibi": True, "multi_query": False}, ALIBI),
    "falcon (grouped)": ({"new_decoder_architecture": True, "num_kv_heads": 2}, ""),
    "flex_olmo": ({**GROUPED, **EXPERTS}, MOE),
    "gemma": ({**GROUPED, "head_dim": 8}, ""),
    "gemma2": ({**MIXED, "head_dim": 8, "attn_logit_softcapping": 2.0}, CAPPED),
    "gemma3_text": ({**MIXED, "head_dim": 8}, ""),
    "gemma3n_text": ({
        **MIXED, "head_dim": 8, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2, "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.0] * 4, "vocab_size_per_layer_input": V,
        "hidden_size_per_layer_input": 8, "laurel_rank": 4,
    }, "layers that share keys"),
    "gemma4_text": ({
        **MIXED, "head_dim": 8, "global_head_dim": 16, "vocab_size_per_layer_input": V,
        "hidden_size_per_layer_input": 8,
    }, "two sizes of head"),
    "glm": ({**GROUPED, "head_dim": 8}, ""),
    "glm4": ({**GROUPED, "head_dim": 8}, ""),
    "glm4_moe": ({**GROUPED, **EXPERTS, "head_dim": 8}, MOE),
    "glm_moe_dsa": (INDEXED, f"{MLA}, {CHOSEN}, {MOE}"),
    "gpt2": ({}, ""),
    "gpt_bigcode": ({}, "one key for all heads"),
    "gpt_neox": ({}, ""),
    "gpt_oss": ({**MIXED, **EXPERTS, "head_dim": 8}, f"{SINKS}, {MOE}"),
    "gptj": ({"rotary_dim": 4}, ""),
    "granite": (GROUPED, ""),
    "granitemoe": ({**GROUPED, **EXPERTS}, MOE),
    "helium": ({**GROUPED, "head_dim": 8}, ""),
    "hunyuan_v1_dense": ({**GROUPED, "head_dim": 8}, ""),
    "hy_v4": (INDEXED, f"{MLA}, {CHOSEN}, {MOE}"),
    "jetmoe": ({"num_key_value_heads": 2, "kv_channels": 8, **EXPERTS}, f"{MOE} of heads"),
    "llama": (GROUPED, ""),
    "llama (eager)": ({**GROUPED, "attention": "eager"}, ""),
    "llama4_text": ({
        **GROUPED, **EXPERTS, "head_dim": 8, "intermediate_size_mlp": 48,
        "attention_chunk_size": 8, "layer_types": ["chunked_attention", "full_attention"],
        "no_rope_layers": [1, 0], "floor_scale": 4, "attn_scale": 0.5,
    }, MOE),
    "longcat_flash": ({**EXPERTS, **LATENT, "num_layers": 2, "ffn_hidden_size": 48,
                       "expert_ffn_hidden_size": 16, "zero_expert_num": 2, "moe_topk": 2},
                      f"{MLA}, {MOE}"),
    "minicpm3": (LATENT, MLA),
    "minimax_m2": ({**GROUPED, **EXPERTS, "head_dim": 8}, MOE),
    "ministral": ({**MIXED, "head_dim": 8}, ""),
    "ministral3": ({**GROUPED, "head_dim": 8}, ""),
    "mistral": ({**GROUPED, "sliding_window": None}, ""),
    "mistral (window)": ({**GROUPED, **WINDOW}, ""),
    "mixtral": ({**GROUPED, **EXPERTS}, MOE),
    "mixtral (window)": ({**GROUPED, **EXPERTS, **WINDOW}, MOE),
    "modernbert-decoder": ({"local_attention": 8, "global_attn_every_n_layers": 2}, ""),
    "mpt": ({"expansion_ratio": 2, "max_seq_len": 128}, ALIBI),
    "nanochat": (GROUPED, CAPPED),
    "nemotron": ({**GROUPED, "head_dim": 8}, ""),
    "olmo": (GROUPED, ""),
    "olmo2": (GROUPED, ""),
    "olmo3": (MIXED, ""),
    "olmoe": ({**GROUPED, **EXPERTS}, MOE),
    "opt": ({"ffn_dim": 48, "word_embed_proj_dim": 32}, ""),
    "persimmon": ({}, ""),
    "phi": (GROUPED, ""),
    "phi3": ({**GROUPED, **WINDOW}, ""),
    "phimoe": ({**GROUPED, **EXPERTS, **WINDOW}, MOE),
    "qwen2": (GROUPED, ""),
    "qwen2 (mixed)": ({**MIXED, "use_sliding_window": True}, ""),
    "qwen2_moe": ({**GROUPED, **EXPERTS}, MOE),
    "qwen3": ({**GROUPED, "head_dim": 8}, ""),
    "qwen3 (mixed)": ({**MIXED, "head_dim": 8, "use_sliding_window": True}, ""),
    "qwen3_moe": ({**GROUPED, **EXPERTS, "head_dim": 8}, MOE),
    "seed_oss": ({**GROUPED, "head_dim": 8}, ""),
    "smollm3": ({**MIXED, "use_sliding_window": True, "no_rope_layers": [1, 0]}, ""),
    "stablelm": (GROUPED, ""),
    "starcoder2": ({**GROUPED, **WINDOW}, ""),
    "vaultgemma": ({**MIXED, "head_dim": 8}, CAPPED),
    "xglm": ({"ffn_dim": 48, "num_layers": 2, "d_model": 32, "attention_heads": 4}, ""),
    "youtu": (LATENT, MLA),
}  # fmt: skip
STATES: dict[str, tuple[dict[str, Any], str]] = {  # those whose layers keep states of their rows
    "bailing_hybrid": ({
        **EXPERTS, **LATENT, "n_shared_experts": 1, "num_mtp_layers": 0,
        "layer_types": ["linear_attention", "full_attention"],
    }, f"lightning attention, {MLA}, {MOE}"),
    "bamba": ({**GROUPED, **SSM, "mamba_chunk_size": 8, "attn_layer_indices": [1]}, MAMBA2),
    "falcon_h1": ({**GROUPED, **SSM, "mamba_d_ssm": 64, "mamba_chunk_size": 8}, MAMBA2),
    "falcon_mamba": ({"state_size": 8}, MAMBA),
    "granitemoehybrid": ({
        **GROUPED, **EXPERTS, **SSM, "mamba_chunk_size": 8, "layer_types": ["mamba", "attention"],
        "shared_intermediate_size": 16,
    }, f"{MAMBA2}, {MOE}"),
    "jamba": ({
        **GROUPED, **EXPERTS, "mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False,
    }, f"{MAMBA}, {MOE}"),
    "kimi_linear": ({
        **EXPERTS, **LATENT, "q_lora_rank": None, "n_shared_experts": 1, "linear_head_dim": 8,
        "linear_num_heads": 4, "layer_types": ["linear_attention", "full_attention"],
    }, f"delta attention, {MLA}, {MOE}"),
    "lfm2": ({**GROUPED, "layer_types": ["conv", "full_attention"], "block_dim": 32,
              "block_auto_adjust_ff_dim": False}, CONV),
    "lfm2_moe": ({**GROUPED, **EXPERTS, "num_dense_layers": 1,
                  "layer_types": ["conv", "full_attention"]}, f"{CONV}, {MOE}"),
    "lfm3": ({**GROUPED, "layer_types": ["conv", "full_attention"]}, f"{CONV}, {MOE}"),
    "mamba": ({"state_size": 8, "expand": 2}, MAMBA),
    "mamba2": ({"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "expand": 2,
                "chunk_size": 8}, MAMBA2),
    "minimax": ({**GROUPED, **EXPERTS, "head_dim": 8, "block_size": 8,
                 "layer_types": ["linear_attention", "full_attention"]},
                f"lightning attention, {MOE}"),
    "nemotron_h": ({
        **GROUPED, "layers_block_type": ["mamba", "mlp", "attention", "mlp"], "mamba_num_heads": 8,
        "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 8, "chunk_size": 8, "head_dim": 8,
    }, MAMBA2),
    "olmo_hybrid": ({**GROUPED, "layer_types": ["linear_attention", "full_attention"]}, NET),
    "qwen3_5_moe_text": ({**GROUPED, **EXPERTS, **DELTA, "head_dim": 16}, f"{NET}, {MOE}"),
    "qwen3_5_text": ({**GROUPED, **DELTA, "head_dim": 16}, NET),
    "qwen3_next": ({**GROUPED, **EXPERTS, **DELTA, "head_dim": 16, "mlp_only_layers": []},
                   f"{NET}, {MOE}"),
    "recurrent_gemma": ({
        **GROUPED, "num_hidden_layers": 3, "block_types": ["recurrent", "recurrent", "attention"],
        "lru_width": 32, "head_dim": 8, "attention_window_size": 8,
    }, "gated linear recurrences"),
    "zamba": ({
        **GROUPED, "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2,
        "mamba_d_state": 8, "n_mamba_heads": 2, "attention_hidden_size": 64,
        "use_mamba_kernels": False,
    }, MAMBA),
    "zamba2": ({
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "mamba_d_state": 8,
        "mamba_headdim": 8, "mamba_ngroups": 2, "n_mamba_heads": 8, "chunk_size": 8,
        "use_mamba_kernels": False, "use_mem_rope": True, "num_mem_blocks": 1,
    }, MAMBA2),
    "zaya": ({**GROUPED, "head_dim": 8}, f"{CONV}, {MOE}"),
}  # fmt: skip


def row_of(family: str) -> tuple[dict[str, Any], str]:
    """What a family's member has of its own, and what it is there for."""
    return FAMILIES.get(family) or STATES[family]


def model_type(family: str) -> str:
    """transformers' name of a family's architecture."""
    return family.split()[0]


def config(family: str) -> PretrainedConfig:
    """The configuration of a family's tiny member."""
    options = {**SIZES, **row_of(family)[0]}
    options.pop("attention", None)
    return CONFIG_MAPPING[model_type(family)](**options)


def model(family: str, seed: int = 0, reward: bool = False, dtype: Any = torch.float32) -> Any:
    """A family's tiny member: a language model, or a reward model of one label."""
    made = config(family)
    auto = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    if reward:
        made.num_labels = 1
    attention = row_of(family)[0].get("attention")
    chosen = {"attn_implementation": attention} if attention else {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # what is not a matrix begins as transformers draws it
        network = auto.from_config(made, dtype=torch.float32, **chosen)
    return shaken(network, seed).to(dtype)


def shaken(network: Any, seed: int) -> Any:
    """A model whose every weight is random: nothing stays at one or at zero."""
    generator = torch.Generator().manual_seed(seed)
    embedding = network.get_input_embeddings().weight
    for weight in network.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight is embedding:
            weight.data = noise
        elif weight.dim() > 1:
            weight.data = noise * (1.5 / weight.shape[-1] ** 0.5)
        else:
            weight.data = weight.data + 0.3 * noise
    for name, buffer in network.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
    return network.eval()
