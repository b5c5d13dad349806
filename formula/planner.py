"""The planner: a formula's text to its plan, through the checker and the collector.

It knows nothing of models or devices: binding checks whether a name is a reward model, or fits the
others.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

from ..grammar import (
    Binary,
    Call,
    Mapping,
    Name,
    Node,
    Number,
    Pipeline,
    Span,
    Text,
    Tuple,
    Unary,
    parse,
    text,
)
from ..grammar.unrolled import Steps, unrolled
from .algebra.rewards import RewardCollector
from .checking.checker import Checker
from .checking.conditions import CONDITIONS
from .names import Names
from .nodes import Atom, Condition, Linear, Predicate, Staged
from .plan import Plan
from .reward import RewardExpression
from .scalar import Constant, Scalar, parameters
from .words.arguments import MatchedArguments
from .words.operators import OPERATORS, STAGED, Head, Mean
from .words.signature import UNLIMITED, Limits, Signature
from .words.stages import STAGES, Lookahead, Particles, Rerank, Search, Stage, TokenBias


def make_plan(formula: str | Node, names: Names) -> Plan:
    """Parse, check and collect a formula.

    Args:
        formula: the text, or a tree.
        names: what its names may be.

    Raises:
        FormulaError: anything that is wrong with it, marked at the place.
    """
    source = formula if isinstance(formula, str) else text(formula)
    return _Planner(source, names).plan(parse(source))


def make_reward(expression: str | Node, names: Names) -> RewardExpression:
    """Parse, check and collect a reward expression that stands by itself.

    Args:
        expression: the text, or a tree.
        names: what its names may be.

    Raises:
        FormulaError: anything that is wrong with it, marked at the place.
    """
    source = expression if isinstance(expression, str) else text(expression)
    planner, tree = _Planner(source, names), parse(source)
    planner.checker.check_reward(tree)
    reward = unrolled(planner.collector.reward(tree, "the reward"))
    return RewardExpression(reward, source, planner.collector.spans)


class _Planner:
    """Makes one plan, or one reward expression."""

    def __init__(self, source: str, names: Names) -> None:
        self.checker = Checker(source, names)
        collecting = source, names, self.checker.check_scores, self._build
        self.collector = RewardCollector(*collecting, varies=self.checker.varies)
        self._built: dict[Node, Atom] = {}  # mean collects what is inside it twice

    def plan(self, tree: Node) -> Plan:
        head, calls = (tree.head, tree.stages) if isinstance(tree, Pipeline) else (tree, ())
        if not self.checker.check_scores(head):
            problem = "this formula has no model in it"
            raise self.checker.error(problem, head.span, "start from one: base + 0.5*arm")
        for call in calls:
            if issubclass(self.checker.check_stage(call), Search) and call is not calls[-1]:
                problem = f"{call.function.name} searches over whole texts: nothing can follow it"
                raise self.checker.error(problem, call.span, "put it last")
        scores = unrolled(self.collector.linear(head))
        stages = tuple(unrolled(self._stage(call)) for call in calls)
        spans = self.collector.spans
        heads = self.collector.heads
        rewards = self.collector.reward_spans
        plan = Plan(scores, stages, text(tree), self.checker.source, spans, heads, rewards)
        used = {*plan.terms, *plan.rewards, *plan.search_terms}
        unused = (term for term in spans if term not in used)
        dropped = [f"{term} has the coefficient 0: not loaded, not run" for term in unused]
        unread = (head for head in self.collector.heads if head not in plan.reads)
        dropped += [f"{head} has the coefficient 0: not worked out" for head in unread]
        added = {name for term in used for _, name in term.additions}
        left_out = (name for name in self.collector.left_out if name not in {*added, *plan.models})
        dropped += [f"{name} has the weight 0: not loaded, not added" for name in left_out]
        if all(term.aligned for term in plan.terms):
            problem = "every model here is aligned, and none says which tokens there are"
            cure = "leave align out around the model whose vocabulary it is to be"
            raise self.checker.error(problem, head.span, cure)
        plan.check([
            math.nan if parameters(scalar.expression) else plan.value(scalar, {})
            for scalar in plan.scalars
        ])  # fmt: skip
        expander = self.collector.expander
        return replace(plan, dropped=tuple(dropped), kept=expander.kept, work=expander.work)

    def _build(self, node: Call | Pipeline) -> Steps[Atom]:
        """The operator or the staged formula of a checked node."""
        if node not in self._built:
            self._built[node] = yield self._new(node)
        return self._built[node]

    def _new(self, node: Call | Pipeline) -> Steps[Atom]:
        if isinstance(node, Pipeline):
            head = yield self.collector.linear(node.head)
            stages = []
            for call in node.stages:
                stages.append((yield self._stage(call)))
            return Staged(head, tuple(stages))
        name = node.function.name
        if name in STAGED:
            stage = yield self._stage(node)
            return Staged((yield self.collector.linear(node.arguments[0].value)), (stage,))
        cls, matched = OPERATORS[name], self.checker.matched[node]
        if cls is Head:
            x, v = matched.single["x"], matched.single["v"]
            read: Atom = yield self.collector.head(x, v, node.span)
            return read
        values = yield self._fields(cls, matched, node.span)
        if cls is Mean:
            values["total"] = yield self.collector.total(matched.single["x"], node.span)
        atom: Atom = cls(**values)
        return atom

    def _stage(self, call: Call) -> Steps[Stage]:
        cls = STAGES[call.function.name]
        values = yield self._fields(cls, self.checker.matched[call], call.span)
        if self.checker.stage_of(call, cls) is Lookahead:
            named = {name: values[name] for name in Lookahead.arguments() if name in values}
            return Lookahead(values["reward"], **named)
        if cls is Rerank:
            values["ahead"] = None
        stage: Stage = cls(**values)
        return stage

    def _fields(
        self, cls: type[Signature], matched: MatchedArguments, span: Span
    ) -> Steps[dict[str, Any]]:
        """Every argument of a stage or an operator, as the plan holds it."""
        placed = any(item.name == "span" for item in fields(cls))
        values: dict[str, Any] = {"span": span} if placed else {}
        for key, item in cls.arguments().items():
            node, what = matched.single.get(key), f"{key} of {cls.name}"
            limits = item.metadata.get("limits", UNLIMITED)
            match item.metadata["kind"]:
                case "many":
                    values[key] = yield self._many(matched)
                case "weighted":
                    values[key] = yield self._weighted(matched, f"a weight of {cls.name}")
                case "scores" if node:
                    values[key] = yield self.collector.linear(node)
                case "reward" if node:
                    values[key] = yield self.collector.reward(
                        node, f"the reward of {cls.name}", cls is not Particles
                    )
                case "source" if node:
                    values[key] = self.checker.constraint_text(cls, node)
                case "texts":
                    values[key] = self.checker.choices(cls, matched.many)
                case "condition" if node:
                    values[key] = yield self._condition(node)
                case "number" if node:
                    values[key] = yield self._number(node, what, limits)
                case "number" if item.metadata.get("unless") in matched.single:
                    values[key] = None
                case "number" if item.default is not None:
                    values[key] = Scalar(Constant(Fraction(str(item.default))), what, limits)
                case "choice" if isinstance(node, Name):
                    values[key] = node.name
                case "string" if isinstance(node, Text):
                    values[key] = node
                case "by_token" if isinstance(node, Mapping):
                    values[key] = yield self._by_token(node, what)
                case "pair" if isinstance(node, Tuple):
                    low, high = node.items
                    values[key] = (yield self._number(low, what)), (yield self._number(high, what))
                case "label" if isinstance(node, Number):
                    values[key] = int(node.value)
                case "label" if isinstance(node, (Text, Name)):
                    values[key] = node.value if isinstance(node, Text) else node.name
        return values

    def _by_token(self, node: Mapping, what: str) -> Steps[tuple[TokenBias, ...]]:
        biases: list[TokenBias] = []
        for entry in node.entries:
            expression = yield self.collector.number(entry.value)
            biases.append(
                TokenBias(Scalar(expression, what, span=entry.span), int(entry.key.value))
            )
        return tuple(sorted(biases, key=lambda bias: bias.token))

    def _many(self, matched: MatchedArguments) -> Steps[tuple[Linear, ...]]:
        parts: list[Linear] = []
        for part in matched.many:
            parts.append((yield self.collector.linear(part.value)))
        return tuple(parts)

    def _weighted(
        self, matched: MatchedArguments, what: str
    ) -> Steps[tuple[tuple[Scalar, Linear], ...]]:
        parts: list[tuple[Scalar, Linear]] = []
        for part in matched.many:
            if part.weight is not None:
                weight = yield self._number(part.weight, what, Limits(0))
                parts.append((weight, (yield self.collector.linear(part.value))))
        return tuple(parts)

    def _number(self, node: Node, what: str, limits: Limits = UNLIMITED) -> Steps[Scalar]:
        return Scalar((yield self.collector.number(node)), what, limits, node.span)

    def _condition(self, node: Node) -> Steps[Condition]:
        """A checked condition, or one side of a comparison in it."""
        made: Condition
        match node:
            case Unary(op, operand) if op in CONDITIONS:
                made = yield self._predicate(op, operand)
            case Binary(op, left, right) if op in CONDITIONS:
                made = yield self._predicate(op, left, right)
            case _:
                made = yield self._number(node, "a number in a condition")
        return made

    def _predicate(self, op: str, *nodes: Node) -> Steps[Predicate]:
        parts: list[Condition] = []
        for node in nodes:
            parts.append((yield self._condition(node)))
        return Predicate(op, tuple(parts))
