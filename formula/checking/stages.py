"""Arguments of stages that do not go together; a ``rerank`` that looks ahead is a search."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from ...grammar import Call, Mapping, Name, Node, Number, Tuple, text
from ...grammar.errors import Marked
from ...grammar.unrolled import Steps
from ..words.arguments import MatchedArguments
from ..words.stages import BestOf, Lookahead, Reject, Rerank, Stage

WITHOUT = {  # what rerank takes, but not with ahead
    ("keep", "all"): ("only the candidates have continuations", "leave keep out"),
    ("norm", "prefix"): ("the text before has no continuation to judge", "write norm=center"),
}
# Arguments that say nothing without another: what that one is, and what to write.
NEEDS: dict[tuple[type[Stage], str], tuple[str, str]] = {
    (BestOf, "every"): ("keep", "write keep=0.5, the share of the answers that stay"),
}


class StageChecker(Marked):
    """Checks the arguments of a stage together."""

    matched: dict[Call, MatchedArguments]
    known_before: Callable[[Node, str], None]
    scalar: Callable[[Node, str], Steps[None]]

    def by_token(self, node: Node, name: str) -> Steps[None]:
        """Check an argument that is token ids with numbers; the vocabulary is not known yet."""
        if not isinstance(node, Mapping):
            problem = f"{name} takes token ids, each with a number, and not {text(node)}"
            raise self.error(problem, node.span, f"write {name}({{50256: -100}})")
        ids: set[int] = set()
        for entry in node.entries:
            token, span = entry.key.value, entry.key.span
            if token.denominator != 1:
                raise self.error("a token id is a whole number", span, f"write {int(token)}")
            if int(token) in ids:
                raise self.error(f"the token id {token} comes twice", span, "keep one of the two")
            ids.add(int(token))
            yield self.scalar(entry.value, f"a number of {name}")

    def stage_of(self, call: Call, cls: type[Stage]) -> type[Stage]:
        """The class itself, or what it is with ``ahead``.

        Raises:
            FormulaError: it has an argument that does not go with the others.
        """
        arguments = self.matched[call].single
        for key, node in arguments.items():
            other, cure = NEEDS.get((cls, key), (key, ""))
            if other not in arguments:
                problem = f"{key} of {cls.name} says nothing without {other}"
                raise self.error(problem, node.span, cure)
        by_text = cls is Reject and "until" in arguments and "entropy" not in arguments
        if by_text and "shortest" in arguments:
            problem = "shortest of reject is for segments that end by entropy, and these do not"
            raise self.error(problem, arguments["shortest"].span, "leave it out")
        zero = Number(Fraction(0))
        if cls is not Rerank or arguments.get("ahead", zero) == zero:
            return cls
        for key, node in arguments.items():
            if isinstance(node, Name) and (key, node.name) in WITHOUT:
                why, cure = WITHOUT[key, node.name]
                raise self.error(f"{key}={node.name} is not for ahead: {why}", node.span, cure)
            for each in node.items if isinstance(node, Tuple) else (node,):
                self.known_before(each, f"{key} of {cls.name}, which looks ahead,")
        return Lookahead
