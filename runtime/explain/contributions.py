"""Why a token: what each part of the sum and each stage added to each candidate's score.

It reads a finished step and changes nothing: the terms' scores are there, operators are evaluated
again, and the step has recorded its stages. The only names and text are the formula's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...formula import Plan, Read, Scalar, Stage, Term
from ...formula.algebra.liveness import weighed_terms
from ...formula.nodes import Node, StageAddress, Staged, numbers, of_states, walk, weighted_children
from ...formula.printer import written, written_product
from ...formula.scalar import evaluate as evaluate_number
from ...formula.scalar import linear_part
from ...formula.words.constraints import ConstraintStage
from ...formula.words.operators import Operator, Where
from ...formula.words.stages import Search
from ..batch.batch import Batch
from ..constraints.spec import FIELD, Constraint
from ..constraints.states import OF_REQUEST
from ..scores.context import Context
from ..scores.logprobs import best
from ..scores.noise import gumbel
from ..scores.operators import condition, evaluate, number_in
from .token_choice import Candidate, Choice, EvaluatedCondition, Part

ALLOWED = "tokens allowed"  # among the numbers of a constraint
Column = tuple[Tensor | None, Tensor | None]  # (V,) added scores; (V,) bool, excluded tokens


class Explainer:
    """Explains the steps of one request.

    Attributes:
        parts: of the formula; a contribution belongs to each.
        reads: the terms of the formula, and what heads that give scores read of them.
        rewards: its reward models: stage address, number in the reward, and term; and ``weighed``,
            those that matter to the request.
    """

    def __init__(
        self,
        plan: Plan,
        values: list[float],
        base: Term,
        n: int,
        samples: bool,
        constraint: Constraint | None = None,
    ) -> None:
        """Explain a request of these values by ``n`` candidates.

        ``samples``: the noise of a step is that of the request; ``constraint``: its own.
        """
        self.plan, self.base, self.n, self.samples = plan, base, n, samples
        self.reads, self._values_of_request = scores_of(plan), values
        self.stages: list[tuple[int, Any]] = []  # a constraint of the request comes first
        if constraint is not None:
            self.stages.append((OF_REQUEST[1], constraint))
        self.stages += [(i, s) for i, s in enumerate(plan.stages) if not isinstance(s, Search)]
        self.rewards = [
            (address, number, term)
            for address, stage in plan.reranks
            for number, term in enumerate(stage.reward.terms)
        ]
        self.weighed = {
            (address, term)
            for address, stage in plan.reranks
            for term in weighed_terms(plan, stage.reward, values)
        }
        sums = [_part(c, node, values[plan.columns[c]]) for c, node in plan.scores.parts]
        self._numbers: list[Sequence[Scalar]] = [[c] for c, _ in plan.scores.parts]
        if (shift := plan.scores.shift) is not None:
            value = None if shift.states else values[plan.columns[shift]]
            sums.append(Part(str(shift), "number", value))
            self._numbers.append([shift])
        self.parts = [*sums, *(Part(_name(stage), "stage") for _, stage in self.stages)]
        self._numbers += [list(numbers(stage)) for _, stage in self.stages]

    def choice(self, batch: Batch, context: Context, scores: Tensor, token: int) -> Choice:
        """Explain one step of one slot, by ``(1, V)`` final scores; its context has a record."""
        reads, conditions = _evaluated(self.plan.roots, context)
        logprobs = [_read(each, context) if each in reads else None for each in self.reads]
        base, noise = _read(Read(self.base), context), None
        score, warm = scores[0], float(batch.temperatures[0])
        if warm > 0 and self.samples:
            noise = gumbel(batch.keys[:1], batch.steps[:1], len(score))[0]
            base = base / warm + noise
        top, alone = int(best(scores)), int(best(base[None]))
        columns = [*self._sums(context), *self._stages(context)]
        ids = self._candidates(score, context, (token, top, alone))
        candidates = _Table(score, ids, warm or 1.0)
        contributions = candidates.columns([added for added, _ in columns])
        term_logprobs = candidates.columns(logprobs)
        rewards = candidates.columns([self._reward(*each, context) for each in self.rewards])
        noises = candidates.columns([noise])
        removed = self._removed(ids, batch, columns)
        explained = tuple(
            Candidate(
                id, None, *candidates.standing(i), contributions[i], term_logprobs[i], rewards[i],
                noises[i][0], removed[i] if score[id] == -torch.inf else None,
            )
            for i, id in enumerate(ids.tolist())
        )  # fmt: skip
        return Choice(
            int(batch.steps[0]), token, None, top, alone, token != alone, token != top,
            conditions, self._search_score(context, token), explained,
            self._numbers_of(context), self._search_logprobs(context, token),
        )  # fmt: skip

    def _numbers_of(self, context: Context) -> tuple[dict[str, float], ...]:
        """Per part, its numbers of the state; of a constraint, how many tokens it allows."""
        values = [self._values(held, context) for held in self._numbers]
        first = len(values) - len(self.stages)
        for place, (number, stage) in enumerate(self.stages, first):
            if isinstance(stage, ConstraintStage | Constraint):
                values[place] = {ALLOWED: float(context.masks.allowed((None, number))[0])}
        return tuple(values)

    def _values(self, held: Sequence[Scalar], context: Context) -> dict[str, float]:
        """The numbers that are others in each step, by their text."""
        varying = [number for number in held if number.states and context.runs(number)]
        return {str(number): float(number_in(number, context)[0]) for number in varying}

    def _sums(self, context: Context) -> Iterator[Column]:
        for coefficient, part in self.plan.scores.parts:
            if not context.runs(coefficient):
                yield None, None
                continue
            scores = context.tokens(evaluate(part, context))[0]
            yield scores * number_in(coefficient, context)[0], scores == -torch.inf
        if (shift := self.plan.scores.shift) is not None:
            yield number_in(shift, context)[0].expand(context.vocabulary), None

    def _stages(self, context: Context) -> Iterator[Column]:
        assert context.record is not None
        for number, _ in self.stages:
            before, after = (scores[0] for scores in context.record.stages[None, number])
            added = after - before
            if (None, number) in context.record.rewards:
                ids, _, reward = context.record.rewards[None, number]
                added = torch.where(after != -torch.inf, 0.0, -torch.inf)
                added[ids[0]] += reward[0]
            yield added, (after == -torch.inf) & (before != -torch.inf)

    def _candidates(self, score: Tensor, context: Context, always: tuple[int, ...]) -> Tensor:
        """The best by score, then the best that stages have excluded, and the ``always``."""
        assert context.record is not None
        reached = context.tokens(evaluate(self.plan.scores, context))[0]
        for number, _ in self.stages:
            after = context.record.stages[None, number][1][0]
            reached = torch.where(after != -torch.inf, after, reached)
        left = int((score != -torch.inf).sum())
        ids = score.topk(min(self.n, left)).indices.tolist()
        if len(ids) < self.n:
            more = reached.masked_fill(score != -torch.inf, -torch.inf)
            excluded = more.topk(min(self.n - len(ids), len(more)))
            ids += excluded.indices[excluded.values != -torch.inf].tolist()
        ids = list(dict.fromkeys([*ids, *always]))
        keys = [(-float(score[id]), -float(reached[id]), id) for id in ids]
        return torch.tensor([id for *_, id in sorted(keys)], device=score.device)

    def _reward(
        self, address: StageAddress, number: int, term: Term, context: Context
    ) -> Tensor | None:
        """``(V,)`` what a reward model gave to each candidate of its stage; NaN elsewhere."""
        assert context.record is not None
        if address not in context.record.rewards or (address, term) not in self.weighed:
            return None
        ids, rewards = context.record.rewards[address][:2]
        nothing = torch.full((context.vocabulary,), torch.nan, device=ids.device)
        return nothing.index_copy(0, ids[0], rewards[number][0, : ids.shape[1]].float())

    def _removed(self, ids: Tensor, batch: Batch, columns: list[Column]) -> list[str | None]:
        """Per candidate, the first part that excludes it."""
        masks = [(part.name, mask) for part, (_, mask) in zip(self.parts, columns, strict=True)]
        if batch.unread is not None:
            unread = ("it is no token of every model", batch.unread[0])
            masks.insert(len(columns) - len(self.stages), unread)
        return [
            next((name for name, mask in masks if mask is not None and mask[id]), None)
            for id in ids.tolist()
        ]

    def _search_score(self, context: Context, token: int) -> float | None:
        """What a search's language models add for a token; None unless each only has a weight."""
        if self.plan.search is None or not context.search_terms:
            return None
        reward, total = self.plan.search[1].r, 0.0
        logprobs = self._search_logprobs(context, token)
        for (row_map, _), logprob in zip(context.search_terms, logprobs, strict=True):
            weight = coefficient(self.plan, reward, row_map.term.term, self._values_of_request)
            if weight is None:
                return None
            total += weight * logprob if weight else 0.0
        return total

    def _search_logprobs(self, context: Context, token: int) -> tuple[float, ...]:
        """A token's log-probability by each of a search's language models."""
        return tuple(float(reads(context)[0, token]) for _, reads in context.search_terms)


def _name(stage: Stage | Constraint) -> str:
    """What a stage is called, and a constraint of the request."""
    return f"{FIELD} {stage.kind}" if isinstance(stage, Constraint) else written(stage)


def coefficient(plan: Plan, reward: Scalar, term: Term, values: Sequence[float]) -> float | None:
    """What a row multiplies a term by in a reward expression; None where that is not one number."""
    if (factors := linear_part(reward, term)) is None:
        return None
    known = {part.expression: values[plan.columns[part]] for part in reward.parts}
    number = 1.0
    for each in factors:
        number *= known[each] if each in known else evaluate_number(each, {})
    return None if math.isnan(number) else number  # one of the state is another in each step


class _Table:
    """Columns of the vocabulary, read at the candidates."""

    def __init__(self, score: Tensor, ids: Tensor, warm: float) -> None:
        ranks = torch.empty_like(score, dtype=torch.long)
        order = score.sort(descending=True, stable=True).indices
        ranks[order] = torch.arange(1, len(score) + 1, device=score.device)
        self._ids, self._scores = ids, _finite(score[ids])
        self._ranks = ranks[ids].tolist()
        self._probabilities = torch.softmax(score / warm, dim=-1)[ids].tolist()

    def standing(self, i: int) -> tuple[int | None, float | None, float]:
        """A candidate's rank, score and probability."""
        rank = None if self._scores[i] is None else self._ranks[i]
        return rank, self._scores[i], self._probabilities[i]

    def columns(self, columns: list[Tensor | None]) -> list[tuple[float | None, ...]]:
        """Per candidate, its value in each column."""
        nothing: list[float | None] = [None] * len(self._ids)
        values = [nothing if c is None else _finite(c[self._ids]) for c in columns]
        return list(zip(*values, strict=True)) if values else [()] * len(self._ids)


def _part(number: Scalar, node: Node, coefficient: float) -> Part:
    inner = [] if isinstance(node, Read) else walk(node)
    terms = tuple(dict.fromkeys(str(each) for each in inner if isinstance(each, Read)))
    kind = "operator" if isinstance(node, Operator | Staged) else "term"
    if number.states:
        return Part(written_product(number, node), kind, None, terms)
    return Part(written(node), kind, coefficient, terms)


def scores_of(plan: Plan) -> tuple[Read, ...]:
    """The terms of a plan, each followed by what heads that give scores read of it."""
    heads = [read for read in plan.heads if not read.is_number]
    return tuple(
        read
        for term in plan.terms
        for read in (Read(term), *(each for each in heads if each.term == term))
    )


def _read(read: Read, context: Context) -> Tensor:
    return context.tokens(context.reads[context.columns.reads[read]](context))[0]


def _evaluated(
    roots: Sequence[Node], context: Context
) -> tuple[set[Read], tuple[EvaluatedCondition, ...]]:
    """The terms, heads of them and conditions that a step has evaluated."""
    reads: set[Read] = set()
    conditions: dict[Where, EvaluatedCondition] = {}
    todo, visited = [*roots], set[int]()
    while todo:
        node = todo.pop()
        of = [scores for number, scores in of_states(node) if context.runs(number)]
        todo += [scores for scores in of if id(scores) not in visited]
        visited.update(map(id, of))
        if isinstance(node, Read):
            reads |= {node, Read(node.term)}
        elif isinstance(node, Where):
            conditions[node] = _condition(node, context)
            todo += [node.x if conditions[node].holds else node.y]
            todo += [] if isinstance(node.condition, Scalar) else [node.condition]
        else:
            parts = weighted_children(node)
            todo += [part for number, part in parts if number is None or context.runs(number)]
    return reads, tuple(conditions.values())


def _condition(node: Where, context: Context) -> EvaluatedCondition:
    nodes = [] if isinstance(node.condition, Scalar) else walk(node.condition)
    compared = [number for each in nodes for number in numbers(each)]
    states = {
        state.text: float(number_in(Scalar(state, state.text), context)[0])
        for number in compared
        for state in number.states
    }
    holds = bool(condition(node.condition, context)[0])
    return EvaluatedCondition(written(node.condition), holds, states)


def _finite(values: Tensor) -> list[float | None]:
    return [value if abs(value) < torch.inf else None for value in values.tolist()]
