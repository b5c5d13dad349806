"""What to write instead of words that people know, where the nearest name would mislead."""

from __future__ import annotations

from collections.abc import Iterable

from ...grammar.errors import did_you_mean

_ARE_LOGPROBS = "a name is its log-probabilities already: write base"
_IS_WHERE = "write where(condition, x, y)"
_DRAWN = "it is an argument of generate"
_PARTS = {
    _ARE_LOGPROBS: ("softmax", "log_softmax", "logsoftmax", "logprobs", "log_probs", "logits"),
    "write base + arm: scores are added by +": ("sum", "add", "logsum"),
    "write mean(base + arm), or mix(0.5: base, 0.5: arm) of probabilities": (
        "avg", "average", "interpolate", "lerp",
    ),
    "write mix(0.5: base, 0.5: arm), which adds probabilities": ("logsumexp", "logaddexp"),
    "write mean(base + arm), which divides by the sum of the coefficients": ("norm", "normalize"),
    _IS_WHERE: ("cond", "if_else", "ifelse", "gate", "switch"),
    "write the coefficient with min and max of numbers: min(max(a, 0), 1)*base": ("clip", "clamp"),
    "write min(step, 2) or a condition, where(step < 2, x, y): numbers are not rounded": (
        "floor", "round", "ceil", "int", "mod",
    ),
    "temperature 0 takes the best token: generate(…, temperature=0)": ("argmax", "greedy"),
    "write base@neg + g*(base - base@neg)": ("cfg", "guidance", "guidance_scale"),
}  # fmt: skip
_STAGES = {
    "write blockwise(r, beams=4), which searches by a reward": (
        "beam_search", "beams", "num_beams", "beam",
    ),
    "write best_of(r - 0.01*answer_length, n=4), which judges whole answers by length too": (
        "length_penalty",
    ),
    "write top_p(p)": ("nucleus", "nucleus_sampling"),
    "write temperature(t)": ("temp", "softmax"),
    "write min_tokens(n)": ("min_new_tokens", "min_length"),
    "write typical_p(p)": ("typ_p", "typical", "locally_typical"),
    "write no_repeat_ngram(n)": ("no_repeat_ngram_size", "no_repeat"),
    "write xtc(probability, threshold)": ("xtc_probability", "xtc_threshold"),
    "write dry(multiplier, base, allowed_length)": (
        "dry_multiplier", "dry_base", "dry_allowed_length",
    ),
    "write logit_bias({50256: -100}), by token ids": (
        "bad_words", "bad_words_ids", "suppress_tokens", "ban", "sequence_bias",
    ),
    "write min_p(p), which cuts by the best token's probability too": ("top_a", "tfs", "tfs_z"),
    "write typical_p(p), or top_p(p): no stage keeps a state of how surprising a text is": (
        "mirostat", "mirostat_tau", "mirostat_mode",
    ),
    f"{_DRAWN}: generate(…, temperature=1.0, seed=0)": ("sample", "do_sample", "seed"),
    f"{_DRAWN}: generate(…, max_new_tokens=64)": ("max_tokens", "max_new_tokens", "max_length"),
    f"{_DRAWN}: generate(…, stop_strings=[…])": ("stop", "stop_strings", "until"),
}  # fmt: skip
_OPERATORS_BY_NAME = {name: cure for cure, names in _PARTS.items() for name in names}
_STAGES_BY_NAME = {name: cure for cure, names in _STAGES.items() for name in names}


def operator_hint(name: str, known: Iterable[str]) -> str:
    """For a name that is called as an operator; it ends in ? where it guesses."""
    return _OPERATORS_BY_NAME.get(name) or did_you_mean(name, known)


def stage_hint(name: str, known: Iterable[str]) -> str:
    """For a name that stands after a bar."""
    return _STAGES_BY_NAME.get(name) or did_you_mean(name, known)


def is_known(name: str) -> bool:
    """Whether it is a word that people know from elsewhere."""
    return name in _OPERATORS_BY_NAME or name in _STAGES_BY_NAME
