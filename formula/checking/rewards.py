"""Reward expressions: one number of each text, made of rewards, of log-probabilities in searches.

Inside one every model is one number, so that ``max(rm1, rm2)`` is the larger of two, and scores
over the vocabulary are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...grammar import (
    Added,
    Binary,
    Call,
    Mapping,
    Name,
    Node,
    Pipeline,
    Prompted,
    Text,
    Tuple,
    Unary,
    text,
)
from ...grammar.errors import Marked, did_you_mean
from ...grammar.tree import left_spine
from ...grammar.unrolled import Steps, unrolled
from ..names import ANSWER_LENGTH, IN_A_STEP, SCALAR_FUNCTIONS, STATE, Names
from ..words.operators import OPERATORS, STAGED, Align, Head
from ..words.stages import STAGES
from .conditions import CONDITIONS

REWARDS = "descant docs how-do-i#two-reward-models"  # the answer that an error refers to
WRITE = f"write a function of rewards: + - * / ** {' '.join(sorted(IN_A_STEP))} {ANSWER_LENGTH}"
ALONE = "a reward expression"  # where no stage has it
ONE_NUMBER, OF_TEXT, WITH_MODEL = range(3)  # without what differs by text, with it, with a model


class RewardChecker(Marked):
    """Checks reward expressions; its subclass checks the names and the numbers in them."""

    names: Names
    is_scores: Callable[[Node], Steps[bool]]
    known_before: Callable[[Node, str], None]
    plain_arguments: Callable[[Call], list[Node]]

    def __init__(self) -> None:
        self._levels: dict[int, int] = {}  # by id: the tree outlives its checker

    def varies(self, node: Node) -> bool:
        """Whether a checked part of a reward expression is another number for each text."""
        return self._levels.get(id(node), ONE_NUMBER) > ONE_NUMBER

    def check_reward(self, node: Node) -> None:
        """Check a reward expression by itself."""
        unrolled(self.reward(node, ALONE, "a reward"))

    def reward(
        self, node: Node, stage: str, argument: str = "", with_model: bool = True
    ) -> Steps[None]:
        """Check the reward expression of a stage.

        Args:
            node: the expression.
            stage: the name, for errors; or ``ALONE``.
            argument: of one that judges whole texts, the argument's name: no step is there for a
                number of the state.
            with_model: whether there has to be a model in it.
        """
        if (yield self._number_in(node, stage)) < WITH_MODEL and with_model:
            what = "a number" if node != Name(ANSWER_LENGTH) else "no model"
            problem = f"{stage} takes a reward model, and {text(node)} is {what}"
            cure = f"write {stage}(reward, …) with a declared reward model"
            if stage == ALONE:
                cure = "write declared reward models: 0.7*rm_help + 0.3*rm_safe"
            raise self.error(problem, node.span, cure)
        if argument:
            self.known_before(node, f"{argument} judges whole texts: a number in it")

    def _number_in(self, node: Node, stage: str) -> Steps[int]:
        if id(node) not in self._levels:
            self._levels[id(node)] = yield self._checked_in(node, stage)
        return self._levels[id(node)]

    def _checked_in(self, node: Node, stage: str) -> Steps[int]:
        """Check a part of a reward expression; what its number depends on."""
        match node:
            case Name(name) if name == ANSWER_LENGTH:
                return OF_TEXT
            case Name() | Added() | Prompted():
                return WITH_MODEL if (yield self.is_scores(node)) else ONE_NUMBER
            case Unary("-" | "+", operand):
                level: int = yield self._number_in(operand, stage)
                return level
            case Binary(op) if op not in CONDITIONS:
                head, chain = left_spine(node)
                level = yield self._number_in(head, stage)
                for binary in chain:
                    if binary.op in CONDITIONS:
                        break
                    level = max(level, (yield self._number_in(binary.right, stage)))
                    self._levels[id(binary)] = level
                else:
                    return level
            case Call(function):
                level = yield self._function(node, function.name, stage)
                return level
            case Pipeline() | Text() | Tuple() | Mapping() | Unary() | Binary():
                pass
            case _:
                return ONE_NUMBER
        raise self._refused(node, stage)

    def _function(self, node: Call, name: str, stage: str) -> Steps[int]:
        if name == Align.name:
            yield self.is_scores(node)
            return WITH_MODEL
        if name in STATE or self._is_probe(node):
            yield self.is_scores(node)
            return ONE_NUMBER
        if name not in SCALAR_FUNCTIONS:
            if name in (*OPERATORS, *STAGED, *STAGES):
                raise self._refused(node, stage)
            cure = did_you_mean(name, SCALAR_FUNCTIONS)
            known = self.names.is_model(name) or name in self.names.params
            known |= name == ANSWER_LENGTH
            cure = f"{name} takes no arguments" if known else cure
            raise self.error(f"there is no function {name}", node.function.span, cure)
        level = ONE_NUMBER
        for value in self.plain_arguments(node):
            level = max(level, (yield self._number_in(value, stage)))
        if level == ONE_NUMBER:
            yield self.is_scores(node)
        elif name not in IN_A_STEP:
            problem = f"{name} is worked out before a step, and a reward is known after it"
            cure = f"of rewards there are {', '.join(sorted(IN_A_STEP))}"
            raise self.error(problem, node.span, cure)
        return level

    def _is_probe(self, node: Call) -> bool:
        """Whether a call is a head that gives a number."""
        if node.function.name != Head.name or len(node.arguments) < 2:
            return False
        last = node.arguments[-1].value
        head = self.names.heads.get(last.name) if isinstance(last, Name) else None
        return head is not None and not head.gives_scores

    def _refused(self, node: Node, stage: str) -> Any:
        """The error of what is no number of a text."""
        match node:
            case Call(function) if function.name in OPERATORS:
                what, why = function.name, "is an operator on scores"
            case Call(function) if function.name in STAGED:
                what, why = function.name, "is of scores"
            case Call(function):
                what, why = function.name, "is a stage"
            case Pipeline(stages=(first, *_)):
                what, why = first.function.name, "is a stage"
                return self._inside(what, why, first, stage)
            case Unary(op) | Binary(op):
                what, why = op, "makes a condition"
            case _:
                what, why = text(node), "is no number"
        return self._inside(what, why, node, stage)

    def _inside(self, what: str, why: str, node: Node, stage: str) -> Any:
        problem = f"{what} {why}, and inside {stage} every name is one number of a text"
        return self.error(problem, node.span, WRITE, REWARDS)
