"""Where a formula names a declared head: last in ``head(x, v)``, and nowhere else."""

from __future__ import annotations

from ...grammar import Name, Node, text
from ...grammar.errors import Marked, did_you_mean
from ..names import DeclaredHead, Names

DECLARE = "declare one under models: {head: own, on: base, layer: 16}"


class HeadChecker(Marked):
    """Checks the names of heads."""

    names: Names

    def head(self, node: Node) -> DeclaredHead:
        """The declared head of this name.

        Raises:
            FormulaError: there is none.
        """
        heads = self.names.heads
        if isinstance(node, Name):
            if node.name in heads:
                return heads[node.name]
            if not (node.name in self.names.params or self.names.is_model(node.name)):
                cure = did_you_mean(node.name, heads) or DECLARE
                raise self.error(f"no head is named {node.name}", node.span, cure)
        problem = f"head takes a declared head last, and {text(node)} is none"
        raise self.error(problem, node.span, DECLARE)

    def refuse_head(self, node: Name) -> None:
        """Refuse a head where a model stands."""
        if node.name in self.names.heads:
            cure = f"write head({self.names.heads[node.name].on}, {node.name})"
            raise self.error(f"{node.name} is a head, and not a model", node.span, cure)
