"""The checker: names, operators and their arguments, each mistake marked where it is written.

It runs before any algebra, because spans do not survive sympy, and leaves the tree as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...grammar import (
    Added,
    Binary,
    Call,
    Mapping,
    Name,
    Node,
    Number,
    Pipeline,
    Prompted,
    Text,
    Tuple,
    Unary,
    text,
)
from ...grammar.errors import did_you_mean
from ...grammar.tree import left_spine
from ...grammar.unrolled import Steps, unrolled
from ..names import ANSWER_LENGTH, IN_A_STEP, NOIMAGE, NONE, SCALAR_FUNCTIONS, STATE, Names, called
from ..words.arguments import MatchedArguments, match_arguments
from ..words.hints import is_known, operator_hint, stage_hint
from ..words.operators import OPERATORS, STAGED, Head
from ..words.signature import Signature
from ..words.stages import STAGES, Particles, Search, Stage
from .additions import AdditionChecker
from .conditions import CONDITIONS, ConditionChecker
from .constraints import ConstraintChecker
from .heads import HeadChecker
from .rewards import RewardChecker
from .stages import StageChecker

DECLARE = 'declare it under prompts, or write the prompt itself: base@"…"'
PROMPTS, EXTENDING = (  # answers that an error refers to
    f"descant docs how-do-i#{name}" for name in ("negative-prompts", "extending")
)


class Checker(
    AdditionChecker,
    ConditionChecker,
    ConstraintChecker,
    HeadChecker,
    StageChecker,
    RewardChecker,
):
    """Finds the kind of every expression in one formula, or raises.

    Attributes:
        matched: the arguments of each call of a stage or an operator, by the call.
    """

    def __init__(self, source: str, names: Names) -> None:
        super().__init__()
        self.source, self.names = source, names
        self.matched: dict[Call, MatchedArguments] = {}
        self._kinds: dict[int, bool] = {}  # by id: the tree outlives its checker

    def check_scores(self, node: Node) -> bool:
        """Whether an expression is scores over the vocabulary; else it is one number.

        Raises:
            FormulaError: anything that is wrong with it.
        """
        known = self._kinds.get(id(node))
        return unrolled(self.is_scores(node)) if known is None else known

    def check_stage(self, call: Call) -> type[Stage]:
        """Check one stage of a chain; its class."""
        return unrolled(self.stage(call))

    def is_scores(self, node: Node) -> Steps[bool]:
        """As ``check_scores``, for what checks the nodes around it; a node is checked once."""
        if id(node) not in self._kinds:
            self._kinds[id(node)] = yield self._is_scores(node)
        return self._kinds[id(node)]

    def _is_scores(self, node: Node) -> Steps[bool]:
        """Whether an expression is scores over the vocabulary; else it is one number.

        Raises:
            FormulaError: an undeclared name, an argument that an operator does not take, or a node
                that cannot stand where it stands.
        """
        match node:
            case Number():
                return False
            case Name():
                return self.name(node)
            case Added():
                yield self.added(node)
                return True
            case Prompted():
                return bool((yield self._prompted(node)))
            case Unary() | Binary() if node.op in CONDITIONS:
                what, cure = "condition", "a condition goes first in where(condition, x, y)"
            case Unary():
                return bool((yield self.is_scores(node.operand)))
            case Binary():
                head, chain = left_spine(node)
                scores = yield self.is_scores(head)
                for binary in chain:
                    right = yield self.is_scores(binary.right)
                    scores = yield self._binary(binary, scores, right)
                return bool(scores)
            case Call():
                return bool((yield self._call(node)))
            case Pipeline():
                yield self.scores(node.head, "a stage")
                for stage in node.stages:
                    if why := (yield self.stage(stage)).why_last:
                        problem = f"{stage.function.name} {why}"
                        raise self.error(problem, stage.span, "put it at the end of the formula")
                return True
            case Text():
                what, cure = "string", 'a system prompt follows a model: base@"You are kind."'
            case Tuple():
                what, cure = "pair", "pairs are written as arguments, as in clamp=(0, 1)"
            case Mapping():
                what, cure = "mapping", "it is an argument of logit_bias({50256: -100})"
        raise self.error(f"a {what} stands where scores are expected", node.span, cure)

    def scalar(self, node: Node, what: str, static: bool = False) -> Steps[None]:
        """Check that a node is a number; ``static``: one that is known before a step."""
        if (yield self.is_scores(node)):
            problem = f"{what} takes a number, and {text(node)} is a model"
            raise self.error(problem, node.span, "write a number or a declared parameter")
        if static:
            self.known_before(node, what)

    def known_before(self, node: Node, what: str) -> None:
        """Refuse a number of the state in a number that is needed before a step."""
        if state := self._state_in(node):
            problem = f"{what} is needed before a step, and {text(state)} is known within it"
            raise self.error(problem, state.span, "write a number or a declared parameter")

    def _state_in(self, node: Node) -> Node | None:
        """The first number of the state in a checked expression."""
        todo = [node]
        while todo:
            match todo.pop():
                case Name(name) as found if name not in self.names.params and name in STATE:
                    return found
                case Call(function) as found if function.name in (*STATE, Head.name):
                    return found
                case Call(function, arguments) if function.name in SCALAR_FUNCTIONS:
                    todo += [argument.value for argument in reversed(arguments)]
                case Unary(_, operand):
                    todo.append(operand)
                case Binary(_, left, right):
                    todo += [right, left]
        return None

    def name(self, node: Name) -> bool:
        name = node.name
        if name in self.names.params or STATE.get(name) == 0:
            return False
        self.refuse_head(node)
        if self.names.is_model(name):
            return True
        if name == ANSWER_LENGTH:
            problem, cure = (
                "is a number of a reward",
                f"write it in one: best_of(rm - 0.01*{name}, n=4)",
            )
        elif name == NONE:
            problem, cure = "is not a model", "model@none is a model that sees no prompt"
        elif name == NOIMAGE:
            problem, cure = "is not a model", "model@noimage is a model that sees no images"
        elif name in called():
            problem, cure = "needs its arguments", f"write {name}(…) with what it works on"
        elif name in STAGES:
            problem, cure = "is a stage", f"stages follow a bar: … | {name}(…)"
        elif name in self.names.prompts:
            problem, cure = "is a prompt", f"a prompt follows a model: base@{name}"
        else:
            problem, cure = "is not declared", did_you_mean(name, self.names.all())
            cure = cure if cure.endswith("?") else f"declare it, as a model or a parameter; {cure}"
        raise self.error(f"{name} {problem}", node.span, cure)

    def _prompted(self, node: Prompted) -> Steps[bool]:
        if isinstance(node.model, Prompted):
            yield self._prompted(node.model)
        elif isinstance(node.model, Added):
            yield self.added(node.model)
        elif not self.name(node.model):
            problem = f"{node.model.name} is a parameter, and only a model can have a prompt"
            raise self.error(problem, node.model.span)
        if isinstance(node.prompt, Name):
            prompt = node.prompt.name
            if prompt not in (NONE, NOIMAGE, *self.names.prompts):
                known, span = {*self.names.prompts, NONE, NOIMAGE}, node.prompt.span
                cure = did_you_mean(prompt, known) if self.names.prompts else DECLARE
                more = "" if cure.endswith("?") else PROMPTS  # none for a misspelt word
                raise self.error(f"no prompt is named {prompt}", span, cure, more)
        return True

    def _binary(self, node: Binary, left: bool, right: bool) -> Steps[bool]:
        if node.op in CONDITIONS:
            return bool((yield self.is_scores(node)))
        if not (left or right):
            return False
        divides = node.op == "/" and not right
        if node.op in "+-" or (node.op == "*" and not (left and right)) or divides:
            return True
        x, y = text(node.left), text(node.right)
        match node.op:
            case "*":
                problem = "scale a model, not multiply two models"
                cure = f"write {x} + {y} to combine them"
            case "/":
                problem = "divide a model by a number, not by a model"
                cure = f"write {x} - {y} for a ratio of probabilities"
            case _:
                problem = "not raise a model to a power"
                power = f"{y}*{x} raises its probabilities to that power"
                cure = "the exponent must be a number" if right else power
        raise self.error(f"a formula may {problem}", node.span, cure)

    def _call(self, node: Call) -> Steps[bool]:
        name = node.function.name
        if name in STATE:
            yield self._state(node)
            return False
        if name in SCALAR_FUNCTIONS and not (yield self._takes_scores(node)):
            for value in self.plain_arguments(node):
                yield self.scalar(value, name)
                if name not in IN_A_STEP and (state := self._state_in(value)):
                    problem = f"{name} is worked out before a step, and {text(state)} within it"
                    cure = f"of the state there are {', '.join(sorted(IN_A_STEP))}"
                    raise self.error(problem, state.span, cure)
            return False
        if name in OPERATORS:
            yield self._arguments(node, OPERATORS[name])
            if name == Head.name:
                return self.head(self.matched[node].single["v"]).gives_scores
        elif name in STAGED:
            yield self._staged(node)
        elif name in STAGES:
            cure = f"stages follow a bar: … | {name}(…)"
            raise self.error(f"{name} is a stage, not an operator", node.span, cure)
        else:
            known = self.names.is_model(name) or name in self.names.params
            cure = f"{name} takes no arguments" if known else operator_hint(name, called())
            more = "" if known or cure.endswith("?") or is_known(name) else EXTENDING
            raise self.error(f"there is no operator {name}", node.function.span, cure, more)
        return True

    def _state(self, node: Call) -> Steps[None]:
        """Check a number of the state: as many scores as it is of."""
        name = node.function.name
        if (count := STATE[name]) == 0:
            raise self.error(f"{name} takes no arguments", node.span, f"write {name}")
        usage = f"write {name}({', '.join(('base', 'arm')[:count])})"
        plain = all(each.name is None and each.weight is None for each in node.arguments)
        if not plain or len(node.arguments) != count:
            what = "scores" if count == 1 else "two scores"
            raise self.error(f"{name} takes {what}", node.span, usage)
        for argument in node.arguments:
            yield self.scores(argument.value, name)

    def _takes_scores(self, node: Call) -> Steps[bool]:
        """Whether max or min is over scores; both in one call is an error."""
        if node.function.name not in OPERATORS:
            return False
        scores: list[bool] = []
        for argument in node.arguments:
            scores.append((yield self.is_scores(argument.value)))
        if len(set(scores)) > 1:
            odd = node.arguments[scores.index(False)]
            problem = f"{node.function.name} is over models or over numbers, not over both"
            raise self.error(problem, odd.span)
        return any(scores)

    def plain_arguments(self, node: Call) -> list[Node]:
        """The arguments of a scalar function, as many as it takes."""
        name = node.function.name
        for argument in node.arguments:
            if argument.name is not None or argument.weight is not None:
                raise self.error(f"{name} takes plain arguments", argument.span)
        least, most = SCALAR_FUNCTIONS[name]
        if not least <= len(node.arguments) <= most:
            wanted = "one number" if most == 1 else "two numbers or more"
            raise self.error(f"{name} takes {wanted}, not {len(node.arguments)}", node.span)
        return [argument.value for argument in node.arguments]

    def _staged(self, node: Call) -> Steps[None]:
        """``top_k(x, 10)``: scores, and then what the stage of that name takes."""
        name = node.function.name
        if not node.arguments:
            cure = f"write {name}(base, …)"
            raise self.error(f"{name} of scores needs them", node.span, cure)
        first = node.arguments[0]
        if first.name is not None or first.weight is not None:
            raise self.error(f"{name} takes the scores first", first.span)
        yield self.scores(first.value, name)
        yield self._arguments(node, STAGES[name], after=1)

    def stage(self, call: Call) -> Steps[type[Stage]]:
        """As ``check_stage``, for what checks the nodes around it."""
        name = call.function.name
        if name not in STAGES:
            span, cure = call.function.span, stage_hint(name, STAGES)
            more = "" if cure.endswith("?") or is_known(name) else EXTENDING
            raise self.error(f"there is no stage {name}", span, cure, more)
        yield self._arguments(call, STAGES[name])
        return self.stage_of(call, STAGES[name])

    def _arguments(self, call: Call, cls: type[Signature], after: int = 0) -> Steps[None]:
        """Every argument of a call but the first few, against the signature."""
        matched = match_arguments(replace(call, arguments=call.arguments[after:]), cls, self.source)
        self.matched[call] = matched
        for key, node in matched.single.items():
            yield self._argument(cls, key, node, cls.arguments()[key].metadata)
        for argument in self.scores_among(cls, matched.many):
            if argument.weight is not None:
                yield self.scalar(argument.weight, f"a weight of {cls.name}")
            yield self.scores(argument.value, cls.name)

    def _argument(self, cls: type[Signature], key: str, node: Node, item: Any) -> Steps[None]:
        what = f"{key} of {cls.name}"
        static = issubclass(cls, Search) or item.get("static", False)
        match item["kind"]:
            case "number":
                yield self.scalar(node, what, static)
            case "scores":
                yield self.scores(node, what)
            case "model":
                scores = yield self.is_scores(node)
                if not scores or not isinstance(node, (Name, Added, Prompted)):
                    cure = "around each model of another vocabulary, and the rest outside"
                    if cls is Head:
                        cure = "around each model, and what is done to its scores outside"
                    problem = f"{cls.name} takes one model, and {text(node)} is not one"
                    raise self.error(problem, node.span, f"write {cls.name}(…) {cure}")
            case "head":
                self.head(node)
            case "source":
                self.constraint_text(cls, node)
            case "condition":
                yield self.condition(node)
            case "reward":
                yield self.reward(node, cls.name, what if static else "", cls is not Particles)
            case "choice":
                if not (isinstance(node, Name) and node.name in item["options"]):
                    options = " or ".join(item["options"])
                    raise self.error(f"{what} is {options}, not {text(node)}", node.span)
            case "by_token":
                yield self.by_token(node, cls.name)
            case "pair":
                if not (isinstance(node, Tuple) and len(node.items) == 2):
                    raise self.error(f"{what} takes two numbers", node.span, f"write {key}=(0, 1)")
                for bound in node.items:
                    yield self.scalar(bound, what)
            case "string":
                if not (isinstance(node, Text) and node.value):
                    problem = f"{what} is a text in quotes, not {text(node)}"
                    raise self.error(problem, node.span, f'write {key}="\\n\\n"')
            case "label":
                index = isinstance(node, Number) and node.value.denominator == 1
                if not (index or isinstance(node, (Text, Name))):
                    raise self.error(f"{what} is the number or the name of a class", node.span)

    def scores(self, node: Node, what: str) -> Steps[None]:
        """Check that a node is scores."""
        if not (yield self.is_scores(node)):
            problem = f"{what} takes scores, and {text(node)} is a number"
            raise self.error(problem, node.span, "write a model, or a formula over models")
