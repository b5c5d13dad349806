"""The arguments of ``generate`` as one value per row, checked."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

from ...errors import ArgumentError, quoted
from ...formula.algebra.drafting import AUTO, LONGEST_DRAFT, PROMPT
from ...formula.request_fields import (
    AFTER,
    BEFORE,
    REPEATS,
    SEQUENCE_BREAKERS,
    FieldStage,
    Group,
    fields_of,
)
from ...formula.words.signature import LEAST, MOST
from ...grammar import did_you_mean
from ...models import prompts_of
from ...models.errors import page_link
from .request import ADAPTIVE, PROCESSED, RAW, DraftOptions, TextOptions

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


def eos_of(
    value: int | Sequence[int] | None, vocabulary: int, name: str = "eos_token_id"
) -> frozenset[int] | None:
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
        raise ArgumentError(f"{name} is {quoted(text)}, and a token id is a number; {cure}")
    ids = frozenset(integer(name, each) for each in values)
    for token in sorted(ids):
        if not 0 <= token < vocabulary:
            size = f"the vocabulary has {vocabulary} tokens, so that no row would end"
            raise ArgumentError(f"{name} is {token}, and {size}")
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


class RowFields(NamedTuple):
    """The fields of one row's request.

    Attributes:
        params: the values of those that are numbers, by their parameters; without temperature.
        logit_bias: by token.
        ends: ids that end it, besides those of the models or of the call; or none but these.
        ignores_eos: whether these are all.
        text: what of its answer is text.
        dry_sequence_breakers: strings that end a match of ``dry``.
    """

    params: Mapping[str, float]
    logit_bias: Mapping[int, float]
    ignores_eos: bool
    text: TextOptions
    dry_sequence_breakers: Sequence[str] = SEQUENCE_BREAKERS

    def eos(self, own: frozenset[int]) -> frozenset[int]:
        """The ids that end the row, of whom the models or the call have these."""
        return self.text.stop_token_ids | (frozenset() if self.ignores_eos else own)


NUMBERS = {each.field: each for each in (*BEFORE, *REPEATS, *AFTER[1:])}
OTHERS = (
    "logit_bias", "ignore_eos", "stop_token_ids", "include_stop_str_in_output",
    "skip_special_tokens", "dry_sequence_breakers",
)  # fmt: skip
FIELDS = (*NUMBERS, *OTHERS)


def row_fields(
    arguments: Mapping[str, Any],
    temperatures: Sequence[float],
    vocabulary: int,
    group: Group,
) -> list[RowFields]:
    """The fields of every row, checked, for a plan with the stages of a group.

    Raises:
        ArgumentError: a value that a field cannot have; a field that the plan has no stage for.
    """
    rows, asked = len(temperatures), fields_of({**arguments, "do_sample": any(temperatures)}, False)
    if any(wanted and not has for wanted, has in zip(asked, group, strict=True)):
        raise ArgumentError("this formula was bound without the fields that a request asks for")
    columns = {
        name: _numbers(field, arguments, rows, vocabulary) for name, field in NUMBERS.items()
    }
    before, after = BEFORE * group.before + REPEATS * group.repeats, AFTER[1:] * group.after
    named = [each.field for each in (*before, *after)]
    biases = _biases(arguments.get("logit_bias"), rows, vocabulary)
    ignored, included, skipped = (
        _flags(name, arguments.get(name), rows, default)
        for name, default in (
            ("ignore_eos", False),
            ("include_stop_str_in_output", False),
            ("skip_special_tokens", True),
        )
    )
    breakers = _breakers(arguments.get("dry_sequence_breakers"), rows)
    stops = _stop_ids(arguments.get("stop_token_ids"), rows, vocabulary)
    return [
        RowFields(
            {NUMBERS[name].parameter: columns[name][row] for name in named},
            biases[row], ignored[row],
            TextOptions(
                stops[row], included[row], skipped[row], int(columns["min_tokens"][row])
            ),
            breakers[row],
        )
        for row in range(rows)
    ]  # fmt: skip


def _numbers(
    field: FieldStage, arguments: Mapping[str, Any], rows: int, vocabulary: int
) -> list[float]:
    """The value of a field for each row; neutral where there is none."""
    values, name, neutral = [], field.field, field.neutral
    for value in per_row(arguments.get(name), rows, name):
        if value is None or value in field.unchanged:
            values.append(float(vocabulary if neutral is None else neutral))
            continue
        if not _is_number(value):
            raise ArgumentError(f"{name} is {quoted(value)}; it is a number")
        if problem := field.limits.problem(float(value)):
            raise ArgumentError(f"{name} is {value:g}, and {problem}")
        values.append(min(float(value), vocabulary) if field.limits.tokens else float(value))
    return values


def _biases(value: Any, rows: int, vocabulary: int) -> list[Mapping[int, float]]:
    """A bias by token for each row."""
    each_row = [value] * rows if value is None or isinstance(value, Mapping) else value
    if isinstance(each_row, str) or not isinstance(each_row, Sequence):
        raise ArgumentError(f"logit_bias is {quoted(value)}; give {{token id: number}}")
    if len(each_row) != rows:
        raise ArgumentError(f"logit_bias has {len(each_row)} values and there are {rows} rows")
    biases: list[Mapping[int, float]] = []
    for row in each_row:
        if not isinstance(row, Mapping | None):
            raise ArgumentError(f"logit_bias has {quoted(row)}; give {{token id: number}}")
        bias: dict[int, float] = {}
        for key, number in (row or {}).items():
            digits = isinstance(key, str) and key.isdecimal()  # the keys of JSON are text
            token = integer("a token id of logit_bias", int(key) if digits else key)
            if not 0 <= token < vocabulary:
                size = f"the vocabulary has {vocabulary} tokens"
                raise ArgumentError(f"logit_bias has the token id {token}, and {size}")
            if not _is_number(number):
                raise ArgumentError(f"logit_bias has {quoted(number)} for {token}; give a number")
            bias[token] = float(number)
        biases.append(bias)
    return biases


def _breakers(value: Any, rows: int) -> list[Sequence[str]]:
    """The strings that end a match of ``dry`` in each row."""
    name = "dry_sequence_breakers"
    each_row = value if _is_list(value) and not any(isinstance(i, str) for i in value) else None
    if each_row is None or not each_row:
        each_row = [value] * rows
    elif len(each_row) != rows:
        raise ArgumentError(f"{name} has {len(each_row)} lists and there are {rows} rows")
    for row in each_row:
        if row is not None and not (_is_list(row) and all(isinstance(i, str) and i for i in row)):
            raise ArgumentError(f'{name} is {quoted(row)}; give a list of strings, ["\\n", ":"]')
    return [SEQUENCE_BREAKERS if row is None else tuple(row) for row in each_row]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_number(value: Any) -> bool:
    """Whether float32 holds it."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and abs(float(value)) <= MOST


def _flags(name: str, value: Any, rows: int, default: bool) -> list[bool]:
    """True or false for each row."""
    values = [default if each is None else each for each in per_row(value, rows, name)]
    if wrong := [each for each in values if not isinstance(each, bool)]:
        raise ArgumentError(f"{name} is {quoted(wrong[0])}, and it is true or false")
    return values


def _stop_ids(value: Any, rows: int, vocabulary: int) -> list[frozenset[int]]:
    """The ids that stop each row: the same for all, or a list with those of each."""
    value = as_python(value)
    if value is None or isinstance(value, str) or not isinstance(value, Iterable):
        each_row: list[Any] = [value] * rows
    else:
        several = [*value]
        nested = any(each is None or isinstance(each, Iterable) for each in several)
        each_row = several if nested else [several] * rows
    if len(each_row) != rows:
        raise ArgumentError(f"stop_token_ids has {len(each_row)} lists and there are {rows} rows")
    return [eos_of(ids, vocabulary, "stop_token_ids") or frozenset() for ids in each_row]
