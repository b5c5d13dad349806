"""Merged adapters of a run file: each name stands for its base with the sum in brackets.

``merge: {soup: (1-a)*help + a*harm}`` makes of the formula ``base + soup`` the formula
``base + base[(1 - a)*help + a*harm]`` (rewarded soups, Ramé et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

from ..errors import DescantError
from ..grammar import FormulaError, parse, text
from ..grammar.frozen import Frozen
from ..grammar.tree import Added, Binary, Name, Node, Prompted
from ..grammar.unrolled import Steps, unrolled
from ..models.checkpoint.spec import ModelSpec
from .linear import Sum


def bases_of(
    merge: Mapping[str, str], models: Mapping[str, ModelSpec], params: Iterable[str]
) -> dict[str, str]:
    """The base of each merged model, which the parts of its sum are on.

    Raises:
        ValueError: no weighted sum of adapters and vectors on one model.
    """
    bases: dict[str, str] = {}
    for name, written in merge.items():
        try:
            parts = Sum(written, models, params).names
        except DescantError as error:
            raise ValueError(f"merge.{name}: {error}") from None
        found = {models[part].on for part in parts}
        base = found.pop()
        if found or base is None:
            raise ValueError(f"merge.{name}: only adapters and vectors on one model are merged")
        if any(models[part].merge for part in parts):
            raise ValueError(f"merge.{name}: a sum is of adapters; leave out their merge: true")
        bases[name] = base
    return bases


@lru_cache(maxsize=256)
def with_brackets(formula: str, merges: tuple[tuple[str, str, str], ...]) -> str:
    """A formula in which each merged name is its base with a sum in brackets.

    Args:
        formula: as written; what is no formula stays as it is, for its own error.
        merges: names, their bases and their sums.
    """
    try:
        sums = {name: Added(Name(base), parse(written)) for name, base, written in merges}
        tree = parse(formula)
        written = unrolled(_replaced(tree, sums))
        return formula if written == tree else text(written)
    except FormulaError:
        return formula


def _replaced(node: Any, sums: Mapping[str, Added]) -> Steps[Any]:
    match node:
        case Name(name) if name in sums:
            return sums[name]
        case Added(Name(name), additions) if name in sums:
            merged = sums[name]
            more = yield _in_brackets(additions, sums)
            return replace(merged, additions=Binary("+", merged.additions, more))
        case Added(_, additions):
            return replace(node, additions=(yield _in_brackets(additions, sums)))
        case Prompted(model):
            return replace(node, model=(yield _replaced(model, sums)))
    return (yield _rebuilt(node, sums, _replaced))


def _in_brackets(node: Any, sums: Mapping[str, Added]) -> Steps[Any]:
    """The same, where a merged name stands for its sum alone."""
    if isinstance(node, Name):
        return sums[node.name].additions if node.name in sums else node
    return (yield _rebuilt(node, sums, _in_brackets))


def _rebuilt(node: Any, sums: Mapping[str, Added], step: Any) -> Steps[Any]:
    """A node with other parts; a call keeps its own name, and an argument its keyword."""
    changed: dict[str, Any] = {}
    for each in fields(node):
        value = getattr(node, each.name)
        if each.name in ("function", "name", "span"):
            continue
        if isinstance(value, Frozen):
            changed[each.name] = yield step(value, sums)
        elif isinstance(value, tuple) and value and isinstance(value[0], Frozen):
            parts: list[Node] = []
            for part in value:
                parts.append((yield step(part, sums)))
            changed[each.name] = tuple(parts)
    return replace(node, **changed) if changed else node
