"""Why a token: what each part of the sum and each stage added to each candidate's score.

It looks at a step that has been made and changes nothing: terms are read already, operators are
worked out again, and what stages did was recorded. No names of models and no text in here but the
formula's own.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...formula import Plan, Read, Scalar, Term
from ...formula.nodes import Node, StageAddress, Staged, State, walk, weighted_children
from ...formula.printer import written
from ...formula.words.operators import Operator, Where
from ...formula.words.stages import Search
from ..batch.batch import Batch
from ..scores.context import Context
from ..scores.logprobs import best
from ..scores.noise import gumbel
from ..scores.operators import condition, evaluate
from .token_choice import Candidate, Choice, Gate, Part

Column = tuple[Tensor | None, Tensor | None]  # (V,) what was added; (V,) bool, what was excluded


class Explainer:
    """Explains the steps of one request.

    Attributes:
        parts: what contributions belong to.
        terms: the terms of the formula.
        rewards: the places of its reward models.
    """

    def __init__(self, plan: Plan, values: list[float], base: Term, n: int, draws: bool) -> None:
        """Explain by ``n`` candidates; ``draws``: the noise of a step is that of the request."""
        self.plan, self.base, self.n, self.draws = plan, base, n, draws
        self.terms = plan.terms
        self.stages = [(i, s) for i, s in enumerate(plan.stages) if not isinstance(s, Search)]
        self.rewards = [
            (place, number, coefficient, read.term)
            for place, stage in plan.reranks
            for number, (coefficient, read) in enumerate(stage.reward.parts)
        ]
        sums = [_part(node, values[plan.columns[c]]) for c, node in plan.scores.parts]
        if (shift := plan.scores.shift) is not None:
            sums.append(Part(str(shift), "number", values[plan.columns[shift]]))
        self.parts = [*sums, *(Part(written(stage), "stage") for _, stage in self.stages)]

    def choice(self, batch: Batch, context: Context, scores: Tensor, token: int) -> Choice:
        """Explain one step.

        Args:
            batch: of one slot.
            context: with a record of what the stages did.
            scores: ``(1, V)``, the stages' last.
            token: what was chosen.
        """
        reads, gates = _reached(self.plan.scores, context)
        logprobs = [_read(term, context) if term in reads else None for term in self.terms]
        base, noise = _read(self.base, context), None
        score, warm = scores[0], float(batch.temperatures[0])
        if warm > 0 and self.draws:
            noise = gumbel(batch.keys[:1], batch.steps[:1], len(score))[0]
            base = base / warm + noise
        top, alone = int(best(scores)), int(best(base[None]))
        columns = [*self._sums(context), *self._stages(context)]
        ids = self._candidates(score, context, (token, top, alone))
        candidates = _Table(score, ids, warm or 1.0)
        contributions = candidates.columns([added for added, _ in columns])
        said = candidates.columns(logprobs)
        rewards = candidates.columns([self._rewarded(one, context) for one in self.rewards])
        drawn = candidates.columns([noise])
        removed = self._removed(ids, batch, columns)
        made = tuple(
            Candidate(
                id, None, *candidates.standing(i), contributions[i], said[i], rewards[i],
                drawn[i][0], removed[i] if score[id] == -torch.inf else None,
            )
            for i, id in enumerate(ids.tolist())
        )  # fmt: skip
        return Choice(
            int(batch.steps[0]), token, None, top, alone, token != alone, token != top,
            gates, self._judged(context, token), made,
        )  # fmt: skip

    def _sums(self, context: Context) -> Iterator[Column]:
        for coefficient, part in self.plan.scores.parts:
            if not context.runs(coefficient):
                yield None, None
                continue
            said = context.tokens(evaluate(part, context))[0]
            yield said * context.number(coefficient)[0], said == -torch.inf
        if (shift := self.plan.scores.shift) is not None:
            yield context.number(shift)[0].expand(context.vocabulary), None

    def _stages(self, context: Context) -> Iterator[Column]:
        assert context.record is not None
        for number, _ in self.stages:
            before, after = (one[0] for one in context.record.stages[None, number])
            added = after - before
            if (None, number) in context.record.rewards:
                asked, _, reward = context.record.rewards[None, number]
                added = torch.where(after != -torch.inf, 0.0, -torch.inf)
                added[asked[0]] += reward[0]
            yield added, (after == -torch.inf) & (before != -torch.inf)

    def _candidates(self, score: Tensor, context: Context, always: tuple[int, ...]) -> Tensor:
        """The best by score, then the best that stages have excluded, and those that must be."""
        assert context.record is not None
        reached = context.tokens(evaluate(self.plan.scores, context))[0]
        for number, _ in self.stages:
            after = context.record.stages[None, number][1][0]
            reached = torch.where(after != -torch.inf, after, reached)
        left = int((score != -torch.inf).sum())
        ids = score.topk(min(self.n, left)).indices.tolist()
        if len(ids) < self.n:
            more = reached.masked_fill(score != -torch.inf, -torch.inf)
            found = more.topk(min(self.n - len(ids), len(more)))
            ids += found.indices[found.values != -torch.inf].tolist()
        ids = list(dict.fromkeys([*ids, *always]))
        keys = [(-float(score[id]), -float(reached[id]), id) for id in ids]
        return torch.tensor([id for *_, id in sorted(keys)], device=score.device)

    def _rewarded(
        self, one: tuple[StageAddress, int, Scalar, Term], context: Context
    ) -> Tensor | None:
        place, number, coefficient, _ = one
        assert context.record is not None
        if place not in context.record.rewards or not context.runs(coefficient):
            return None
        asked, rewards, _ = context.record.rewards[place]
        nothing = torch.full((context.vocabulary,), torch.nan, device=asked.device)
        return nothing.index_copy(0, asked[0], rewards[number][0, : asked.shape[1]].float())

    def _removed(self, ids: Tensor, batch: Batch, columns: list[Column]) -> list[str | None]:
        """Per candidate, what excludes it first."""
        named = [part.name for part in self.parts]
        hidden = [excluded for _, excluded in columns]
        if batch.unread is not None:
            at = len(columns) - len(self.stages)
            named.insert(at, "it is no token of every model")
            hidden.insert(at, batch.unread[0])
        found: list[str | None] = []
        for id in ids.tolist():
            by = (n for n, mask in zip(named, hidden, strict=True) if mask is not None and mask[id])
            found.append(next(by, None))
        return found

    def _judged(self, context: Context, token: int) -> float | None:
        """What a search's language models add for a token."""
        if self.plan.search is None or not context.search_terms:
            return None
        parts = self.plan.search[1].r.parts
        return sum(
            float(context.number(parts[row_map.number][0])[0, 0] * reads(context)[0, token])
            for row_map, reads in context.search_terms
        )


class _Table:
    """Columns of the vocabulary, read at the candidates."""

    def __init__(self, score: Tensor, ids: Tensor, warm: float) -> None:
        places = torch.empty_like(score, dtype=torch.long)
        order = score.sort(descending=True, stable=True).indices
        places[order] = torch.arange(1, len(score) + 1, device=score.device)
        self._ids, self._scores = ids, _finite(score[ids])
        self._ranks = places[ids].tolist()
        self._chances = torch.softmax(score / warm, dim=-1)[ids].tolist()

    def standing(self, i: int) -> tuple[int | None, float | None, float]:
        """A candidate's rank, score and probability."""
        rank = None if self._scores[i] is None else self._ranks[i]
        return rank, self._scores[i], self._chances[i]

    def columns(self, columns: list[Tensor | None]) -> list[tuple[float | None, ...]]:
        """Per candidate, its value in each column."""
        nothing: list[float | None] = [None] * len(self._ids)
        found = [nothing if one is None else _finite(one[self._ids]) for one in columns]
        return list(zip(*found, strict=True)) if found else [()] * len(self._ids)


def _part(node: Node, coefficient: float) -> Part:
    terms = () if isinstance(node, Read) else tuple(dict.fromkeys(
        str(inner.term) for inner in walk(node) if isinstance(inner, Read)
    ))  # fmt: skip
    kind = "operator" if isinstance(node, Operator | Staged) else "term"
    return Part(written(node), kind, coefficient, terms)


def _read(term: Term, context: Context) -> Tensor:
    return context.tokens(context.terms[term](context))[0]


def _reached(node: Node, context: Context) -> tuple[set[Term], tuple[Gate, ...]]:
    """The terms and conditions that a step has looked at."""
    terms: set[Term] = set()
    gates: dict[Where, Gate] = {}
    todo = [node]
    while todo:
        one = todo.pop()
        if isinstance(one, Read):
            terms.add(one.term)
        elif isinstance(one, Where):
            gates[one] = gate = _gate(one, context)
            todo += [one.x if gate.holds else one.y]
            todo += [] if isinstance(one.condition, Scalar) else [one.condition]
        else:
            parts = weighted_children(one)
            todo += [part for number, part in parts if number is None or context.runs(number)]
    return terms, tuple(gates.values())


def _gate(node: Where, context: Context) -> Gate:
    states = [] if isinstance(node.condition, Scalar) else walk(node.condition)
    looked = {written(s): float(condition(s, context)[0]) for s in states if isinstance(s, State)}
    return Gate(written(node.condition), bool(condition(node.condition, context)[0]), looked)


def _finite(values: Tensor) -> list[float | None]:
    return [value if abs(value) < torch.inf else None for value in values.tolist()]
