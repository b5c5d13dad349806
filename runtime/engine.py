"""The engine: the one batched step, and the loop that keeps its slots full.

A step reads every lane once, adds the scores up, sends them through the stages, draws a token per
slot and hands it back to the lanes. Tensors in, tensors out: names, parameters and text stay
outside, and one copy to the host per step brings the tokens and the alarms.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ..formula import Term
from ..formula.nodes import Place, Staged, walk
from ..formula.shifts import unnormalised
from ..formula.stages import Reject, RepetitionPenalty
from ..grammar import Span
from .batch import Batch, Seat
from .bind import Bound
from .context import Context, Rewarder
from .cost import Spent, read_bytes
from .noise import gumbel
from .operators import evaluate
from .requests import Answer, Request, ids_of
from .scored import Logits, entropy, log_softmax
from .stages import chain, commit, moves_winner

MEASURE = 32  # tokens of capacity are reserved in multiples of this


class Engine:
    """Decodes requests through one bound plan.

    Args:
        bound: the plan and its lanes.
    """

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.forwards = [0] * len(bound.lanes)
        self.spent = Spent()
        self._weights = [lane.weight_bytes() for lane in bound.lanes]
        self.unnormalised = unnormalised(bound.plan)
        self._run: object = None
        staged = [node for node in walk(bound.plan.scores) if isinstance(node, Staged)]
        stages = [*bound.plan.stages, *(stage for node in staged for stage in node.stages)]
        self._track_seen = any(isinstance(stage, RepetitionPenalty) for stage in stages)

    def run(self, requests: Sequence[Request], slots: int) -> Iterator[list[Answer]]:
        """Decode until every request has ended.

        Args:
            requests: any number; the longest prompts go first, so that neighbours are alike.
            slots: how many are decoded at once.

        Yields:
            After each step, the answers that got a token; those that ended say why.

        Raises:
            FormulaError: NaN, or a step in which every token is excluded.
        """
        run = self._begin()
        waiting = deque(sorted(requests, key=lambda request: -len(request.prompts[0])))
        batch = self._batch(requests, min(slots, len(requests)))
        answers: list[Answer] = []  # one per slot
        while waiting or answers:
            if self._run is not run:
                raise RuntimeError("another run has begun on this decoder; finish one, then begin")
            room = min(batch.slots - batch.count, len(waiting))
            joining = [waiting.popleft() for _ in range(room)]
            if joining:
                now = time.perf_counter()
                batch.admit(joining)
                answers += [Answer(request, self.bound.tokenizer, now) for request in joining]
            for answer, token in zip(answers, self.advance(batch), strict=True):
                answer.add(token)
            yield list(answers)
            ended = [slot for slot, answer in enumerate(answers) if answer.finish_reason]
            batch.finish(ended)
            for slot in reversed(ended):
                answers[slot] = answers[-1]
                answers.pop()

    @torch.no_grad()
    def score(self, request: Request, tokens: Sequence[int]) -> Tensor:
        """Scores before each of the given tokens and after the last.

        Returns:
            ``(len(tokens) + 1, V)`` float32, minus infinity where a token is excluded.
        """
        self._begin()
        batch = self._batch([request], 1)
        batch.admit([request])
        rows: list[Tensor] = []
        for token in [*tokens, 0]:  # nothing is read after the last row of scores
            forced = torch.tensor([token], device=batch.device)
            context = self._context(batch, forced)
            masked = self._scores(batch, context)
            self._raise_for(batch, _alarms(context, masked).tolist(), context, len(rows))
            rows.append(masked[0])
            if len(rows) <= len(tokens):
                self._commit(batch, context, forced)
        return torch.stack(rows)

    def begin(self, requests: Sequence[Request], slots: int) -> Batch:
        """Empty slots for these requests; whatever ran before can run no more."""
        self._begin()
        return self._batch(requests, slots)

    def _batch(self, requests: Sequence[Request], slots: int) -> Batch:
        longest = max(
            len(ids) + request.max_new_tokens
            for request in requests
            for ids in ids_of(request.prompts, request.rewards)
        )
        columns = [self.bound.plan.columns[stage.k] for _, stage in self.bound.plan.reranks]
        wide = [int(request.values[column]) + 1 for request in requests for column in columns]
        capacity = -(-(longest + max(wide, default=0)) // MEASURE) * MEASURE
        return Batch(self.bound, slots, capacity, self._track_seen)

    @torch.no_grad()
    def advance(self, batch: Batch) -> list[int]:
        """One step: a token per slot; ``batch.unsure`` says where their scores were unsure."""
        start, before = time.perf_counter(), [*self.forwards]
        texts = [lane.rows.total for lane in self.bound.lanes]
        context = self._context(batch)
        masked = self._scores(batch, context)
        drawn = masked
        if batch.samples:
            warm = batch.temperatures[: batch.count, None]
            noise = gumbel(batch.keys[: batch.count], batch.steps[: batch.count], masked.shape[-1])
            drawn = torch.where(warm > 0, masked / warm + noise, masked)
        tokens = drawn.argmax(dim=-1)
        self._judge(batch, context, tokens)
        self._commit(batch, context, tokens)
        told, alarms, *unsure = torch.stack(
            (tokens, _alarms(context, masked), *context.unsure)
        ).tolist()
        self._raise_for(batch, alarms, context)
        batch.unsure = unsure[0] if unsure else [0] * batch.count
        ran = [now - then for now, then in zip(self.forwards, before, strict=True)]
        read = read_bytes(self.bound, self._weights, ran, texts)
        self.spent.add(batch.count, time.perf_counter() - start, read)
        return told  # type: ignore[no-any-return]

    def _context(self, batch: Batch, forced: Tensor | None = None) -> Context:
        rewarders: dict[Place, Rewarder] = {}
        for place, stage in self.bound.plan.reranks:
            seats = [seat for seat in batch.seats if seat.reader.place == place]
            if any(seat.live for seat in seats):
                moves = moves_winner(place, stage)
                rewarders[place] = _Rewarder(batch, seats, self.forwards, moves)
        here = slice(batch.count)
        seen = batch.seen[here] if batch.seen is not None else None
        terms: dict[Term, Callable[[], Tensor]] = {}
        context = Context(
            batch.values[here], self.bound.plan.columns, terms, batch.ranges,
            batch.steps[here], self.bound.vocabulary, self.bound.vocabulary + bool(batch.there),
            seen, rewarders, forced,
        )  # fmt: skip
        context.texts = partial(_texts, batch)
        lanes: dict[int, Logits] = {}
        for seat in batch.seats:
            reads = partial(self._read, batch, seat, context, lanes)
            if seat.reader.place is None:
                terms[seat.reader.term] = reads if seat.live else context.nothing
            elif seat.reader.language and seat.live:
                context.judges.append((seat, reads))
        return context

    def _read(self, batch: Batch, seat: Seat, context: Context, lanes: dict[int, Logits]) -> Tensor:
        """One term's scores; its lane is read when the first of its terms is asked for."""
        lane = seat.reader.lane
        if lane not in lanes:
            logits = self.bound.lanes[lane].logits().to(batch.device)
            lanes[lane] = Logits(logits, context.width, batch.there.get(lane))
            self.forwards[lane] += 1
        said, source = lanes[lane], _source(seat)
        wrong = said.broken.index_select(0, seat.rows) & seat.present
        if context.wanted is not None:
            wrong = wrong & context.wanted[:, 0]
        context.broken[source] = wrong | context.broken.get(source, wrong)
        exact = seat.reader.place is not None or context.forced is not None
        raw = not exact and seat.reader.term in self.unnormalised
        scores = said.raw if raw else said.logprobs
        return scores if seat.whole else scores.index_select(0, seat.rows)

    def _scores(self, batch: Batch, context: Context) -> Tensor:
        """Every lane that is needed read once, combined, and sent through the stages."""
        plan = self.bound.plan
        head = context.tokens(evaluate(plan.scores, context))
        if batch.unread is not None:
            head = head.masked_fill(batch.unread, -torch.inf)
        stage = plan.search[1] if plan.search else None
        if isinstance(stage, Reject):
            surprise = entropy(log_softmax(head)) >= context.number(stage.entropy)
            context.unsure.append(surprise[:, 0].long())
        return chain(head, context, None, plan.stages)

    def _commit(self, batch: Batch, context: Context, tokens: Tensor) -> None:
        """Hand the chosen tokens back to the stages and the lanes."""
        for place, stage in self.bound.plan.reranks:
            commit(stage, place, tokens, context)
        for lane in _fed(batch):
            if batch.owners[lane].numel():
                drawn, there = tokens[batch.owners[lane]], batch.there.get(lane)
                self.bound.lanes[lane].feed(drawn if there is None else there.of[drawn])
        if batch.seen is not None:
            batch.seen[: batch.count].scatter_(1, tokens[:, None], True)
        batch.steps[: batch.count] += 1

    def _judge(self, batch: Batch, context: Context, tokens: Tensor) -> None:
        """Add the drawn tokens' scores, by the language models that judge, to the rows' sums."""
        if not context.judges:
            return
        assert self.bound.plan.search is not None
        parts = self.bound.plan.search[1].r.parts
        for seat, scores in context.judges:
            coefficient = context.number(parts[seat.number][0])[:, 0]
            said = scores().gather(1, tokens[:, None])[:, 0]
            batch.judged[: batch.count] += torch.where(seat.present, coefficient * said, 0.0)

    def _raise_for(
        self, batch: Batch, alarms: Sequence[int], context: Context, step: int | None = None
    ) -> None:
        """Raise for the first slot with an alarm, naming the source, the row and the token."""
        alarmed = [slot for slot, alarm in enumerate(alarms) if alarm]
        if not alarmed:
            return
        slot = min(alarmed, key=lambda slot: alarms[slot])  # one whose source is known, if any is
        plan, sources = self.bound.plan, list(context.broken)
        step = int(batch.steps[slot]) - 1 if step is None else step
        where = f"for row {batch.requests[slot].index}, token {step}"
        alarm = alarms[slot] - 1
        if alarm >= len(sources):
            what = "the scores are NaN" if alarm == len(sources) else "every token is excluded"
            raise plan.error(f"{what} {where}", Span(0, len(plan.source)))
        kind, which = sources[alarm]
        terms = [seat.reader.term for seat in batch.seats if _source(seat) == (kind, which)]
        raise plan.error(
            f"{' or '.join(map(str, terms))} gave NaN {where}",
            plan.spans[terms[0]],
            "check its weights and dtype: float16 overflows where bfloat16 does not",
        )

    def _begin(self) -> object:
        self._run = object()
        self.spent.clear()
        return self._run


def _alarms(context: Context, masked: Tensor) -> Tensor:
    """``(slots,)`` int64: 0, or 1 + the number of the first source that went wrong."""
    best = masked.amax(dim=-1)
    wrong = torch.stack([*context.broken.values(), best.isnan(), best == -torch.inf])
    return torch.where(wrong.any(dim=0), wrong.byte().argmax(dim=0) + 1, 0)


class _Rewarder:
    """One stage's reward models over the rows of a batch."""

    def __init__(
        self, batch: Batch, seats: Sequence[Seat], forwards: list[int], moves: bool
    ) -> None:
        self._batch, self._seats, self._forwards, self._moves = batch, seats, forwards, moves
        self._lanes = dict.fromkeys(seat.reader.lane for seat in seats if seat.live)

    def rewards(self, candidates: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """``(slots, k)`` ids to ``(slots, k)`` per reward model, and ``(slots,)`` of the texts."""
        found = {}
        for lane in self._lanes:
            asked = candidates[self._batch.owners[lane]]
            found[lane] = self._batch.bound.lanes[lane].rewards(asked)
            self._forwards[lane] += 1
        rewards: list[Tensor] = []
        texts: list[Tensor | None] = []
        for seat in self._seats:
            if not seat.live:
                rewards.append(torch.zeros(candidates.shape, device=candidates.device))
                texts.append(rewards[-1][:, 0])
                continue
            candidate, text = found[seat.reader.lane]
            rewards.append(labelled(candidate, seat))
            texts.append(None if text is None else labelled(text, seat))
        return rewards, texts

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """``(slots,)`` which candidate each slot goes on with, and the tokens themselves."""
        for lane in self._lanes:
            owners = self._batch.owners[lane]
            if self._moves:
                self._batch.bound.lanes[lane].keep(choice[owners], tokens[owners])
            else:
                self._batch.bound.lanes[lane].feed(tokens[owners])


def labelled(outputs: Tensor, seat: Seat) -> Tensor:
    """A head's outputs, ``(rows, …, labels)``, as one reward per slot."""
    label = seat.reader.label
    reward = outputs[..., 0] if label is None else outputs.log_softmax(dim=-1)[..., label]
    return reward.to(seat.rows.device).index_select(0, seat.rows)


def _source(seat: Seat) -> tuple[str, object]:
    """What is said to be broken when a seat's model gives NaN."""
    reader = seat.reader
    if not reader.language:
        return "stage", reader.place
    return ("term" if reader.place is None else "judge"), seat.number


def _texts(batch: Batch) -> list[Tensor]:
    """Per slot, the ids that the first of its terms in the writing has read; aligned ones last."""
    spans = batch.bound.plan.spans
    seats = [seat for seat in batch.seats if seat.reader.place is None]
    seats.sort(key=lambda seat: (seat.reader.counterparts is not None, spans[seat.reader.term]))
    texts = []
    for slot in range(batch.count):
        seat = next(seat for seat in seats if seat.held[slot] is not None)
        rows, row = batch.bound.lanes[seat.reader.lane].rows, seat.held[slot]
        text = rows.texts[row, : int(rows.ends[row])]
        if seat.reader.counterparts is not None:
            text = text.new_tensor(seat.reader.formula_ids(text.tolist()))
        texts.append(text)
    return texts


def _fed(batch: Batch) -> set[int]:
    """The lanes that read every token that is drawn; a reranking stage feeds its own."""
    search = batch.bound.plan.search
    return {
        seat.reader.lane
        for seat in batch.seats
        if seat.reader.language or (search is not None and seat.reader.place == search[0])
    }
