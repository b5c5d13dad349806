"""Binding: a plan and the models that it names become lanes, grouped by shared weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ...formula import Plan, Read, Scalar, Term
from ...formula.nodes import StageAddress
from ...formula.words.stages import Rerank, Stage
from ...models import ModelError, ModelSpec, ResolvedModel
from ...models.checkpoint.description import REWARD, SCORES, Description
from ...models.heads.declared import declared_head
from ...models.heads.layer_heads import HeadColumns
from ...models.images.processor import PromptProcessor
from ...models.lanes.recurrent.lane import token_lane
from ...models.lanes.remote import RemoteLane
from ...models.loading import towers
from ...models.loading.declared import add_declared, load_declared
from ...models.loading.processors import declared_processor
from ...models.loading.self_check import self_check
from ...models.loading.value_head import with_value_head
from ...models.tables import RuleReward, TableModel
from ..constraints.plan import PlanConstraints
from ..scores.stages import moves_winner
from .bound import Bound, reward_stages
from .bound_term import BoundTerm
from .checks import CheckedModels
from .reward_input import text_lane
from .term_parallel import TermParallel
from .thinking import check_thinking
from .weight_pool import WeightPool


def bind(
    plan: Plan,
    specs: Mapping[str, ModelSpec],
    dtype: str | None,
    device: str,
    skeleton: bool = False,
    term_parallel: TermParallel | None = None,
    pool: WeightPool | None = None,
) -> Bound:
    """Describe, check, load and group the models of a plan.

    Args:
        plan: the checked formula.
        specs: every declared model; those that the plan does not need are not loaded.
        dtype: for models that name none; None is the checkpoint's own.
        device: for models that name none.
        skeleton: shapes only; enough for a report, and no weights are read.
        term_parallel: the processes that share the weights.
        pool: the weights in memory; weights that are read are added to it.

    Raises:
        FormulaError: a model that does not fit its place in the formula, marked there.
        ModelError: a checkpoint that cannot be read.
    """
    pool = pool or WeightPool()
    checked = CheckedModels(plan, specs, dtype, device, pool)
    bound = Binder(checked, skeleton, term_parallel, pool).bind()
    check_thinking(bound)
    return bound


@dataclass
class Binder:
    """Binds one plan of checked models; other arguments are those of ``bind``.

    Attributes:
        existing: a bound plan whose lanes come first, and serve this one too.
    """

    checked: CheckedModels
    skeleton: bool
    term_parallel: TermParallel | None
    pool: WeightPool
    existing: Bound | None = None

    def __post_init__(self) -> None:
        self.owners: dict[tuple[Any, ...], int] = {}  # weights: the rank that holds them
        self.lanes: dict[tuple[Any, ...], Any] = {}
        self.lane_names: dict[tuple[Any, ...], list[str]] = {}
        if self.existing is not None:
            keys, names = self.existing.lane_keys, self.existing.lane_names
            self.lanes = dict(zip(keys, self.existing.lanes, strict=True))
            self.lane_names = {k: n.split(" + ") for k, n in zip(keys, names, strict=True)}
        self.untested: list[str] = []  # notes about models of families that no test covers
        self.models, self.descriptions = self.checked.models, self.checked.descriptions
        self.split = [name for name, model in self.models.items() if model.spec.tp_plan]

    def bind(self) -> Bound:
        """Load what is missing, and group it by shared weights; errors are those of ``bind``."""
        checked, plan = self.checked, self.checked.plan
        if self.term_parallel is not None:
            self._assign_ranks(self.term_parallel)
        elif self.split:
            problem = f"{self.split[0]} is to be split over processes, and this decoder has one"
            raise checked.at(ModelError(problem, 'say parallel="terms"', self.split[0]))
        by_term = {term: self._term(term, SCORES) for term in checked.written()}
        rewards = {
            address: tuple(
                self._term(term, checked.kind_of(stage, term), address, stage)
                for term in reward.terms
            )
            for address, stage, reward in reward_stages(plan)
        }
        language = {term.model for term in plan.terms} - checked.token_maps.keys()
        tokenizers = (self.descriptions[name].tokenizer for name in plan.models if name in language)
        limits = [
            description.positions
            for name, description in self.descriptions.items()
            if name not in checked.reads_text and description.positions
        ]
        bases = (spec.on for spec in checked.specs.values())
        used = {*(term.model for term in plan.spans), *plan.declared, *bases}
        unused = (unused_note(name) for name in sorted(checked.specs.keys() - used))
        bound = Bound(
            plan=plan,
            terms=tuple(by_term[term] for term in plan.terms),
            rewards=rewards,
            lanes=tuple(self.lanes.values()),
            lane_names=tuple(" + ".join(names) for names in self.lane_names.values()),
            vocabulary=checked.size,
            device=checked.device,
            tokenizer=next((item for item in tokenizers if item is not None), None),
            eos=frozenset().union(*(self.descriptions[name].eos for name in language)),
            positions=min(limits, default=None),
            notes=(*plan.dropped, *_kept(plan), *checked.notes, *self.untested, *unused),
            term_parallel=self.term_parallel,
            lane_keys=tuple(self.lanes),
            heads={read: self._head(read, by_term[read.term]) for read in plan.heads},
            described=tuple(self.descriptions[name] for name in plan.models if name in language),
        )
        constraints = PlanConstraints(plan, bound.tokenizer, bound.vocabulary)
        constraints.check()
        bound = replace(bound, constraints=constraints)
        if self.term_parallel is not None:
            models = {term.lane: term.term.model for term in bound.all_terms}
            held = [self.descriptions[models[i]].weights for i in range(len(self.lanes))]
            self.term_parallel.owners = tuple(map(self.owners.get, held))
        return bound

    def _term(
        self, term: Term, kind: str, address: StageAddress | None = None, stage: Stage | None = None
    ) -> BoundTerm:
        """Load a term's weights, and bind it to their lane, which gives scores or rewards."""
        checked, name = self.checked, term.model
        model, description = self.models[name], self.descriptions[name]
        reads_text = kind == REWARD and name in checked.reads_text
        weights = self._weights(model, description)
        if description.value_head:
            make = partial(with_value_head, description.name, weights, model.spec, self.skeleton)
            weights = checked.marked(name, make)
        token_map = checked.token_maps.get(name) if term.aligned else None
        tokenizer = model.spec.tokenizer
        by = tokenizer if isinstance(tokenizer, str) else id(tokenizer)
        encodes = (by, model.spec.steps) if reads_text else None
        key = (address if kind == REWARD else None, token_map, encodes, *description.weights)
        if key not in self.lanes:
            width = checked.size if token_map is None else token_map.other_size
            reads_all = address is not None and kind == REWARD and moves_winner(address, stage)
            lane = partial(self._lane, description, weights, width, reads_all)
            if reads_text:
                shared, where = checked.shared, checked.device
                lane = partial(text_lane, model, weights, description, shared, where, stage)
            if self.pool.together and kind == SCORES:
                self.lanes[key] = self.pool.view((*key, width), lane)
            elif self.pool.together and isinstance(stage, Rerank) and not reads_text:
                reading = token_map, reads_all, *description.weights
                self.lanes[key] = self.pool.rewards((REWARD, *reading), lane)
            else:
                self.lanes[key] = lane()
            self.lane_names[key] = []
        owners = [self.models[each].spec for each in (name, model.base) if each in self.models]
        if any(spec.model is not None for spec in owners):
            self.lanes[key].weights_may_change = True
        if name not in self.lane_names[key]:
            self.lane_names[key].append(name)
        return BoundTerm(
            term=term,
            spec=model.spec,
            tokenizer=description.tokenizer,
            lane=list(self.lanes).index(key),
            additions=self._additions(term, model, self.lanes[key], key),
            address=address,
            language=kind == SCORES,
            label=checked.label(model, stage) if kind == REWARD else None,
            shared=checked.shared if reads_text else None,
            token_map=token_map,
            rows=description.size,
            rowless=checked.rowless[name],
            processor=self._processor(model.spec, description, weights),
        )

    def _processor(
        self, spec: ModelSpec, description: Description, weights: Any
    ) -> PromptProcessor | None:
        """By which a model reads images; None where it has no eyes."""
        if description.config is None:
            return None
        make = partial(declared_processor, spec, description, weights)
        processor: PromptProcessor | None = self.checked.marked(description.name, make)
        return processor

    def _weights(self, model: ResolvedModel, description: Description) -> Any:
        """A model's weights, from the pool or read into it; what is read by tokens is tested."""
        weights, checked = self.pool.weights, self.checked
        if description.weights not in weights:
            empty = self.skeleton or self._is_remote(description)
            options = checked.dtype, checked.device, empty
            load = partial(load_declared, description, model, *options)
            weights[description.weights] = checked.marked(description.name, load)
            self.untested += towers.notes(description.name, weights[description.weights])
            by_tokens = any(
                other.weights == description.weights and name not in checked.reads_text
                for name, other in self.descriptions.items()
            )
            if by_tokens and description.config is not None and not empty:
                reward = description.kind == REWARD
                trial = partial(self_check, description.name, weights[description.weights], reward)
                self.untested += checked.marked(description.name, trial)
        return weights[description.weights]

    def _lane(self, description: Description, model: Any, width: int, reads_all: bool) -> Any:
        if isinstance(model, (TableModel, RuleReward)):
            return model.lane(width)
        if self._is_remote(description):
            return RemoteLane(model, width, reads_all, self.checked.device)
        return token_lane(model, width, reads_all)

    def _additions(
        self, term: Term, model: ResolvedModel, lane: Any, key: tuple[Any, ...]
    ) -> tuple[tuple[Scalar | None, int], ...]:
        """What a term's rows add to the weights of its lane: adapters and vectors, with weights.

        That is what the term says in brackets; or the adapter or vector that its model is itself.
        """
        additions: list[tuple[Scalar | None, int]] = []
        if model.addition is not None and not model.merged:
            action = partial(self._loaded, model, lane)
            additions.append((None, self.checked.marked(model.name, action)))
        for number, name in term.additions:
            action = partial(self._loaded, self.checked.additions[name], lane)
            additions.append((number, self.checked.marked_at(number.span, action)))
            if name not in self.lane_names[key]:
                self.lane_names[key].append(name)
        return tuple(additions)

    def _head(self, read: Read, bound_term: BoundTerm) -> HeadColumns:
        """What a head gives of a term's row, in the forward of its lane."""
        lane = list(self.lanes.values())[bound_term.lane]
        head = declared_head(read.head, self.checked.specs[read.head])
        span = self.checked.plan.head_spans[read]
        columns: HeadColumns = self.checked.marked_at(span, partial(lane.add_head, head))
        return columns

    def _loaded(self, model: ResolvedModel, lane: Any) -> int:
        """The number on a lane of an adapter or a vector, loaded where it is not yet."""
        name, base = model.name, model.base
        if model.spec.tp_plan:
            problem = f"{name} is {model.kind} on {base}, whose layers are split over processes"
            raise ModelError(problem, f"leave tp_plan out of {base}", name)
        if not hasattr(lane, "adapters"):
            raise ModelError(f"{name} is {model.kind} on a table, which has no layers", "", name)
        return add_declared(model, lane.adapters)

    def _is_remote(self, description: Description) -> bool:
        """Whether another process holds a model's weights; of shapes alone, none does."""
        if self.skeleton:
            return False
        rank = self.term_parallel.rank if self.term_parallel is not None else None
        return self.owners.get(description.weights, rank) != rank

    def _assign_ranks(self, term_parallel: TermParallel) -> None:
        """A rank per set of weights; all hold tables, text rewards and parts of split models."""
        checked, size = self.checked, term_parallel.size
        for name in self.split:
            config = self.descriptions[name].config.get_text_config()
            heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
            if heads % size:
                problem = f"{name} has {heads} key heads, which {size} processes cannot share"
                raise checked.at(ModelError(problem, "start as many as divide them", name))
        everywhere = {self.descriptions[n].weights for n in (*checked.reads_text, *self.split)}
        sizes: dict[tuple[Any, ...], int] = {}
        for name, description in self.descriptions.items():
            if description.config is not None and description.weights not in everywhere:
                options = checked.dtype, checked.device, True
                shapes = load_declared(description, self.models[name], *options)
                sizes[description.weights] = sum(p.nbytes for p in shapes.parameters())
        self.owners = dict(zip(sizes, term_parallel.assign(list(sizes.values())), strict=True))


def _kept(plan: Plan) -> list[str]:
    """A note where numbers stand as they are written."""
    if not plan.kept:
        return []
    numbers = "a number is" if plan.kept == 1 else f"{plan.kept} numbers are"
    return [f"{numbers} worked out as written: to multiply out all of them is too much work"]


def unused_note(name: str) -> str:
    """The line of a plan on a model that it does not load."""
    return f"{name} is declared and not in the formula: not loaded"
