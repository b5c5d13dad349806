"""Patterns of strangers: the regular expressions of adapters, matched within a time.

peft has Python's ``re`` match them, which a hostile one, ``(a+)+$``, keeps busy for years. Here the
``regex`` package does, with a deadline, and peft gets what they match: plain names.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import regex

from ...errors import quoted
from ..errors import ModelError

SECONDS = 1.0  # for all patterns of one field
LONGEST, COUNTS = 1000, 10_000  # characters of a pattern; its {m,n} times each other, for regex
PLAIN = re.compile(r"[\w.-]*")  # a name, which matches in no time and is left as it is
_COUNT = re.compile(r"\{(\d*),?(\d*)\}")
KEY = r"(.*\.)?({})$"  # as peft looks for a module in rank_pattern and others
_CURE = "name its modules by their names, or save it with the patterns that peft's documents show"
_KEYS = {"FOURIERFT": r".*\.{}$", "C3A": r".*\.{}$", "OSF": r".*?(?:{})"}  # of other kinds
V = TypeVar("V")


class Patterns:
    """The patterns of one field, matched against names until the field's time is over.

    Args:
        name: of the adapter.
        field: of its configuration.
    """

    def __init__(self, name: str, field: str) -> None:
        self._name, self._field = name, field
        self._end = time.monotonic() + SECONDS

    def matching(self, pattern: str, names: Iterable[str], form: str = "(?:{})$") -> list[Any]:
        """The matches of a pattern at the beginning of names, in their order.

        Args:
            pattern: a regular expression.
            names: of modules.
            form: what peft puts around the pattern.

        Raises:
            ModelError: no regular expression, or one that takes too long.
        """
        repeats = _COUNT.findall(pattern[:LONGEST])
        counts = (max(int(count or 1) for count in repeat) for repeat in repeats)
        if len(pattern) > LONGEST or math.prod(counts) > COUNTS:
            raise self._error(pattern, "is too long, or has too many repetitions in each other")
        expression = form.format(pattern)
        try:
            re.compile(expression)  # peft's words are those of re
            compiled = regex.compile(expression)
            found = (self._match(compiled, name) for name in names)
            return [match for match in found if match]
        except (re.error, regex.error, RecursionError, OverflowError) as error:
            raise self._error(pattern, f"is no regular expression: {error}") from None
        except TimeoutError:
            raise self._error(pattern, f"takes longer than {SECONDS:g} s to match names") from None

    def _match(self, compiled: Any, name: str) -> Any:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return compiled.match(name, timeout=left)

    def _error(self, pattern: str, what: str) -> ModelError:
        problem = f"{self._field} of the adapter {self._name} has {quoted(pattern)}, which {what}"
        return ModelError(problem, _CURE, self._name, "adapters")


def first_values(
    name: str, field: str, values: Mapping[str, V], names: Iterable[str]
) -> dict[str, V]:
    """For each name that a key of a field matches, the value of the first such key, as in peft.

    Raises:
        ModelError: a key that is no regular expression, or takes too long.
    """
    patterns, found, left = Patterns(name, field), dict[str, V](), list(names)
    for key, value in values.items():
        matches = {match.string for match in patterns.matching(key, left, KEY)}
        found |= dict.fromkeys(matches, value)
        left = [module for module in left if module not in matches]
    return found


def resolved(name: str, config: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """The fields of a configuration whose patterns are more than names, in names alone.

    Args:
        name: of the adapter.
        config: peft's.
        names: of the base's modules and parameters, as peft calls them.

    Raises:
        ModelError: a pattern that is none, takes too long, or stands where peft takes names.
    """
    fields: dict[str, Any] = {}
    for field in ("target_modules", "exclude_modules", "feedforward_modules"):
        pattern = config.get(field)
        if isinstance(pattern, str) and not PLAIN.fullmatch(pattern):
            matches = Patterns(name, field).matching(pattern, names)
            fields[field] = _one_of(match.string for match in matches)
    form = _KEYS.get(str(config.get("peft_type")), KEY)
    for field, values in config.items():
        if field.endswith("_pattern") and isinstance(values, dict):
            patterns, keys = Patterns(name, field), dict[str, Any]()
            for key, value in values.items():
                if not PLAIN.fullmatch(key):
                    matches = patterns.matching(key, names, form)
                    key = _exactly(match.string for match in matches)
                keys.setdefault(key, value)  # in peft, too, the first counts
            fields[field] = keys
    for field in ("layers_pattern", "modules_to_save"):
        listed = config.get(field) or []
        for item in listed if isinstance(listed, list) else [listed]:
            if not (isinstance(item, str) and PLAIN.fullmatch(item)):
                problem = f"{field} of the adapter {name} has {quoted(item)}, which is no name"
                raise ModelError(problem, "name the modules", name, "adapters")
    return {field: value for field, value in fields.items() if value != config[field]}


def _one_of(names: Iterable[str]) -> str:
    """A pattern that matches these names alone, where a name has to match in full."""
    return "|".join(map(re.escape, names)) or "(?!)"


def _exactly(names: Iterable[str]) -> str:
    """A pattern that matches these names alone, whatever peft puts before it to take their start.

    What a name has before its last part is looked for behind, and nothing may be before that.
    """
    parts = []
    for name in names:
        start, dot, last = name.rpartition(".")
        before = re.escape(start + dot)
        parts.append(rf"(?<={before})(?<![\s\S]{before}){re.escape(last)}\Z")
    return f"(?:{'|'.join(parts)})" if parts else "(?!)"
