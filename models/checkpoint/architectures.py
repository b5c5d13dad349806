"""Which architectures can take part, by transformers' own code, before weights are read.

A lane caches keys and values by position, and its rows are causal. What an architecture caches and
sees follows from its configuration and its class; the only names are those that the tests cover.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    DynamicCache,
)

from ..errors import ModelError
from .reward_head import auto_class, class_names, mapped_class

LANGUAGE = (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM)
SELECTING = ("index_topk", "index_topk_blocks", "keep_window_size")  # the keys that a query sees
INDEXED = "DynamicIndexedLayer"  # keys beside them by which queries choose: those are kept, too
BY_POSITION = {"DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer", INDEXED}
STATES = {
    "LinearAttentionLayer", "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
}  # fmt: skip
# Families whose code in transformers goes on from a state by one token at a time only ...
ONE_FORWARD = frozenset({"falcon_mamba", "jamba", "mamba", "recurrent_gemma", "zamba"})
# ... or makes something else of several tokens than of each in turn: time steps are cut off.
BY_TOKEN = ONE_FORWARD | {"nemotron_h", "zamba2"}
TERMS = frozenset(  # tests/models/checkpoint/test_architectures.py runs each of these
    """
    afmoe apertus arcee axk2 bailing_hybrid bamba biogpt bitnet bloom codegen cohere cohere2
    ctrl cwm deepseek_v2 deepseek_v3 deepseek_v32 diffllama dots1 ernie4_5 ernie4_5_moe exaone4
    falcon falcon_h1 falcon_mamba flex_olmo gemma gemma2 gemma3_text gemma3n_text gemma4_text
    glm glm4 glm4_moe glm_moe_dsa gpt2 gpt_bigcode gpt_neox gpt_oss gptj granite granitemoe
    granitemoehybrid helium hunyuan_v1_dense hy_v4 jamba jetmoe kimi_linear lfm2 lfm2_moe lfm3
    llama llama4_text longcat_flash mamba mamba2 minicpm3 minimax minimax_m2 ministral ministral3
    mistral mixtral modernbert-decoder mpt nanochat nemotron nemotron_h olmo olmo2 olmo3
    olmo_hybrid olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_5_moe_text
    qwen3_5_text qwen3_moe qwen3_next recurrent_gemma seed_oss smollm3 stablelm starcoder2
    vaultgemma xglm youtu zamba zamba2 zaya
    """.split()  # noqa: SIM905
)
IMAGE_TEXT = frozenset(  # tests/models/loading/test_image_text.py loads each of these
    """
    aria aya_vision cohere2_vision exaone4_5 gemma3 gemma4 glm46v glm4v glm4v_moe glm_ocr got_ocr2
    idefics2 idefics3 internvl lfm2_vl lighton_ocr llama4 llava llava_next llava_onevision
    minicpmv4_6 mistral3 mllama ovis2 paddleocr_vl qwen2_5_omni_thinker qwen2_5_vl qwen2_audio
    qwen2_vl qwen3_5 qwen3_5_moe qwen3_vl qwen3_vl_moe smolvlm vipllava voxtral
    """.split()  # noqa: SIM905
)
REWARDS = frozenset(  # and these with candidates over a shared prefix
    """
    arcee axk2 biogpt deepseek_v2 deepseek_v3 diffllama exaone4 falcon gemma gemma2 gemma3_text
    glm glm4 gpt2 gpt_bigcode gpt_neox gpt_oss gptj helium hunyuan_v1_dense jamba jetmoe llama
    minicpm3 ministral ministral3 mistral mixtral nemotron olmo olmo2 olmo3 opt persimmon phi
    phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_5_text qwen3_moe qwen3_next seed_oss smollm3
    stablelm starcoder2 zamba
    """.split()  # noqa: SIM905
)

OWN_LENGTH = "code in transformers goes by the length of the cache, which is not that of a row"
REFUSED = {  # families whose caches look as others', and why their code cannot work with these
    "inkling_text": OWN_LENGTH, "inkling2_text": OWN_LENGTH,
    "qwen4_exp_text": "code in transformers chooses among blocks of keys of one length",
}  # fmt: skip


def check_architecture(name: str, config: Any, reward: bool, model: Any = None) -> None:
    """Refuse a model, of a whole configuration or in memory, that cannot run as rows of a lane.

    Raises:
        ModelError: names the model, its architecture and the reason.
    """
    text = config.get_text_config()
    cls = type(model) if model is not None else model_class(config, reward)
    if cls is None:
        if getattr(config, "auto_map", None):  # code of its own, not loaded yet
            return
        what = "classifier" if reward else "causal language model"
        problem = f"{name} is a {config.model_type}, which transformers has no {what} for"
        autos = (auto_class(config),) if reward else LANGUAGE[:2]
        loaded = " or ".join(auto.__name__ for auto in autos)
        raise ModelError(problem, f"use a model that {loaded} loads", name)
    if _is_bidirectional(text, cls):
        problem = f"{name} is an encoder ({config.model_type}), which reads both ways"
        if not reward and text is not config:
            problem = f"{name} is a {config.model_type}, which reads its prompt both ways"
        cure = "use a causal model; encoders as reward models are not available yet"
        raise ModelError(problem, cure, name)
    layers, why = _layers(text)
    arguments = inspect.signature(cls.forward).parameters
    problem = f"is a {config.model_type}, whose "
    if text.model_type in REFUSED:
        problem += REFUSED[text.model_type]
    elif others := layers - BY_POSITION - STATES:
        kinds = set(getattr(text, "layer_types", None) or others) - {"full_attention"}
        problem += f"layers keep more than keys, values and states: {', '.join(sorted(kinds))}"
    elif why:
        problem += f"layers keep more than keys, values and states: {why}"
    elif getattr(cls, "_is_stateful", False) and not layers & STATES:
        problem += "state is kept in a way of its own, and not in transformers' cache"
    elif INDEXED not in layers and (chosen := [k for k in SELECTING if getattr(text, k, None)]):
        problem += f"attention chooses keys by their scores ({chosen[0]}), among those of a batch"
    elif needed := [key for key in arguments if _is_needed(arguments[key], key)]:
        problem += f"forward needs {needed[0]}, and not text alone"
    elif not {"past_key_values", "cache_params", "kwargs"} & {*arguments}:
        problem += "code in transformers keeps no keys and values"
    else:
        return
    cure = "use a model whose layers are attention, or keep their states in transformers' cache"
    raise ModelError(f"{name} {problem}", cure, name)


def model_class(config: Any, reward: bool) -> Any:
    """transformers' class for a configuration; None where there is none."""
    return mapped_class(auto_class(config) if reward else language_auto(config), config)


def language_auto(config: Any) -> Any:
    """The auto class that loads a language model: one whose class the configuration names.

    transformers has some image-text models as such alone, and of others the language model too,
    which is what a configuration that names neither is taken for.
    """
    classes = {auto: mapped_class(auto, config) for auto in LANGUAGE}
    names = class_names(config, None)
    mapped = [auto for auto, cls in classes.items() if cls is not None]
    named = [auto for auto in mapped if classes[auto].__name__ in names]
    return next(iter(named or mapped), AutoModelForCausalLM)


def _layers(config: Any) -> tuple[set[str], str]:
    """The kinds of cache that transformers has for the layers; and why it has none."""
    try:
        return {type(layer).__name__ for layer in DynamicCache(config=config).layers}, ""
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        return set(), str(error)


def _is_needed(argument: inspect.Parameter, name: str) -> bool:
    """Whether a forward cannot be without an argument that is not its text."""
    by_name = argument.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    return by_name and argument.default is argument.empty and name not in ("self", "input_ids")


def _is_bidirectional(config: Any, cls: Any) -> bool:
    if getattr(config, "is_causal", True) is False:
        return True
    if getattr(config, "use_bidirectional_attention", None) in (True, "all"):
        return True
    masks = hasattr(sys.modules[cls.__module__], "create_bidirectional_mask")
    return masks and getattr(config, "is_decoder", None) is False
