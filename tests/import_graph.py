"""The import graph of the installed package: who imports whom, circles, and how deep it goes.

Every import counts, also one inside a function or under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

Graph = Mapping[str, set[str]]


def module_name(file: Path, root: Path) -> str:
    """``descant.runtime.engine.step`` for ``runtime/engine/step.py``."""
    parts = file.relative_to(root).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts if parts[0] == "descant" else ("descant", *parts))


def imported(source: str, module: str, is_package: bool, known: Iterable[str]) -> set[str]:
    """The known modules that a source imports: submodules, or the modules of single names.

    >>> imported("from ..formula.plan import Plan", "d.models.load", False, ["d.formula.plan"])
    {'d.formula.plan'}
    """
    known, package = set(known), module if is_package else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                names.add(inner if inner in known else base)
    return (names & known) - {module}


def import_graph(root: Path, folders: Iterable[str]) -> dict[str, set[str]]:
    """Every module of some folders, and the modules that it imports."""
    files = {module_name(f, root): f for folder in folders for f in (root / folder).rglob("*.py")}
    return {
        module: imported(file.read_text(encoding="utf-8"), module, file.stem == "__init__", files)
        for module, file in files.items()
    }


def circles(graph: Graph) -> list[set[str]]:
    """The sets of modules that import each other, however indirectly."""

    @cache
    def reach(start: str) -> frozenset[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for target in graph.get(todo.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        return frozenset(seen)

    together = {
        frozenset({module, *(other for other in reach(module) if module in reach(other))})
        for module in graph
        if module in reach(module)
    }
    return [set(group) for group in together]


def rooms(graph: Graph, folder: str) -> dict[str, set[str]]:
    """The modules and sub-folders directly in a folder, and which of them each imports."""

    def room(module: str) -> str | None:
        rest = module.removeprefix(f"{folder}.")
        return None if rest == module else f"{folder}.{rest.partition('.')[0]}"

    found: dict[str, set[str]] = {}
    for module, targets in graph.items():
        if (own := room(module)) is not None:
            others = {other for target in targets if (other := room(target)) is not None}
            found.setdefault(own, set()).update(others - {own})
    return found


def depth(graph: Graph, inside: str) -> list[str]:
    """The longest chain of imports among a package's modules; there must be no circle."""
    modules = {module for module in graph if module.startswith(f"{inside}.")}

    @cache
    def chain(module: str) -> tuple[str, ...]:
        below = [chain(target) for target in graph[module] if target in modules]
        return (module, *max(below, key=len, default=()))

    return list(max((chain(module) for module in modules), key=len))
