"""The constraints of a plan and of its requests, for its vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

from ...extras import pip_install
from ...formula import Plan
from ...formula.nodes import Linear, Read, StageAddress, Staged
from ...formula.printer import written
from ...formula.words.constraints import ConstraintStage, cut_string
from ...grammar import FormulaError, Span
from .compiled import compiled
from .limits import ConstraintError
from .spec import Constraint
from .states import MASKED, OF_REQUEST, THOUGHT, AnswerStates
from .tokens import ConstraintTokens, constraint_tokens

Constraints: TypeAlias = Mapping[StageAddress, Constraint]


class Constrained(Protocol):
    """A request, as far as it is constrained."""

    @property
    def constraint(self) -> Constraint | None: ...
    @property
    def eos(self) -> frozenset[int]: ...
    @property
    def values(self) -> Sequence[float]: ...
    @property
    def states(self) -> dict[Any, Any]: ...


def constraint_of(stage: ConstraintStage) -> Constraint:
    """What a stage says that an answer is to fit."""
    return Constraint(stage.name, stage.text)


class PlanConstraints:
    """The constraints of one bound plan.

    Args:
        plan: of the formula.
        tokenizer, size: of its vocabulary.

    Attributes:
        stages: every constraint of the formula, by its address.
    """

    def __init__(self, plan: Plan, tokenizer: Any, size: int) -> None:
        self._plan, self._tokenizer, self._size = plan, tokenizer, size
        self._words = {at: s for at, s in plan.all_stages if isinstance(s, ConstraintStage)}
        self.stages: Constraints = {at: constraint_of(s) for at, s in self._words.items()}

    def of_plan(self, plan: Plan) -> PlanConstraints:
        """Those of another plan, for the same vocabulary."""
        return PlanConstraints(plan, self._tokenizer, self._size)

    @property
    def tokens(self) -> ConstraintTokens:
        """Those of the vocabulary."""
        return constraint_tokens(self._tokenizer, self._size)

    def check(self) -> None:
        """Compile all of them.

        Raises:
            FormulaError: one cannot be, for these tokens or without llguidance, marked there.
        """
        for address, stage in self._words.items():
            if self._tokenizer is None:
                problem = f"{stage.name} is about text, and the formula's models have no tokenizer"
                raise self._plan.error(problem, stage.span, "give tokenizer: … with a model")
            try:
                compiled(self.stages[address], self.tokens)
            except ImportError:
                problem = f"{stage.name} needs llguidance"
                raise self._plan.error(problem, stage.span, pip_install("constrain")) from None
            except ConstraintError as error:
                raise self._plan.error(str(error), stage.span) from None

    def named(self) -> list[tuple[str, Constraint]]:
        """Those of the formula, as it writes them; each once."""
        named = {written(stage): self.stages[at] for at, stage in self._words.items()}
        return [*named.items()]

    def of(self, request: Constrained) -> Constraints:
        """Those that a request's answer meets."""
        if request.constraint is None:
            return self.stages
        return {OF_REQUEST: request.constraint, **self.stages}

    def binding(self, request: Constrained) -> set[StageAddress]:
        """Those that every token of a request's answer has to fit, whatever else allows it."""
        return {OF_REQUEST, *_binding(self._plan, request.values)}

    def states(self, request: Constrained, address: StageAddress) -> AnswerStates:
        """The matchers of a request's answers, for one of its constraints."""
        key = "constraint", address
        if key not in request.states:
            begin = partial(compiled, self.of(request)[address], self.tokens)
            thought = request.states.get(THOUGHT) if address == OF_REQUEST else None
            request.states[key] = AnswerStates(begin, request.eos, thought)
        states: AnswerStates = request.states[key]
        return states

    def ending(self, request: Constrained) -> Callable[[Sequence[int]], bool] | None:
        """What tells whether nothing but the end may follow an answer; None without constraints."""
        if not self.stages and request.constraint is None:
            return None
        binding = self.binding(request)
        addresses = [at for at in self.of(request) if at in binding]
        return partial(self._ends, request, addresses) if addresses else None

    def _ends(
        self, request: Constrained, addresses: Sequence[StageAddress], answer: Sequence[int]
    ) -> bool:
        common: int | None = None
        for address in addresses:
            states = self.states(request, address)
            if (constrained := states.constrained(answer)) is None:
                return False
            cursor = states.at(constrained)
            if not cursor.complete:
                return False
            if not cursor.matcher.is_stopped():
                mask = int.from_bytes(cursor.matcher.compute_bitmask(), "little")
                common = mask if common is None else common & mask
            else:
                common = 0
        ends = sum(1 << token for token in {*request.eos, self._size})
        return not (common or 0) & ~ends

    def error(
        self, request: Constrained, address: StageAddress, why: str, where: str
    ) -> FormulaError:
        """The error of a row that can neither go on nor end: ``why``, ``SPELT`` or ``MASKED``."""
        stage = self._words.get(address)
        if stage is None:
            constraint = self.of(request)[address]
            name = f"{constraint.kind}({cut_string(constraint.text)})"
            span = Span(0, len(self._plan.source))
        else:
            name, span = written(stage), stage.span
        if why == MASKED:
            problem = f"{name} allows no token that is left {where}"
            cure = "what comes before it excludes all that it allows: put it first"
            return self._plan.error(problem, span, cure)
        problem, more = f"{name} allows no token {where}", self.states(request, address).why
        return self._plan.error(f"{problem}: {more}" if more else problem, span, _SPELL)


_SPELL = "no token of the vocabulary goes on with this answer, which is not complete"


def _binding(plan: Plan, values: Sequence[float]) -> Iterator[StageAddress]:
    """The constraints after the formula, and those of the parts of its sum, whose masks add up."""
    yield from ((None, number) for number in range(len(plan.stages)))
    todo: list[Any] = [plan.scores]
    while todo:
        match todo.pop():
            case Linear(parts):
                todo += [part for number, part in parts if _counts(values[plan.columns[number]])]
            case Staged(head, stages) as node:
                yield from ((node, number) for number in range(len(stages)))
                todo.append(head)
            case Read():
                pass


def _counts(coefficient: float) -> bool:
    """Whether a coefficient is 0 in no step."""
    return coefficient != 0 and not math.isnan(coefficient)
