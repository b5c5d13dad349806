"""What of a plan a fit by texts can differentiate, and how: checked before anything is read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from ...formula import Plan
from ...formula.nodes import Linear, Read, Staged, numbers, short_text, walk
from ...formula.scalar import Apply, Constant, Scalar, StateNumber, factors_of, has
from ...formula.scalar import parameters as parameters_of
from ...formula.words import operators, stages
from ...grammar import FormulaError, Span

SMOOTH = (
    operators.Max, operators.Min, operators.Mix, operators.PowerMean, operators.Mean,
    operators.Temp, operators.Debias, operators.Where,
)  # fmt: skip
CURE = 'fit it by rewards, objective="reward", or keep it out of bounds'
ONE = Constant(Fraction(1))


@dataclass(frozen=True)
class Summand:
    """One part of a sum: a coefficient, which parameters alone decide, times scores.

    Attributes:
        coefficient: an expression of parameters.
        node: the scores, in which no parameter is.
        number: of the state, that they are multiplied by as they are read; or None.
        scalar: the coefficient as the plan has it.
    """

    coefficient: Any
    node: Any
    number: Scalar | None
    scalar: Scalar

    @property
    def name(self) -> str:
        """As a reader would write it, without the coefficient."""
        text = written(self.node)
        return text if self.number is None else f"{self.number}*{text}"


def check(plan: Plan, fitted: Collection[str]) -> None:
    """Refuse what has no derivative by the fitted parameters.

    Raises:
        FormulaError: marked at the parameter, or at the stage.
    """
    if plan.search is not None or plan.reranks:
        chooser = plan.search[1] if plan.search else plan.reranks[0][1]
        raise _stage_error(plan, chooser, "chooses among texts or candidates by a reward")
    for stage in plan.stages:
        if not isinstance(stage, stages.Temperature):
            raise _stage_error(plan, stage, "has no derivative where it follows the formula")
    for term in plan.terms:
        for number, _ in term.additions:
            for name in parameters_of(number.expression) & set(fitted):
                why = f"the weights that {term} adds are other ones for every {name}"
                raise _error(plan, name, f"{why}, and have no derivative here")
    for node in plan.nodes:
        _check_node(plan, node, fitted)


def _check_node(plan: Plan, node: Any, fitted: Collection[str]) -> None:
    names = depends(node, fitted)
    if not names or isinstance(node, Linear | Read | operators.Head):
        return
    name = sorted(names)[0]
    if isinstance(node, Staged) or not isinstance(node, SMOOTH):
        word = "a stage in parentheses" if isinstance(node, Staged) else f"{_name(node)}(…)"
        raise _error(plan, name, f"{word} depends on {name}, and has no derivative by it")
    if isinstance(node, operators.Where) and depends(node.condition, fitted):
        raise _error(plan, name, f"a condition of where(…) depends on {name}: its value jumps")


def depends(node: Any, fitted: Collection[str]) -> set[str]:
    """The fitted parameters in a node and below it."""
    held = [node] if isinstance(node, Scalar) else [n for each in walk(node) for n in numbers(each)]
    inner: list[Any] = [*held]
    for number in held:
        inner += [n for state in number.states for of in state.of for each in walk(of)  # type: ignore[arg-type]
                  for n in numbers(each)]  # fmt: skip
    return {name for number in inner for name in parameters_of(number.expression)} & set(fitted)


def summands(plan: Plan, fitted: Collection[str]) -> list[Summand] | None:
    """The plan as a sum of scores in which no fitted parameter is; None where it is none."""
    if plan.stages or not isinstance(plan.scores, Linear):
        return None
    found = []
    for scalar, node in plan.scores.parts:
        factors = factors_of(scalar.expression)
        of_state = tuple(each for each in factors if has(StateNumber, each))
        of_params = tuple(each for each in factors if each not in of_state)
        number = None
        if of_state:
            product = of_state[0] if len(of_state) == 1 else Apply("*", of_state)
            number = Scalar(product, scalar.what, span=scalar.span)
            if depends(number, fitted) or parameters_of(product):
                return None
        if depends(node, fitted):
            return None
        coefficient = of_params[0] if len(of_params) == 1 else Apply("*", of_params or (ONE,))
        found.append(Summand(coefficient, node, number, scalar))
    return found


def written(node: Any) -> str:
    """Scores as a reader would write them, without arguments and numbers."""
    if isinstance(node, Linear):
        return " + ".join(written(part) for _, part in node.parts)
    return short_text(node)


def without_each(plan: Plan) -> Iterator[tuple[Scalar, Any, Any]]:
    """Every weighted part of the outermost sum or mixture, and the scores without it.

    Yields:
        Its coefficient, the part, and what the scores are without.
    """
    node: Any = plan.scores
    wrapped: list[Any] = []
    while True:
        parts = getattr(node, "parts", None)
        if isinstance(node, Linear) and len(node.parts) == 1 and node.parts[0][0].expression == ONE:
            wrapped.append(node)
            node = node.parts[0][1]
        elif isinstance(node, operators.Mean | operators.Temp):
            wrapped.append(node)
            node = node.x
        else:
            break
    if not isinstance(node, Linear | operators.Mix | operators.PowerMean) or len(parts or ()) < 2:
        return
    for index, (number, part) in enumerate(node.parts):
        scores: Any = replace(node, parts=(*node.parts[:index], *node.parts[index + 1 :]))
        for outer in reversed(wrapped):
            if isinstance(outer, Linear):
                scores = Linear(((outer.parts[0][0], scores),), outer.shift)
            else:
                scores = replace(outer, x=scores)
        yield number, part, scores


def _stage_error(plan: Plan, stage: Any, why: str) -> FormulaError:
    start = plan.source.rfind(_name(stage))
    span = Span(max(start, 0), max(start, 0) + len(_name(stage)))
    return plan.error(f"{_name(stage)} {why}: texts cannot fit this formula", span, CURE)


def _error(plan: Plan, name: str, problem: str) -> FormulaError:
    return plan.error(problem, plan.use(name), CURE)


def _name(word: Any) -> str:
    return str(getattr(word, "name", type(word).__name__.lower()))
