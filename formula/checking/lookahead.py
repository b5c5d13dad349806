"""A ``rerank`` that looks ahead: it judges continuations, and so is a search of its own."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from ...grammar import Call, Name, Node, Number, Tuple
from ...grammar.errors import Marked
from ..words.arguments import MatchedArguments
from ..words.stages import Lookahead, Rerank, Stage

WITHOUT = {  # what rerank takes, but not with ahead
    ("keep", "all"): ("only the candidates have continuations", "leave keep out"),
    ("norm", "prefix"): ("the text before has no continuation to judge", "write norm=center"),
}


class LookaheadChecker(Marked):
    """Tells a ``rerank`` that looks ahead from others, and checks it."""

    matched: dict[Call, MatchedArguments]
    known_before: Callable[[Node, str], None]

    def stage_of(self, call: Call, cls: type[Stage]) -> type[Stage]:
        """The class itself, or what it is with ``ahead``.

        Raises:
            FormulaError: it has an argument that does not go with ``ahead``.
        """
        arguments = self.matched[call].single
        if cls is not Rerank or arguments.get("ahead", Number(Fraction(0))) == Number(Fraction(0)):
            return cls
        for key, node in arguments.items():
            if isinstance(node, Name) and (key, node.name) in WITHOUT:
                why, cure = WITHOUT[key, node.name]
                raise self.error(f"{key}={node.name} is not for ahead: {why}", node.span, cure)
            for each in node.items if isinstance(node, Tuple) else (node,):
                self.known_before(each, f"{key} of {cls.name}, which looks ahead,")
        return Lookahead
