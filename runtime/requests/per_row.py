"""The arguments of ``generate`` as one value per row, checked."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ...errors import ArgumentError, quoted
from ...formula.algebra.drafting import AUTO, LONGEST_DRAFT, PROMPT
from ...formula.words.signature import LEAST, MOST
from ...grammar import did_you_mean
from ...models import prompts_of
from ...models.errors import page_link
from .request import ADAPTIVE, PROCESSED, RAW, DraftOptions

_MORE = page_link("per-request-weights")
MODES = (RAW, PROCESSED)
Row: TypeAlias = tuple[Any, dict[str, float]]  # a prompt, and a value for every parameter


def rows_of(
    prompts: Any, defaults: Mapping[str, Any], params: Mapping[str, Any] | None, known: set[str]
) -> list[Row]:
    """One prompt and its parameters per row: the call's own, or else the defaults.

    Raises:
        ValueError: an unknown parameter, or lists of different lengths.
    """
    many = prompts_of(prompts)
    merged = {**defaults, **{name: as_python(value) for name, value in (params or {}).items()}}
    for name, value in merged.items():
        if name not in known:
            cure = did_you_mean(name, known)
            raise ArgumentError(
                f"the formula has no parameter {name}" + (f"; {cure}" if cure else "")
            )
        if isinstance(value, str):
            raise ArgumentError(
                f"{name} is {quoted(value)}; a parameter is a number, or a list of numbers"
            )
    lists = {k: list(v) for k, v in merged.items() if isinstance(v, Iterable)}
    if lists and len(many) == 1:
        many *= max(map(len, lists.values()))
    for name, values in lists.items():
        if len(values) != len(many):
            cure = "give one number, one value per prompt, or one prompt"
            counts = f"{len(values)} values and there are {len(many)} prompts"
            raise ArgumentError(f"{name} has {counts}; {cure}\nmore: {_MORE}")
    return [
        (prompt, {**merged, **{name: values[i] for name, values in lists.items()}})
        for i, prompt in enumerate(many)
    ]


def integer(name: str, value: Any) -> int:
    """A whole number of Python's, numpy's or torch's, by a ValueError that names another value."""
    try:
        if isinstance(value := as_python(value), bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name} is {quoted(value)}; it is a whole number") from None


def at_least_one(name: str, value: Any) -> int:
    """A count as Python's number, by a ValueError that names one below 1."""
    if (count := integer(name, value)) < 1:
        raise ArgumentError(f"{name} is {count}; it must be at least 1")
    return count


def as_python(value: Any) -> Any:
    """A tensor or an array as lists of Python's numbers, or as one."""
    return value.tolist() if hasattr(value, "tolist") else value


def temperature_of(temperature: float | None, do_sample: bool | None) -> float:
    """0 for the best token, or what the scores are divided by before drawing.

    Below ``LEAST`` it is 0, as in vLLM: float32 cannot divide scores by it.
    """
    if do_sample is False:
        return 0.0
    if temperature is None:
        return 1.0 if do_sample else 0.0
    if isinstance(temperature, bool) or not 0 <= temperature <= MOST:
        problem = f"temperature is {quoted(temperature)}; it must be finite and not negative"
        raise ArgumentError(f"{problem}, and at most {MOST:g}")
    return float(temperature) if temperature >= LEAST else 0.0


def per_row(value: Any, rows: int, what: str) -> list[Any]:
    """One value for every row, or the value of each."""
    value = as_python(value)
    if value is None or isinstance(value, (int, float)):
        return [value] * rows
    values = None if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    if values is None or any(isinstance(item, str) for item in values):
        raise ArgumentError(
            f"{what} is {quoted(value)}; it is a number, or a list with one per row"
        )
    if len(values) != rows:
        raise ArgumentError(f"{what} has {len(values)} values and there are {rows} rows")
    return values


def stop_strings_of(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Stop strings, none of them empty."""
    if isinstance(value, bytes) or not isinstance(value, Iterable | None):
        raise ArgumentError(f"stop_strings is {quoted(value)}; give a text, or a list of texts")
    strings = (value,) if isinstance(value, str) else tuple(value or ())
    for string in strings:
        if not isinstance(string, str):
            raise ArgumentError(f"stop_strings has {quoted(string)}; a stop string is text")
    if "" in strings:
        raise ArgumentError("an empty stop string would end every row at once")
    return strings


def eos_of(value: int | Sequence[int] | None, vocabulary: int) -> frozenset[int] | None:
    """The ids that end a row, or None for the models' own.

    Raises:
        ValueError: what is no id, or one that is never drawn.
    """
    if (value := as_python(value)) is None:
        return None
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    values = [*value] if several else [value]
    if text := next((each for each in values if isinstance(each, str | bytes)), None):
        cure = f"give its id: tokenizer.convert_tokens_to_ids({quoted(text)})"
        raise ArgumentError(f"eos_token_id is {quoted(text)}, and a token id is a number; {cure}")
    ids = frozenset(integer("eos_token_id", each) for each in values)
    for token in sorted(ids):
        if not 0 <= token < vocabulary:
            size = f"the vocabulary has {vocabulary} tokens, so that no row would end"
            raise ArgumentError(f"eos_token_id is {token}, and {size}")
    return ids


def logprobs_of(logprobs: bool, top: int, mode: str, vocabulary: int) -> dict[str, Any]:
    """What a request says of log-probabilities, checked."""
    if not isinstance(logprobs, bool):
        cure = f"write logprobs=True, top_logprobs={logprobs}"
        raise ArgumentError(f"logprobs is {quoted(logprobs)}, and it is true or false; {cure}")
    if mode not in MODES:
        logits = "logits" in str(mode)  # vLLM has two modes more
        cure = "decoder.scores gives scores" if logits else did_you_mean(str(mode), MODES)
        raise ArgumentError(f"logprobs_mode is {quoted(mode)}; it is {' or '.join(MODES)}; {cure}")
    if not 0 <= (top := integer("top_logprobs", top)) <= vocabulary:
        raise ArgumentError(
            f"top_logprobs is {top}; it is 0 to {vocabulary}, the vocabulary's size"
        )
    if top and not logprobs:
        raise ArgumentError("top_logprobs come with logprobs=True")
    return {"logprobs": logprobs, "top_logprobs": top, "logprobs_mode": mode}


def draft_of(draft: Any, draft_length: Any) -> DraftOptions | None:
    """The options of a call, checked; None without a draft.

    Raises:
        ArgumentError: no text, or no length; a length without a draft.
    """
    length = None if draft_length in (None, ADAPTIVE) else _draft_length(draft_length)
    if draft is None:
        if length is not None:
            raise ArgumentError("draft_length says how many tokens draft proposes; give draft, too")
        return None
    if not isinstance(draft, str):
        if hasattr(draft, "node"):  # an expression of descant.lang
            return DraftOptions(str(draft), length)
        cure = f'give a formula over the declared models, "{PROMPT}" or "{AUTO}"'
        raise ArgumentError(f"draft is {quoted(draft)}; {cure}")
    return DraftOptions(draft.strip(), length)


def served_draft(
    arguments: Mapping[str, Any], own: str | None, most: int
) -> tuple[DraftOptions | None, dict[str, Any]]:
    """The draft of a request where drafts are served, and the other arguments.

    Args:
        arguments: of the request.
        own: who drafts there, also for requests that do not say.
        most: tokens of a draft.

    Raises:
        ArgumentError: as ``draft_of``; another draft, or a longer one.
    """
    others = {k: v for k, v in arguments.items() if k not in ("draft", "draft_length")}
    options = draft_of(arguments.get("draft", own), arguments.get("draft_length"))
    if options is None:
        return None, others
    if options.source != own:
        problem = f"draft is {options.source}, and {own or 'nobody'} drafts for this decoder"
        raise ArgumentError(f"{problem}; ask the service for one with this draft")
    if options.longest > most:
        raise ArgumentError(f"draft_length is {options.longest}; here it is at most {most}")
    return options, others


def _draft_length(value: Any) -> int:
    if isinstance(value, str):
        problem = f"draft_length is {quoted(value)}"
        raise ArgumentError(f'{problem}; it is a whole number, or "{ADAPTIVE}"')
    if not 1 <= (length := integer("draft_length", value)) <= LONGEST_DRAFT:
        cure = "leave draft out to decode without" if length == 0 else "give fewer"
        raise ArgumentError(f"draft_length is {length}; it is 1 to {LONGEST_DRAFT}: {cure}")
    return length
