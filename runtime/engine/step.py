"""The step: every lane that a row needs runs once, and each slot gets a token.

Scores add up, go through the stages, and the drawn tokens are fed to the lanes. Tensors in, tensors
out, on the device: names, text and the copy to the host stay outside. What depends on the rows
alone is prepared when they change.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...formula import Read
from ...formula.algebra.components import components, terms_of
from ...formula.algebra.shift_invariance import unnormalised
from ...formula.nodes import StageAddress
from ...formula.words.operators import Operator
from ...formula.words.stages import Reject
from ..batch.batch import Batch
from ..batch.changes import upload_changes
from ..batch.needs import fed_lanes
from ..batch.row_map import RowMap, reads_of
from ..batch.texts import masks_of, starts_of, states_of, texts_of, thoughts_of
from ..binding.bound import Bound, stages_by_owner
from ..constraints.states import OF_REQUEST
from ..scores import undrawn
from ..scores.components import ALL
from ..scores.context import Columns, Context, Needing, Reading, Rewarder
from ..scores.logprobs import Logits, TokenColumns, entropy, log_softmax
from ..scores.operators import scorer, stage_numbers
from ..scores.stages import chains, commit, moves_winner
from ..scores.token_tables import TokenTable, add_drawn
from .candidate_rewards import CandidateRewards
from .component_sampler import ComponentSampler
from .logprob_rows import logprob_rows
from .sampler import Draw, Drawn, Scoring, draw_together, finished
from .streams import in_turn


class Prepared(NamedTuple):
    """What a step keeps between two changes of a batch's slots.

    The batch holds it, so that nothing in it holds the batch: a batch that nobody uses is freed at
    once, and its caches with it.

    Attributes:
        values, steps, tables: the batch's, of the slots in use.
        reads: what gives each term's scores, and what heads say of them.
        certain: the lanes that run in every step, or in this one, where rows draw components of a
            mixture; and ``forwards``, what runs them.
        feeds: the lanes that read every drawn token; whose rows they are, or None where those are
            the slots; and, of another vocabulary, the first token that is read for each.
        needing: per operator with a state, the rows that need it.
    """

    values: Tensor
    steps: Tensor
    tables: Mapping[TokenTable, Tensor]
    reads: Sequence[Reading]
    rewarders: Mapping[StageAddress, Rewarder]
    search_terms: Sequence[tuple[RowMap, Reading]]
    texts: Callable[[], list[Tensor]]
    certain: Sequence[int]
    forwards: Sequence[Callable[[], bool]]
    feeds: Sequence[tuple[Any, Tensor | None, Tensor | None]]
    needing: Mapping[Operator, Needing]


class Step:
    """One bound plan's step.

    Args:
        bound: the plan and its lanes.
        syncs: whether a step may ask the device which sides of a condition are needed.
        first_scalar: where the plan's numbers begin among those of a batch.
        proposes: whether what it draws is only proposed.

    Attributes:
        forwards: per lane, how often it has run.
        footprints: per lane, what it costs.
        bytes_read: of weights and caches, by all forwards.
        unnormalised: what is read as raw logits.
        stages: of the request, of the formula, and of the request again.
        columns: of the plan's numbers among those of a batch.
        syncs: as given; not where processes share the lanes.
        proposes: as given.
        goes_back: whether a row may go on from any text that it had before.
        run_forwards: how lanes run that do not wait for each other.
    """

    def __init__(
        self, bound: Bound, syncs: bool = True, first_scalar: int = 0, proposes: bool = False
    ) -> None:
        self.bound, self._plan = bound, bound.plan
        own_columns = bound.plan.columns.items()
        placed = ((scalar, first_scalar + each) for scalar, each in own_columns)
        self.columns = Columns(placed, bound.plan.all_reads)
        self.forwards, self.bytes_read = [0] * len(bound.lanes), 0
        self.footprints = [lane.footprint() for lane in bound.lanes]
        self.unnormalised = unnormalised(bound.plan)
        self.stages = stages_by_owner(bound)
        self.syncs, self.run_forwards = syncs and bound.term_parallel is None, in_turn
        conditional = {term.lane for term in bound.conditional} if self.syncs else set()
        self._certain = {term.lane for term in bound.own_terms if term.language} - conditional
        self._scores = scorer(bound.plan.scores, self.columns)
        self._stateful = [(node, scorer(node, self.columns)) for node in bound.plan.stateful]
        self._stage_numbers = stage_numbers(bound.plan.stages, self.columns)
        device = bound.lanes[bound.terms[0].lane].device
        self._terms = undrawn.terms_of_sum(bound.plan, self.columns, self.unnormalised, device)
        self._components = self._component_sampler()
        self._search = bound.plan.search[1] if bound.plan.search else None
        self.proposes, self.goes_back = proposes, self._search is not None

    def draw(self, batch: Batch, forwarded: bool = False) -> Drawn:
        """A token for every slot, committed; as ``draw_together``."""
        return draw_together([(self, batch)], forwarded)[0]

    def undrawn(self, batch: Batch, context: Context) -> undrawn.Undrawn | None:
        """What the draw's kernels go on from; None where somebody wants the scores."""
        if batch.logprobs or batch.by_component or self._plan.search is not None:
            return None
        self._take_logits(batch, context)
        last, stages = undrawn.last_stages(context, self.stages)
        found = None
        if last == sum(map(len, self.stages)) and self._stage_numbers is None:
            row_maps = dict(reads_of(self._plan, batch.row_maps))
            found = undrawn.of_sum(self._terms, stages, context, row_maps)
        return found or undrawn.of_scores(self.combined(context, last), stages, context)

    def forward(self, batch: Batch) -> None:
        """Run the lanes that this step needs, so that their logits are there."""
        prepared: Prepared = batch.prepared.get(self) or self.prepare(batch)
        if batch.by_component:
            lanes = self._running(batch, self._components.lanes(batch))
            forwards = [self.bound.lanes[lane].forward for lane in lanes]
            batch.prepared[self] = prepared = prepared._replace(certain=lanes, forwards=forwards)
        ran = []
        for lane, new in zip(prepared.certain, self.run_forwards(prepared.forwards), strict=True):
            ran += [lane] if new else []
        self.count(ran)

    def context(self, batch: Batch, next_tokens: Tensor | None = None) -> Context:
        """What the step knows before a lane has run; ``next_tokens`` are those of ``Context``."""
        prepared: Prepared = batch.prepared.get(self) or self.prepare(batch)
        vocabulary = self.bound.vocabulary
        return Context(
            prepared.values, batch.numbers, self.columns, prepared.reads, prepared.steps,
            vocabulary, vocabulary + bool(batch.token_columns), prepared.tables, batch.unread,
            prepared.rewarders, prepared.search_terms, prepared.texts, next_tokens, self.syncs,
            starts=partial(starts_of, batch),
            thoughts=thoughts_of(batch) if batch.thoughts else None,
            row_states=None if self.proposes else partial(states_of, batch, self.goes_back),
            needing=prepared.needing, keys=batch.keys[: batch.width], own_apart=batch.logprobs,
            masks=masks_of(self, batch) if batch.constrained else None,
            mass_temperatures=batch.temperatures if self.bound.weighs_masks else None,
        )  # fmt: skip

    def scores(self, batch: Batch, context: Context, forwarded: bool = False) -> Tensor:
        """``(slots, V)``: every lane that is needed runs once, and the stages follow.

        With ``forwarded``, ``forward`` has run those that every step needs.
        """
        if not forwarded:
            self.forward(batch)
        return finished([self.scoring(batch, context)])[0]

    def scoring(self, batch: Batch, context: Context) -> Scoring:
        """The same once ``forward`` has run; it stops as ``chains`` does."""
        self._take_logits(batch, context)
        return (yield from self._combining(context))

    def _take_logits(self, batch: Batch, context: Context) -> None:
        """Those of the lanes that every step needs, into the context."""
        prepared: Prepared = batch.prepared[self]
        outputs = [self.bound.lanes[number].logits() for number in prepared.certain]
        if self.bound.term_parallel is not None:
            outputs = self.bound.term_parallel.all_reduce(prepared.certain, outputs)
        for lane, logits in zip(prepared.certain, outputs, strict=True):
            columns = batch.token_columns.get(lane)
            own = self.bound.lanes[lane].vocabulary
            context.logits[lane] = Logits(logits.to(batch.device), context.width, columns, own)
        if batch.by_component:
            self._components.tell(batch, context)

    def combined(self, context: Context, last: int = 0) -> Tensor:
        """``(slots, V)`` the formula and its stages, over logits that are there or come.

        The ``last`` stages, so many, are left out.
        """
        return finished([self._combining(context, last)])[0]

    def _combining(self, context: Context, last: int = 0) -> Scoring:
        for node, reading in self._stateful:  # whether or not a row takes their side of a where
            if any(context.needing[node].rows):
                reading(context)
        sums = self._scores if context.components is None else self._components.scores
        head = sums(context)[:, : context.vocabulary]
        if context.unreadable is not None:
            head = head.masked_fill(context.unreadable, -torch.inf)
        if isinstance(self._search, Reject) and self._search.entropy is not None:
            surprise = entropy(log_softmax(head)) >= context.number(self._search.entropy)
            context.unsure.append(surprise[:, 0].long())
        if self._stage_numbers is not None:
            context.numbers = self._stage_numbers(context)
        return (yield from chains(head, context, undrawn.without(self.stages, last), OF_REQUEST))

    def read_scores(
        self,
        logits: Logits,
        row_map: RowMap,
        read: Read,
        raw: bool,
        context: Context,
        owner: Tensor | None = None,
    ) -> Tensor:
        """One term's scores from its lane's logits, or what a head says of its row.

        Where they are NaN is noted. ``raw`` is as ``is_raw`` says. With ``owner``, the slot of each
        row of the context, the logits are of the context's rows.
        """
        if read.head:
            logits = logits.head(self.bound.heads[read])
        broken, gathers = logits.broken, owner is None and not row_map.is_identity
        if owner is not None:
            broken = broken & row_map.present[owner]
        elif gathers:
            broken = broken.index_select(0, row_map.rows) & row_map.present
        if context.wanted is not None:
            broken = broken & context.wanted[:, 0]
        source = ("head", read) if read.head else row_map.source
        known = context.broken.get(source)
        context.broken[source] = broken if known is None else broken | known
        raw = raw and (read.is_number or context.next_tokens is None)
        scores = logits.raw if raw else logits.logprobs
        return scores.index_select(0, row_map.rows) if gathers else scores

    def commit(self, batch: Batch, context: Context, tokens: Tensor) -> None:
        """Hand the chosen tokens to the stages and the lanes."""
        prepared: Prepared = batch.prepared[self]
        for address, stage in self._plan.reranks:
            commit(stage, address, tokens, context)
        for lane, owners, reads in prepared.feeds:
            fed = tokens if owners is None else tokens[owners]
            lane.feed(fed if reads is None else reads[fed])
        if prepared.tables:
            add_drawn(prepared.tables, tokens)
        if batch.thoughts is not None:
            batch.thoughts.read(tokens)
        prepared.steps.add_(1)
        batch.state.taken += 1

    def drawn(self, batch: Batch, context: Context, masked: Tensor, drawn: Draw) -> Drawn:
        """Commit the drawn tokens, and gather what the host needs to know."""
        if batch.search_scores is not None:
            batch.state.scores_before.copy_(batch.search_scores)
            batch.search_scores[: batch.width] += self.search_scores(context, drawn.tokens)
        self.commit(batch, context, drawn.tokens)
        rows = [drawn.tokens, undrawn.alarms(context, drawn.scores), context.steps]
        if batch.logprobs:
            assert context.own is not None
            rows += logprob_rows(context.own, masked, batch, drawn.tokens)
        results = torch.stack([*rows, *context.unsure])
        return Drawn(list(context.broken), results, drawn.scores)

    def prepare(self, batch: Batch) -> Prepared:
        """Work out what holds until the batch's slots change, once the devices have the change."""
        upload_changes([batch])
        used, lanes = slice(batch.width), self.bound.lanes
        rewarders: dict[StageAddress, Rewarder] = {}
        for address, stage in self._plan.reranks:
            row_maps = [row_map for row_map in batch.row_maps if row_map.term.address == address]
            if running := {each.term.lane: lanes[each.term.lane] for each in row_maps if each.live}:
                how = moves_winner(address, stage), self.count, self.bound.term_parallel
                rewarders[address] = CandidateRewards(row_maps, running, batch.owners, *how)
        reads: list[Reading] = []
        for read, row_map in reads_of(self._plan, batch.row_maps):
            own = self._reading(row_map, read, batch)
            reads.append(own if row_map.live else Context.zeros)
        search: list[tuple[RowMap, Reading]] = []
        for row_map in batch.row_maps:
            if row_map.term.address and row_map.term.language:
                own = self._reading(row_map, Read(row_map.term.term), batch)
                search.append((row_map, own if row_map.live else Context.zeros))
        certain = self._running(batch, self._certain)
        feeds, alike = [], {each.term.lane for each in batch.row_maps if each.is_identity}
        for lane in fed_lanes(batch.bound):
            if batch.owners[lane].numel():
                owners = None if lane in alike else batch.owners[lane]
                columns = batch.token_columns.get(lane)
                reads_first = columns and columns.reads
                feeds.append((lanes[lane], owners, reads_first))
        prepared = batch.prepared[self] = Prepared(
            batch.values[used], batch.steps[used],
            {table: rows[used] for table, rows in batch.tables.items()}, reads, rewarders, search,
            partial(texts_of, weakref.proxy(batch)), certain,
            [lanes[lane].forward for lane in certain], feeds, self._needing(batch),
        )  # fmt: skip
        return prepared

    def _needing(self, batch: Batch) -> dict[Operator, Needing]:
        """The rows that need each operator with a state: behind no coefficient of 0."""
        if not self._stateful:
            return {}
        running = [{*self._plan.running(request.values)} for request in batch.requests]
        needing, idle = {}, [False] * (batch.width - batch.count)
        for node, _ in self._stateful:
            rows = [node in nodes for nodes in running]
            mask = None if all(rows) else torch.tensor([[each] for each in (*rows, *idle)])
            needing[node] = Needing(rows, None if mask is None else mask.to(batch.device))
        return needing

    def _running(self, batch: Batch, lanes: set[int]) -> list[int]:
        """Those of some lanes that any row of the batch has a row in."""
        return sorted({row_map.term.lane for row_map in batch.row_maps if row_map.live} & lanes)

    def _component_sampler(self) -> ComponentSampler:
        """What draws components of the final mixture; nobody asks it where there is none."""
        lanes, scores, columns = {ALL: self._certain}, {ALL: self._scores}, []
        for number, (weight, part) in enumerate(components(self._plan)):
            terms = terms_of(part, certain=self.syncs)
            lanes[number] = {term.lane for term in self.bound.terms if term.term in terms}
            scores[number] = scorer(part, self.columns)
            columns.append(self._plan.columns[weight])
        return ComponentSampler(columns, lanes, scores)

    def is_raw(self, row_map: RowMap, read: Read) -> bool:
        """Whether raw logits serve, or are what a head gives, where no text is scored."""
        return read.is_number or (row_map.term.address is None and read in self.unnormalised)

    def _reading(self, row_map: RowMap, read: Read, batch: Batch) -> Reading:
        """What gives one term's scores, or what a head says of it; it does not hold the batch."""
        columns = batch.token_columns.get(row_map.term.lane)
        raw = self.is_raw(row_map, read)
        return partial(self._read, row_map, read, raw, batch.device, columns)

    def _read(
        self,
        row_map: RowMap,
        read: Read,
        raw: bool,
        device: torch.device,
        columns: TokenColumns | None,
        context: Context,
    ) -> Tensor:
        """One term's scores, or a head's; its lane runs when the first of them is needed."""
        lane = row_map.term.lane
        if lane not in context.logits:
            if self.bound.lanes[lane].forward():
                self.count([lane])
            logits, own = self.bound.lanes[lane].logits(), self.bound.lanes[lane].vocabulary
            context.logits[lane] = Logits(logits.to(device), context.width, columns, own)
        return self.read_scores(context.logits[lane], row_map, read, raw, context)

    def mark(self) -> tuple[list[int], int]:
        """What has been counted, for ``rewind`` and ``progress``."""
        return [*self.forwards], self.bytes_read

    def rewind(self, mark: tuple[list[int], int]) -> None:
        """Go back to that."""
        self.forwards[:], self.bytes_read = mark

    def progress(self, mark: tuple[list[int], int]) -> list[int]:
        """How often each lane has run since then."""
        return [now - then for now, then in zip(self.forwards, mark[0], strict=True)]

    def advance(self, progress: Sequence[int]) -> None:
        """Count the same again."""
        for lane, forwards in enumerate(progress):
            self.count([lane] if forwards else [], forwards)

    def count(self, lanes: Sequence[int], forwards: int = 1) -> None:
        """Count forwards of lanes, and the bytes that they read."""
        for lane in lanes:
            footprint, rows = self.footprints[lane], self.bound.lanes[lane].rows
            self.forwards[lane] += forwards
            caches = footprint.row_bytes * rows.count + footprint.token_bytes * rows.total
            self.bytes_read += forwards * (footprint.weight_bytes + caches)

    def search_scores(
        self, context: Context, tokens: Tensor, owner: Tensor | None = None
    ) -> Tensor:
        """``(rows, terms)`` float32, the drawn tokens' log-probabilities by a search's models.

        Then, for particles, the logarithm of what constraints left of the formula's probability.
        With ``owner``, the slot of each row of the context.
        """
        columns = []
        for row_map, scores in context.search_terms:
            logprobs = scores(context).gather(1, tokens[:, None])[:, 0]
            present = row_map.present if owner is None else row_map.present[owner]
            columns.append(torch.where(present, logprobs, 0.0))
        if self.bound.weighs_masks:
            columns.append(sum(context.kept_mass, torch.zeros_like(context.values[:, 0])))
        return torch.stack(columns, dim=1)
