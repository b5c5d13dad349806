"""The planner: a formula's text to its plan, through the checker and the collector.

It decides nothing about models or devices: whether a name is a reward model, or fits the others,
is found out when the plan is bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, TypeAlias

from ..grammar import (
    Call,
    FormulaError,
    Name,
    Node,
    Number,
    Pipeline,
    Span,
    Text,
    Tuple,
    did_you_mean,
    parse,
    text,
)
from .check import LATER, Checker, Kind
from .collect import Collector
from .names import Names
from .plan import Linear, Plan, Read, Scalar
from .scalar import Constant, Expression, parameters
from .stages import LATER_STAGES, STAGES, Limits, Stage
from .terms import Term

Parts: TypeAlias = list[tuple[Term | None, Expression, Span]]
Given = dict[str, Node]


def make_plan(formula: str | Node, names: Names) -> Plan:
    """Parse, check and collect a formula.

    Args:
        formula: the text, or a tree.
        names: what its names may be.

    Raises:
        FormulaError: anything that is wrong with it, marked at the place.
    """
    tree = parse(formula) if isinstance(formula, str) else formula
    source = formula if isinstance(formula, str) else text(tree)
    if not isinstance(formula, str):
        tree = parse(source)  # for the spans
    return _Planner(source, names).plan(tree)


class _Planner:
    """Makes one plan, giving each number its index as it comes."""

    def __init__(self, source: str, names: Names) -> None:
        self.source, self.names = source, names
        self.checker = Checker(source, names)
        self.collector = Collector(source, names)
        self.scalars: list[Scalar] = []
        self.spans: dict[Term, Span] = {}
        self.dropped: list[str] = []
        self.kept: dict[str, set[Term]] = {"scores": set(), "reward": set()}

    def plan(self, tree: Node) -> Plan:
        head, calls = (tree.head, tree.stages) if isinstance(tree, Pipeline) else (tree, ())
        if self.checker.kind(head) is not Kind.SCORES:
            raise self.error(
                "this formula has no model in it", head.span, "start from one: base + 0.5*arm"
            )
        drafts = [self._arguments(call) for call in calls]
        sums = {id(head): self._sum(head, "scores")}
        for cls, given in drafts:
            for key, node in given.items():
                if cls.arguments()[key].metadata["kind"] == "reward":
                    sums[id(node)] = self._sum(node, "reward")
        terms = sorted(self.kept["scores"], key=lambda term: term.key)
        rewards = sorted(self.kept["reward"], key=lambda term: term.key)
        scores = self._place(sums[id(head)], terms)
        stages = tuple(self._stage(cls, given, sums, rewards) for cls, given in drafts)
        plan = Plan(
            tuple(terms), tuple(rewards), tuple(self.scalars), scores, stages,
            formula=text(tree), source=self.source, spans=self.spans, dropped=tuple(self.dropped),
        )  # fmt: skip
        for scalar in plan.scalars:
            if not parameters(scalar.expression):
                plan._value(scalar, {})
        return plan

    def error(self, problem: str, span: Span, cure: str = "") -> FormulaError:
        return FormulaError(problem, self.source, span, cure)

    def _sum(self, node: Node, kind: str) -> Parts:
        """Collect one expression, dropping what is identically zero."""
        parts = self.collector.collect(node)
        kept = [part for part in parts if part[1] != Constant(Fraction(0))]
        for term, _, span in parts:
            if term is not None and all(term is not part[0] for part in kept):
                self.dropped.append(f"{term} has the coefficient 0: not loaded, not run")
            elif term is not None:
                self.kept[kind].add(term)
                self.spans.setdefault(term, span)
        if all(term is None for term, _, _ in kept):
            raise self.error(
                "every model in this expression cancels out", node.span,
                "its collected coefficients are all zero",
            )  # fmt: skip
        return kept

    def _place(self, parts: Parts, terms: list[Term]) -> Linear:
        order = {term: i for i, term in enumerate(terms)}
        placed, shift = [], None
        for term, coefficient, span in sorted(parts, key=lambda part: order.get(part[0], -1)):  # type: ignore[arg-type]
            if term is None:
                shift = self._number(coefficient, "the number added to the scores", span)
            else:
                index = self._number(coefficient, f"the coefficient of {term}", span)
                placed.append((index, Read(order[term])))
        return Linear(tuple(placed), shift)

    def _number(
        self, expression: Expression, what: str, span: Span, limits: Limits | None = None
    ) -> int:
        self.scalars.append(Scalar(expression, what, limits or Limits(), span))
        return len(self.scalars) - 1

    def _arguments(self, call: Call) -> tuple[type[Stage], Given]:
        """Match a stage's arguments to its signature."""
        name = call.function.name
        if name in LATER_STAGES:
            raise self.error(f"the stage {name} {LATER}", call.span)
        if name not in STAGES:
            raise self.error(
                f"there is no stage {name}", call.function.span, did_you_mean(name, STAGES)
            )
        cls, given = STAGES[name], Given()
        signature = cls.arguments()
        for position, argument in enumerate(call.arguments):
            if argument.weight is not None:
                raise self.error(f"{name} takes no weighted arguments", argument.span)
            if argument.name is None and position >= len(signature):
                raise self.error(
                    f"{name} takes at most {len(signature)} arguments", argument.span,
                    f"its arguments are {', '.join(signature)}",
                )  # fmt: skip
            key = argument.name.name if argument.name else list(signature)[position]
            if key not in signature:
                assert argument.name is not None
                raise self.error(
                    f"{name} has no argument {key}",
                    argument.name.span,
                    did_you_mean(key, signature),
                )
            if key in given:
                raise self.error(f"{name} is given {key} twice", argument.span)
            given[key] = argument.value
        for key in cls.required():
            if key not in given:
                raise self.error(
                    f"{name} needs its argument {key}", call.span, f"write {_usage(cls)}"
                )
        for key, node in given.items():
            self._check(name, key, node, signature[key].metadata)
        return cls, given

    def _check(self, stage: str, key: str, node: Node, item: Any) -> None:
        what = f"{key} of {stage}"
        match item["kind"]:
            case "number":
                self.checker.scalar(node, what)
            case "reward":
                if self.checker.kind(node) is not Kind.SCORES:
                    raise self.error(
                        f"{stage} takes a reward model, and {text(node)} is a number", node.span,
                        f"write {stage}(reward, …) with a declared reward model",
                    )  # fmt: skip
            case "choice":
                if not (isinstance(node, Name) and node.name in item["options"]):
                    options = " or ".join(item["options"])
                    raise self.error(f"{what} is {options}, not {text(node)}", node.span)
                if node.name != item["options"][0]:
                    raise self.error(f"{key}={node.name} {LATER}", node.span)
            case "pair":
                if not (isinstance(node, Tuple) and len(node.items) == 2):
                    raise self.error(f"{what} takes two numbers", node.span, f"write {key}=(0, 1)")
                raise self.error(f"{key}= {LATER}", node.span)
            case "label":
                if not isinstance(node, (Number, Text, Name)):
                    raise self.error(f"{what} is the number or the name of a class", node.span)
                raise self.error(f"{key}= {LATER}", node.span)

    def _stage(
        self, cls: type[Stage], given: Given, sums: Mapping[int, Parts], rewards: list[Term]
    ) -> Stage:
        """The stage with every argument in its place, in the order of the signature."""
        made: dict[str, Any] = {}
        for key, item in cls.arguments().items():
            node = given.get(key)
            what, limits = f"{key} of {cls.name}", item.metadata.get("limits")
            match item.metadata["kind"]:
                case "reward" if node:
                    made[key] = self._place(sums[id(node)], rewards)
                case "number" if node:
                    expression = self.collector.number(node)
                    made[key] = self._number(expression, what, node.span, limits)
                case "number":
                    default = Constant(Fraction(str(item.default)))
                    made[key] = self._number(default, what, Span(0, 0), limits)
                case "choice" if isinstance(node, Name):
                    made[key] = node.name
        return cls(**made)


def _usage(cls: type[Stage]) -> str:
    required = cls.required()
    optional = [
        f"{key}={item.default:g}" if item.metadata["kind"] == "number" else f"{key}=…"
        for key, item in cls.arguments().items()
        if key not in required and item.metadata["kind"] in ("number",)
    ]
    return f"{cls.name}({', '.join([*required, *optional])})"
