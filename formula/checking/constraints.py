"""What constrains an answer: schemas and grammars, declared or quoted, patterns, and texts.

Whether a pattern, a schema or a grammar compiles is known once there is a vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...grammar import Argument, Name, Node, Span, Text, text
from ...grammar.errors import Marked, did_you_mean
from ..names import Names
from ..words.constraints import ConstraintStage, Source

_ONE = {"schemas": "schema", "grammars": "grammar", "": "pattern"}


class ConstraintChecker(Marked):
    """Checks the arguments of ``json``, ``regex``, ``grammar`` and ``choice``."""

    names: Names

    def constraint_text(self, cls: Any, node: Node) -> Source:
        """The text that a constraint is given.

        Raises:
            FormulaError: an undeclared name, neither a name nor a string, or no JSON schema.
        """
        takes = cls.takes
        declared: Mapping[str, Any] = getattr(self.names, takes) if takes else {}
        if isinstance(node, Text):
            return Source(self._checked(takes, node.value, node.span))
        if takes and isinstance(node, Name):
            if node.name in declared:
                value = declared[node.name]
                return Source(self._checked(takes, value, node.span, node.name), node.name)
            cure = did_you_mean(node.name, declared)
            if not cure.endswith("?"):
                cure = f"declare it under {takes}, or write it as a string: {cls.name}('…')"
            raise self.error(f"no {_ONE[takes]} is named {node.name}", node.span, cure)
        problem = f"{cls.name} takes a {_ONE[takes]}, and {text(node)} is none"
        cure = f"write a name that is declared under {takes}, or a string" if takes else ""
        raise self.error(problem, node.span, cure or f'write a string: {cls.name}("[0-9]+")')

    def choices(self, cls: Any, arguments: Sequence[Argument]) -> tuple[str, ...]:
        """The strings that a constraint is given."""
        values = []
        for argument in arguments:
            if not isinstance(argument.value, Text) or argument.weight is not None:
                problem = f"{cls.name} takes strings, and {text(argument.value)} is none"
                raise self.error(problem, argument.span, f'write {cls.name}("yes", "no")')
            values.append(argument.value.value)
        return tuple(dict.fromkeys(values))

    def scores_among(self, cls: Any, arguments: Sequence[Argument]) -> Sequence[Argument]:
        """Those of a call's unnamed arguments that are scores: all, or none, and checked."""
        if not issubclass(cls, ConstraintStage):
            return arguments
        self.choices(cls, arguments)
        return ()

    def _checked(self, takes: str, value: Any, span: Span, name: str = "") -> str:
        """The text of a declared or quoted value; of a schema, canonical JSON."""
        what = name or "this"
        if takes == "schemas":
            try:
                schema = json.loads(value) if isinstance(value, str) else value
                if isinstance(schema, dict | bool):
                    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
                problem = f"{what} is JSON and no schema, which is an object"
            except json.JSONDecodeError as error:
                problem = f"{what} is not JSON: {error.msg} at character {error.pos + 1}"
            except (TypeError, ValueError, RecursionError) as error:
                problem = f"{what} is not JSON: {error}"
            raise self.error(problem, span, "write a JSON schema")
        if not isinstance(value, str):
            problem = f"{what} is a {type(value).__name__}, and a {_ONE[takes]} is text"
            raise self.error(problem, span)
        return value
