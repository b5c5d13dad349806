"""What to write instead of arguments of transformers, OpenAI and vLLM that ``generate`` lacks."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypedDict

from ...errors import ArgumentTypeError
from ...grammar import did_you_mean


class SamplerFields(TypedDict, total=False):
    """Fields of a request as transformers and the local-model servers have them.

    Each is one for all rows, or a list with one per prompt, as a stage of that request.

    Attributes:
        no_repeat_ngram_size: as in transformers, before the formula's own stages; 0 is off.
        typical_p, epsilon_cutoff, eta_cutoff: as in transformers, after the formula's own stages
            and ``min_p``.
        top_n_sigma, xtc_probability, xtc_threshold: as in llama.cpp, after those.
        dry_multiplier, dry_base, dry_allowed_length: as in llama.cpp, before the formula's own
            stages; a multiplier of 0 is off.
        dry_sequence_breakers: strings; no match goes over a token that has one of them, neither
            in these stages nor in a ``dry`` of the formula's own.
    """

    no_repeat_ngram_size: int | Sequence[int] | None
    typical_p: float | Sequence[float] | None
    epsilon_cutoff: float | Sequence[float] | None
    eta_cutoff: float | Sequence[float] | None
    top_n_sigma: float | Sequence[float] | None
    xtc_probability: float | Sequence[float] | None
    xtc_threshold: float | Sequence[float] | None
    dry_multiplier: float | Sequence[float] | None
    dry_base: float | Sequence[float] | None
    dry_allowed_length: int | Sequence[int] | None
    dry_sequence_breakers: Sequence[str] | Sequence[Sequence[str]] | None


OURS = (
    "prompts", "max_new_tokens", "temperature", "do_sample", "seed", "params",
    "num_return_sequences", "stop_strings", "eos_token_id", "logprobs", "top_logprobs",
    "logprobs_mode", "draft", "draft_length", "sample_components", "return_particles",
    "structured_outputs", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", *SamplerFields.__annotations__, "logit_bias", "min_tokens",
    "ignore_eos", "stop_token_ids",
    "include_stop_str_in_output", "skip_special_tokens", "chat_template_kwargs", "tools",
    "add_generation_prompt", "continue_final_message", "batch_size", "progress",
)  # fmt: skip
_SAME = {  # by our name, theirs
    "max_new_tokens": ("max_tokens", "max_completion_tokens", "max_gen_toks", "max_new_token"),
    "num_return_sequences": ("n", "num_samples"),
    "stop_strings": ("stop", "stop_texts", "stop_sequence", "stop_sequences", "until"),
    "min_tokens": ("min_new_tokens",),
    "prompts": ("inputs", "input_ids", "text_inputs", "messages", "sentences"),
    "seed": ("generator",),
    "typical_p": ("typical", "typ_p"),
    "no_repeat_ngram_size": ("no_repeat_ngram",),
    "draft_length": ("num_assistant_tokens", "num_speculative_tokens"),
}
_CURES = {
    "a row is one text; write a search in the formula: … | blockwise(r, beams=…)": (
        "num_beams", "num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping",
    ),
    "it counts the prompt as well; give max_new_tokens": ("max_length",),
    "write it in the formula: base@neg + g*(base - base@neg)": (
        "guidance_scale", "negative_prompt_ids", "negative_prompt_attention_mask",
    ),
    "leave it out; token ids are lists of their own lengths, and nothing is padded": (
        "attention_mask", "pad_token_id", "position_ids",
    ),
    "leave it out; every model keeps its own cache": ("use_cache", "past_key_values"),
    "leave it out; a formula has no such way to decode": (
        "penalty_alpha", "dola_layers", "synced_gpus", "output_attentions", "output_hidden_states",
    ),
    'declare it among the models, and name it: draft="small"': (
        "assistant_model", "assistant_tokenizer", "speculative_config", "speculative_model",
    ),
    'write draft="prompt", and how many as draft_length': (
        "prompt_lookup_num_tokens", "max_matching_ngram_size",
    ),
    'write structured_outputs={"json": schema}': (
        "guided_json", "json_schema", "response_format", "format", "schema", "json",
        "guided_decoding", "output_type",
    ),
    'write structured_outputs={"regex": "…"}': ("guided_regex", "regex", "pattern"),
    'write structured_outputs={"choice": ["…", "…"]}': ("guided_choice", "choice", "choices"),
    'write structured_outputs={"grammar": "…"}, in llguidance\'s Lark': (
        "guided_grammar", "grammar", "grammar_string",
    ),
    'write structured_outputs={"json": schema, "whitespace_pattern": "…"}': (
        "guided_whitespace_pattern", "whitespace_pattern",
    ),
    "write for piece in decoder.stream(prompt, …)": ("streamer", "stream"),
    "give logprobs=True, or ask decoder.scores(prompt, token_ids)": (
        "output_scores", "output_logits", "return_dict_in_generate",
    ),
}  # fmt: skip
HINTS = {name: f"it is called {own} here" for own, names in _SAME.items() for name in names}
HINTS |= {name: cure for cure, names in _CURES.items() for name in names}


def refuse(others: Mapping[str, Any], params: Collection[str]) -> None:
    """Refuse arguments that ``generate`` does not take.

    Raises:
        TypeError: for the first of them, with what to write instead.
    """
    for name, value in others.items():
        raise ArgumentTypeError(f"generate has no argument {name}; {_cure(name, value, params)}")


def _cure(name: str, value: Any, params: Collection[str]) -> str:
    if name in params:
        return f"it is a parameter of the formula: give params={{{name!r}: {value!r}}}"
    if name in HINTS:
        return HINTS[name]
    from transformers import GenerationConfig, GenerationMixin

    arguments = inspect.signature(GenerationMixin.generate).parameters
    if name in {*GenerationConfig().to_dict(), *arguments}:
        call = f"model.generate(…, custom_generate=decoder, {name}=…)"
        return f"transformers' own generate takes it: {call}"
    return did_you_mean(name, OURS)
