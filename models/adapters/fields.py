"""Which kinds of adapters, and which fields of their configurations, give peft's own forward.

Whatever is not listed here is refused by name, unless it is at its default: a field that a later
peft adds is a mistake until it is understood. ``tests/models/adapters`` compares these tables with
the installed peft's own classes, and every field that is understood with peft's forward.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ...errors import quoted, shortened
from ..errors import ModelError

LORA = "LORA"
COMMON = frozenset(  # where an adapter comes from, and which modules it is on: its weights say so
    """
    task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode
    target_modules exclude_modules layers_to_transform layers_pattern
    """.split()  # noqa: SIM905
)
UNDERSTOOD = frozenset(  # by rows
    """
    r lora_alpha rank_pattern alpha_pattern use_rslora fan_in_fan_out bias lora_bias use_dora
    init_lora_weights ensure_weight_tying
    """.split()  # noqa: SIM905
)
NO_EFFECT = COMMON | frozenset(  # on a forward outside training
    """
    lora_dropout megatron_core loftq_config eva_config corda_config lora_ga_config velora_config
    monteclora_config qalora_group_size runtime_config
    """.split()  # noqa: SIM905
)
MERGED_ONLY = {  # fields of LoRA that rows of a shared base cannot have
    "modules_to_save": "replaces whole modules",
    "trainable_token_indices": "replaces embeddings of tokens",
    "target_parameters": "is on parameters, which need not be layers",
    "use_bdlora": "is BD-LoRA, whose factors are of many blocks",
    "kasa_config": "is KaSA, which changes the base's weights",
}
REFUSED = {  # fields of LoRA that no weights can have
    "alora_invocation_tokens": "is an aLoRA, which begins at its invocation tokens",
    "arrow_config": "is an Arrow router, which is of many adapters",
    "layer_replication": "repeats layers of its base",
    "megatron_config": "is on Megatron's layers",
    "use_qalora": "is QALoRA, which is on the groups of a GPTQ base",
}
KEEPS_BASE = frozenset(("true", "false", "none", "gaussian", "eva", "orthogonal", "mica"))
RECOMPUTED = frozenset(("pissa", "olora"))  # how they change the base, peft finds out again

KINDS = {  # merged by peft: the fields beyond COMMON, all of which it reads
    "ADALORA": """target_r init_r tinit tfinal deltaT beta1 beta2 orth_reg_weight total_step""",
    "ADAMSS": """r num_subspaces subspace_rank init_weights use_asa asa_target_subspaces
        init_warmup final_warmup mask_interval asa_importance_beta asa_uncertainty_beta
        asa_schedule_exponent use_dynamic_rank svd_threshold random_seed""",
    "BEFT": "init_weights",
    "BOFT": """boft_block_size boft_block_num boft_n_butterfly_factor boft_dropout fan_in_fan_out
        bias init_weights""",
    "C3A": "block_size bias block_size_pattern init_weights",
    "DEFT": """r decomposition_method init_scale alpha para fan_in_fan_out deft_dropout
        init_weights bias""",
    "DELORA": "r delora_lambda module_dropout bias init_weights rank_pattern lambda_pattern",
    "FOURIERFT": """n_frequency scaling random_loc_seed fan_in_fan_out bias n_frequency_pattern
        init_weights""",
    "FROD": """projection_prng_key save_projection frod_dropout fan_in_fan_out bias init_weights
        sparse_rate regularization_alpha progressbar runtime_offload_base_weight""",
    "GLORA": "r bias config_A_B config_C config_D_E init_weights",
    "GRALORA": "r hybrid_r alpha gralora_dropout gralora_k fan_in_fan_out bias init_weights",
    "HIRA": "r hira_dropout fan_in_fan_out init_weights rank_pattern",
    "HRA": "r apply_GS init_weights bias",
    "IA3": "feedforward_modules fan_in_fan_out init_ia3_weights",
    "LN_TUNING": "",
    "LOHA": """rank_pattern alpha_pattern r alpha rank_dropout module_dropout
        use_effective_conv2d init_weights""",
    "LOKR": """rank_pattern alpha_pattern r alpha rank_dropout module_dropout use_effective_conv2d
        decompose_both decompose_factor rank_dropout_scale init_weights""",
    "MISS": "r miss_dropout mini_r init_weights bias",
    "OFT": """r oft_block_size module_dropout fan_in_fan_out bias init_weights coft eps
        block_share use_cayley_neumann num_cayley_neumann_terms""",
    "OSF": "effective_rank rank_pattern init_weights target_svd_config",
    "PEANUT": "r depth act_fn scaling init_weights",
    "PSOFT": """r psoft_alpha psoft_dropout fan_in_fan_out ab_svd_init psoft_svd
        psoft_svd_lowrank_niter random_seed psoft_orth psoft_mag_b psoft_mag_a use_cayley_neumann
        num_cayley_neumann_terms cayley_neumann_eps init_weights""",
    "PVERA": """r projection_prng_key save_projection pvera_dropout d_initial fan_in_fan_out bias
        init_weights sample_at_inference generator_seed""",
    "RANDLORA": """r projection_prng_key save_projection sparse very_sparse randlora_dropout
        fan_in_fan_out randlora_alpha bias init_weights""",
    "ROAD": "variant group_size init_weights",
    "SHIRA": "r mask_type random_seed fan_in_fan_out init_weights",
    "SUPERTUNING": """sparsity select_top r lora_alpha lora_dropout init_weights
        save_precomputed_indices""",
    "TINYLORA": """r u weight_tying projection_seed save_projection init_v_bound tinylora_dropout
        fan_in_fan_out bias init_weights""",
    "TRAINABLE_TOKENS": "token_indices init_weights",
    "UNILORA": """r proj_seed theta_d_length unilora_dropout fan_in_fan_out bias
        init_theta_d_bound init_weights save_indices""",
    "VBLORA": """r num_vectors vector_length topk save_only_topk_weights vblora_dropout
        fan_in_fan_out bias init_vector_bank_bound init_logits_std""",
    "VERA": """r projection_prng_key save_projection vera_dropout d_initial fan_in_fan_out bias
        init_weights""",
    "WAVEFT": """n_frequency scaling wavelet_family use_idwt random_loc_seed fan_in_fan_out bias
        n_frequency_pattern proportional_parameters init_weights""",
}
_TOKENS = "puts tokens or their keys and values before the text, which are no weights"
NO_WEIGHTS = {  # kinds that peft cannot merge
    "ADAPTION_PROMPT": "puts a prompt into every attention, which is no weights",
    **dict.fromkeys(("CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING"), _TOKENS),
    **dict.fromkeys(("PROMPT_TUNING", "P_TUNING"), _TOKENS),
    "LILY": "shares its parts between layers, and peft does not merge it",
    "POLY": "mixes adapters by the task of a text",
    "SHADOW": "runs a network of its own beside the base",
    "XLORA": "mixes adapters by the token",
}
MERGE = "say merge: true with it: weights of its own, a copy of its base's"
_CONVERT = "save it with peft's path_initial_model_for_weight_conversion, as plain LoRA"


def check_row(name: str, config: Mapping[str, Any]) -> None:
    """Refuse what rows of a shared base cannot have, by name; ``config`` is peft's.

    Raises:
        ModelError: another kind than LoRA, or a field that makes it more than rows can have.
    """
    kind = config.get("peft_type")
    if kind != LORA:
        _check_kind(name, kind)
        raise _error(name, f"is {kind}, not LoRA, which rows of a shared base cannot have", MERGE)
    _check_refused(name, config)
    for field, what in MERGED_ONLY.items():
        if is_set(config, field):
            raise _error(name, f"{what} ({field}), which rows of a shared base cannot have", MERGE)
    if (init := _init(config)) not in KEEPS_BASE:
        cure = f"{_CONVERT}; or {MERGE}" if init in RECOMPUTED else _CONVERT
        raise _error(name, f"changed its base when it was made ({_shown(init)})", cure)
    _check_unknown(name, config, LORA, UNDERSTOOD | NO_EFFECT | MERGED_ONLY.keys())


def check_merge(name: str, config: Mapping[str, Any]) -> None:
    """Refuse what peft cannot merge into weights, or only into other weights, by name.

    Raises:
        ModelError: a kind or a field of that sort, or one that is not known here.
    """
    kind = config.get("peft_type")
    known = UNDERSTOOD | NO_EFFECT | MERGED_ONLY.keys()
    if kind != LORA:
        _check_kind(name, kind)
        own = COMMON | {"modules_to_save", *KINDS[str(kind)].split()}
        known = known | own if kind == "ADALORA" else own
    if kind in (LORA, "ADALORA"):
        _check_refused(name, config)
    if kind == LORA and (init := _init(config)) not in KEEPS_BASE | RECOMPUTED:
        raise _error(name, f"changed its base when it was made ({_shown(init)})", _CONVERT)
    if config.get("sample_at_inference"):
        what = "draws its weights in every forward (sample_at_inference)"
        raise _error(name, what, "leave sample_at_inference out of its adapter_config.json")
    _check_unknown(name, config, str(kind), known)


def _check_kind(name: str, kind: Any) -> None:
    if kind in NO_WEIGHTS:
        raise _error(name, f"is {kind}, which {NO_WEIGHTS[kind]}", "train a LoRA adapter instead")
    if kind not in KINDS:
        cure = "merge it into a copy of its base, save that, and declare it as a model"
        raise _error(name, f"is {kind}, a kind of adapter that is not known here", cure)


def _check_refused(name: str, config: Mapping[str, Any]) -> None:
    for field, what in REFUSED.items():
        if is_set(config, field):
            cure = "train a LoRA adapter without it"
            raise _error(name, f"{what} ({field}), which no weights of a model can have", cure)


def _check_unknown(
    name: str, config: Mapping[str, Any], kind: str, known: frozenset[str] | set[str]
) -> None:
    for field, value in config.items():
        if field not in known | REFUSED.keys() and is_set(config, field):
            if value in ({}, _installed_default(kind, field)):
                continue
            by = f" by peft {version}" if (version := config.get("peft_version")) else ""
            problem = f"was saved{by} with {shortened(field)}: {quoted(value)}"
            cure = "merge it into its base with that peft"
            raise _error(name, f"{problem}, a field that is not known here", cure)


def _init(config: Mapping[str, Any]) -> str:
    return str(config.get("init_lora_weights", True)).lower()


def _shown(init: str) -> str:
    return f"init_lora_weights: {init}"


def is_set(config: Mapping[str, Any], field: str) -> bool:
    """Whether a configuration says anything in a field."""
    value = config.get(field)
    return not (value is None or value is False or value in ([], ""))


def _installed_default(kind: str, field: str) -> Any:
    """The default of the installed peft; None where there is no such field, or no peft."""
    if find_spec("peft") is None:
        return None
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

    for found in dataclasses.fields(CONFIGS[kind]) if kind in CONFIGS else ():
        if found.name == field and found.default is not dataclasses.MISSING:
            return found.default
    return None


def _error(name: str, what: str, cure: str) -> ModelError:
    return ModelError(f"the adapter {name} {what}", cure, name, "adapters")
