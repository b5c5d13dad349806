"""The step: every lane that a row needs is read once, and each slot is drawn a token.

Scores add up, go through the stages, and the drawn tokens are handed back to the lanes. Tensors in,
tensors out, on the device: names, text and the copy to the host stay outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from ...formula import Term
from ...formula.algebra.shift_invariance import unnormalised
from ...formula.nodes import StageAddress
from ...formula.words.stages import Reject
from ..batch.batch import Batch
from ..batch.row_map import RowMap
from ..binding.bound import Bound
from ..scores.context import Context, Reading, Rewarder
from ..scores.logprobs import Logits, entropy, log_softmax
from ..scores.operators import evaluate
from ..scores.stages import chain, commit, moves_winner
from .sampler import Draw, draw
from .streams import in_turn

Source: TypeAlias = tuple[str, object]  # what can give NaN: a term, a judge, a stage
Drawn: TypeAlias = tuple[list[Source], Tensor]


class Step:
    """One bound plan's step.

    Attributes:
        forwards: per lane, how often it has run.
        unnormalised: the terms that are read as raw logits.
        asks: whether a step may ask the device which sides of a condition are needed.
        beside: how lanes are read that do not wait for each other.
    """

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.forwards = [0] * len(bound.lanes)
        self.unnormalised = unnormalised(bound.plan)
        self.asks, self.beside = bound.term_parallel is None, in_turn
        conditional = {bound_term.lane for bound_term in bound.conditional} if self.asks else set()
        self._certain = {
            bound_term.lane for bound_term in bound.all_terms if bound_term.language
        } - conditional

    def draw(self, batch: Batch) -> Drawn:
        """A token for every slot, handed back to the stages and the lanes; as ``draw_together``."""
        return draw_together([(self, batch)])[0]

    def drawn(self, batch: Batch, context: Context, masked: Tensor, drawn: Draw) -> Drawn:
        """Hand the drawn tokens back to the stages and the lanes, and say what the host is told."""
        self._judge(batch, context, drawn.tokens)
        self.commit(batch, context, drawn.tokens)
        wrong, steps = alarms(context, drawn.scores), batch.steps[: batch.count]
        said = [_bits(masked, batch, drawn.tokens)] if batch.logprobs else []
        told = torch.stack((drawn.tokens, wrong, steps, *said, *context.unsure))
        return list(context.broken), told

    def context(self, batch: Batch, next_tokens: Tensor | None = None) -> Context:
        """What the step knows; ``forced`` are the tokens that come next whatever the scores."""
        rewarders: dict[StageAddress, Rewarder] = {}
        for place, stage in self.bound.plan.reranks:
            row_maps = [row_map for row_map in batch.row_maps if row_map.term.address == place]
            if any(row_map.live for row_map in row_maps):
                moves = moves_winner(place, stage)
                rewarders[place] = _Rewarder(batch, row_maps, self.forwards, moves)
        here = slice(batch.count)
        seen = batch.seen[here] if batch.seen is not None else None
        terms: dict[Term, Reading] = {}
        context = Context(
            batch.values[here], self.bound.plan.columns, terms, batch.ranges,
            batch.steps[here], self.bound.vocabulary,
            self.bound.vocabulary + bool(batch.token_columns), seen, rewarders, next_tokens,
        )  # fmt: skip
        context.texts = partial(_texts, batch)
        lanes: dict[int, Logits] = {}
        context.asks, context.ahead = self.asks, partial(self._ahead, batch, lanes)
        for row_map in batch.row_maps:
            reads = partial(self._read, batch, row_map, lanes)
            if row_map.term.address is None:
                terms[row_map.term.term] = reads if row_map.live else Context.nothing
            elif row_map.term.language and row_map.live:
                context.search_terms.append((row_map, reads))
        return context

    def scores(self, batch: Batch, context: Context) -> Tensor:
        """Every lane that is needed read once, combined, and sent through the stages."""
        plan = self.bound.plan
        context.ahead(context)
        head = context.tokens(evaluate(plan.scores, context))
        if batch.unread is not None:
            head = head.masked_fill(batch.unread, -torch.inf)
        stage = plan.search[1] if plan.search else None
        if isinstance(stage, Reject):
            surprise = entropy(log_softmax(head)) >= context.number(stage.entropy)
            context.unsure.append(surprise[:, 0].long())
        return chain(head, context, None, plan.stages)

    def commit(self, batch: Batch, context: Context, tokens: Tensor) -> None:
        """Hand the chosen tokens back to the stages and the lanes."""
        for place, stage in self.bound.plan.reranks:
            commit(stage, place, tokens, context)
        for lane in _fed(batch):
            if batch.owners[lane].numel():
                drawn, token_columns = tokens[batch.owners[lane]], batch.token_columns.get(lane)
                self.bound.lanes[lane].feed(
                    drawn if token_columns is None else token_columns.reads[drawn]
                )
        if batch.seen is not None:
            batch.seen[: batch.count].scatter_(1, tokens[:, None], True)
        batch.steps[: batch.count] += 1

    def _ahead(self, batch: Batch, lanes: dict[int, Logits], context: Context) -> None:
        """Read the lanes that this step reads whatever its conditions say."""
        sure = sorted(
            {row_map.term.lane for row_map in batch.row_maps if row_map.live} & self._certain
        )
        said = self.beside([self.bound.lanes[lane].logits for lane in sure])
        if self.bound.term_parallel is not None:
            said = self.bound.term_parallel.all_reduce(sure, said)
        for lane, logits in zip(sure, said, strict=True):
            self._keep(lane, logits, batch, context, lanes)

    def _keep(
        self, lane: int, logits: Tensor, batch: Batch, context: Context, lanes: dict[int, Logits]
    ) -> None:
        lanes[lane] = Logits(logits.to(batch.device), context.width, batch.token_columns.get(lane))
        self.forwards[lane] += 1

    def _read(
        self, batch: Batch, row_map: RowMap, lanes: dict[int, Logits], context: Context
    ) -> Tensor:
        """One term's scores; its lane is read when the first of its terms is asked for."""
        lane = row_map.term.lane
        if lane not in lanes:
            self._keep(lane, self.bound.lanes[lane].logits(), batch, context, lanes)
        said, source = lanes[lane], source_of(row_map)
        wrong = said.broken
        if not row_map.whole:
            wrong = wrong.index_select(0, row_map.rows) & row_map.present
        if context.wanted is not None:
            wrong = wrong & context.wanted[:, 0]
        context.broken[source] = wrong | context.broken.get(source, wrong)
        exact = row_map.term.address is not None or context.next_tokens is not None
        raw = not exact and row_map.term.term in self.unnormalised
        scores = said.raw if raw else said.logprobs
        return scores if row_map.whole else scores.index_select(0, row_map.rows)

    def _judge(self, batch: Batch, context: Context, tokens: Tensor) -> None:
        """Add the drawn tokens' scores, by the language models that judge, to the rows' sums."""
        if not context.search_terms:
            return
        assert self.bound.plan.search is not None
        parts = self.bound.plan.search[1].r.parts
        for row_map, scores in context.search_terms:
            coefficient = context.number(parts[row_map.number][0])[:, 0]
            said = scores(context).gather(1, tokens[:, None])[:, 0]
            batch.search_score[: batch.count] += torch.where(
                row_map.present, coefficient * said, 0.0
            )


def draw_together(parts: Sequence[tuple[Step, Batch]]) -> list[Drawn]:
    """A token for every slot of several plans, and each handed back to its stages and lanes.

    Every plan's scores are there before any token is, so that a lane which plans share reads all of
    their rows in one forward.

    Returns:
        Per plan, what an alarm means (``Context.broken``), and what the host is to be told:
        ``(3 to 5, slots)`` int64, the tokens, the alarms, how many each slot has drawn now; where
        it is asked, the tokens' log-probabilities (``likely``); and, where a search asks, whether
        the scores were unsure.
    """
    contexts = [step.context(batch) for step, batch in parts]
    scores = [
        step.scores(batch, context) for (step, batch), context in zip(parts, contexts, strict=True)
    ]
    drawn = draw([batch for _, batch in parts], scores)
    each = zip(parts, contexts, scores, drawn, strict=True)
    return [
        step.drawn(batch, context, masked, mine) for (step, batch), context, masked, mine in each
    ]


def _bits(masked: Tensor, batch: Batch, tokens: Tensor) -> Tensor:
    """``(slots,)`` int64: the bits of each token's log-probability in what it was drawn from."""
    warm = batch.temperatures[: batch.count, None]
    spread = log_softmax(masked / torch.where(warm > 0, warm, 1.0))
    said = torch.where(warm > 0, spread.gather(1, tokens[:, None]), 0.0)
    return said[:, 0].contiguous().view(torch.int32).long()


def likely(bits: Tensor) -> list[float]:
    """The log-probabilities that ``draw`` told, on the host."""
    said: list[float] = bits.to(torch.int32).view(torch.float32).tolist()
    return said


def alarms(context: Context, best: Tensor) -> Tensor:
    """``(slots,)`` int64: 0, or 1 + the number of the first source that went wrong.

    Args:
        context: after the step's scores.
        best: ``(slots,)`` the best score of each: NaN where any is.
    """
    wrong = torch.stack([*context.broken.values(), best.isnan(), best == -torch.inf])
    return torch.where(wrong.any(dim=0), wrong.byte().argmax(dim=0) + 1, 0)


class _Rewarder:
    """One stage's reward models over the rows of a batch."""

    def __init__(
        self, batch: Batch, row_maps: Sequence[RowMap], forwards: list[int], moves: bool
    ) -> None:
        self._batch, self._row_maps, self._forwards, self._moves = batch, row_maps, forwards, moves
        self._lanes = dict.fromkeys(row_map.term.lane for row_map in row_maps if row_map.live)

    def rewards(self, candidates: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """``(slots, k)`` ids to ``(slots, k)`` per reward model, and ``(slots,)`` of the texts."""
        found, bound = {}, self._batch.bound
        for lane in self._lanes:
            asked = candidates[self._batch.owners[lane]]
            found[lane] = bound.lanes[lane].rewards(asked)
            self._forwards[lane] += 1
        if bound.term_parallel is not None:
            found = bound.term_parallel.all_reduce_rewards(found)
        rewards: list[Tensor] = []
        texts: list[Tensor | None] = []
        for row_map in self._row_maps:
            if not row_map.live:
                rewards.append(torch.zeros(candidates.shape, device=candidates.device))
                texts.append(rewards[-1][:, 0])
                continue
            candidate, text = found[row_map.term.lane]
            rewards.append(labelled(candidate, row_map))
            texts.append(None if text is None else labelled(text, row_map))
        return rewards, texts

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """``(slots,)`` which candidate each slot goes on with, and the tokens themselves."""
        for lane in self._lanes:
            owners = self._batch.owners[lane]
            if self._moves:
                self._batch.bound.lanes[lane].keep(choice[owners], tokens[owners])
            else:
                self._batch.bound.lanes[lane].feed(tokens[owners])


def labelled(outputs: Tensor, row_map: RowMap) -> Tensor:
    """A head's outputs, ``(rows, …, labels)``, as one reward per slot."""
    reward = outputs[..., row_map.term.label or 0]
    return reward.to(row_map.rows.device).index_select(0, row_map.rows)


def source_of(row_map: RowMap) -> Source:
    """What is said to be broken when a seat's model gives NaN."""
    bound_term = row_map.term
    if not bound_term.language:
        return "stage", bound_term.address
    return ("term" if bound_term.address is None else "judge"), row_map.number


def first_row_maps(batch: Batch) -> list[RowMap]:
    """Per slot, the seat of the first of its terms in the writing; aligned ones come last."""
    spans = batch.bound.plan.spans
    row_maps = [row_map for row_map in batch.row_maps if row_map.term.address is None]
    row_maps.sort(
        key=lambda row_map: (
            row_map.term.token_map is not None,
            spans[row_map.term.term],
        )
    )
    slots = range(batch.count)
    return [
        next(row_map for row_map in row_maps if row_map.held[slot] is not None) for slot in slots
    ]


def _texts(batch: Batch) -> list[Tensor]:
    """Per slot, the ids that the first of its terms in the writing has read."""
    texts = []
    for slot, row_map in enumerate(first_row_maps(batch)):
        text = batch.bound.lanes[row_map.term.lane].rows.text(row_map.held[slot])
        if row_map.term.token_map is not None:
            text = text.new_tensor(row_map.term.formula_ids(text.tolist()))
        texts.append(text)
    return texts


def _fed(batch: Batch) -> set[int]:
    """The lanes that read every token that is drawn; a reranking stage feeds its own."""
    search = batch.bound.plan.search
    return {
        row_map.term.lane
        for row_map in batch.row_maps
        if row_map.term.language or (search is not None and row_map.term.address == search[0])
    }
