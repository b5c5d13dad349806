"""What ``generate`` is called with, made regular: one value per row, and no surprises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..grammar import did_you_mean
from ..models import is_one

_FORMULA_ARGUMENTS = ("top_k", "top_p", "min_p", "repetition_penalty")


def rows_of(
    prompts: Any, defaults: Mapping[str, Any], params: Mapping[str, Any] | None, known: set[str]
) -> list[tuple[Any, dict[str, float]]]:
    """One prompt and its parameters per row.

    Args:
        prompts: one prompt or a list.
        defaults: the parameters' values from ``compile``.
        params: the call's own: numbers, or lists with one value per prompt.
        known: the names that a parameter may have.

    Raises:
        ValueError: an unknown parameter, or lists of different lengths.
    """
    prompts = _plain(prompts)
    many = [prompts] if is_one(prompts) or not isinstance(prompts, Sequence) else list(prompts)
    given = {**defaults, **(params or {})}
    for name in given:
        if name not in known:
            cure = did_you_mean(name, known)
            raise ValueError(f"the formula has no parameter {name}" + (f"; {cure}" if cure else ""))
    lists = {k: list(v) for k, v in given.items() if isinstance(v, Iterable)}
    if lists and len(many) == 1:
        many *= max(map(len, lists.values()))
    for name, values in lists.items():
        if len(values) != len(many):
            raise ValueError(
                f"{name} has {len(values)} values and there are {len(many)} prompts; "
                "give one number, one value per prompt, or one prompt"
            )
    return [
        (_plain(prompt), {**given, **{name: values[i] for name, values in lists.items()}})
        for i, prompt in enumerate(many)
    ]


def _plain(prompt: Any) -> Any:
    """Token ids in a tensor or an array, as lists."""
    return prompt.tolist() if hasattr(prompt, "tolist") else prompt


def temperature_of(temperature: float | None, do_sample: bool | None) -> float:
    """0 for the best token, or what the scores are divided by before drawing."""
    if do_sample is False:
        return 0.0
    if temperature is None:
        return 1.0 if do_sample else 0.0
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; it must be finite and not negative")
    return float(temperature)


def per_row(value: Any, rows: int, what: str) -> list[Any]:
    """One value for every row, or the value of each."""
    if value is None or isinstance(value, int):
        return [value] * rows
    values = list(value)
    if len(values) != rows:
        raise ValueError(f"{what} has {len(values)} values and there are {rows} rows")
    return values


def stop_strings_of(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Stop strings, none of them empty."""
    strings = (value,) if isinstance(value, str) else tuple(value or ())
    if "" in strings:
        raise ValueError("an empty stop string would end every row at once")
    return strings


def eos_of(value: int | Sequence[int] | None) -> frozenset[int] | None:
    """The ids that end a row, or None for the models' own."""
    if value is None:
        return None
    return frozenset((value,) if isinstance(value, int) else value)


def refuse(others: Mapping[str, Any]) -> None:
    """Say where an argument that ``generate`` does not take belongs."""
    for name, value in others.items():
        if name in _FORMULA_ARGUMENTS:
            raise TypeError(f"{name} is part of the formula: write … | {name}({value})")
        raise TypeError(f"generate has no argument {name}")
