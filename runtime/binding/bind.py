"""Binding: a plan and the models that it names become lanes, grouped by shared weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ...formula import Plan, Term
from ...formula.nodes import StageAddress
from ...formula.words.stages import Stage
from ...models import ModelError, ModelSpec
from ...models.checkpoint.adapter import adapter_folder
from ...models.checkpoint.description import REWARD, SCORES, Description
from ...models.checkpoint.labels import choose_label
from ...models.lanes.remote import RemoteLane
from ...models.lanes.transformers_lane import TransformersLane
from ...models.loading.load import load_model
from ...models.loading.self_check import self_check
from ...models.loading.value_head import with_value_head
from ...models.tables import RuleReward, TableModel
from ..scores.stages import moves_winner
from .bound import Bound
from .bound_term import BoundTerm
from .checks import Described
from .reward_input import text_lane
from .term_parallel import TermParallel
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
        specs: every declared model; those that the plan does not need are left alone.
        dtype: for models that name none; None is the checkpoint's own.
        device: for models that name none.
        skeleton: shapes only; enough for a report, and no weights are read.
        ranks: the processes to share the weights out among.
        house: what other plans have in memory already; what is read is put there.

    Raises:
        FormulaError: a model that does not fit its place in the formula, marked there.
        ModelError: a checkpoint that cannot be read.
    """
    return _Binder(plan, specs, dtype, device, skeleton, term_parallel, pool or WeightPool()).bind()


class _Binder:
    def __init__(
        self,
        plan: Plan,
        specs: Mapping[str, ModelSpec],
        dtype: str | None,
        device: str,
        skeleton: bool,
        term_parallel: TermParallel | None,
        pool: WeightPool,
    ) -> None:
        self.plan, self.specs, self.dtype, self.device = plan, specs, dtype, device
        self.skeleton, self.term_parallel = skeleton, term_parallel
        self.owners: dict[tuple[Any, ...], int] = {}  # weights: the rank that holds them
        self.lanes: dict[tuple[Any, ...], Any] = {}
        self.lane_names: dict[tuple[Any, ...], list[str]] = {}
        self.pool = pool
        self.untested: list[str] = []  # what was found of models of families that no test covers
        self.told = Described(plan, specs, dtype, device)

    def bind(self) -> Bound:
        plan = self.plan
        size, notes = self.told.size, [*self.told.notes]
        self._share_out()
        made = {term: self._reader(term, SCORES, None, size) for term in self.told.written()}
        bound_terms = tuple(made[term] for term in plan.terms)
        rewards = {
            place: tuple(
                self._reader(part.term, REWARD, (place, stage), size)
                for _, part in stage.reward.parts
            )
            for place, stage in plan.reranks
        }
        if plan.search is not None:
            place, search = plan.search
            kind = self.told.descriptions[plan.search_terms[0].model].kind
            rewards[place] = tuple(
                self._reader(part.term, kind, (place, search), size) for _, part in search.r.parts
            )
        every = [*bound_terms, *(bound_term for some in rewards.values() for bound_term in some)]
        terms = {term.model for term in plan.terms} - set(self.told.mapped)
        tokenizers = [
            self.told.descriptions[name].tokenizer for name in plan.models if name in terms
        ]
        by_ids = [
            description
            for name, description in self.told.descriptions.items()
            if name not in self.told.reads_text
        ]
        limits = [description.positions for description in by_ids if description.positions]
        named = {term.model for term in plan.spans}
        named |= {spec.on for spec in self.specs.values() if spec.on}
        unused = sorted(set(self.specs) - named)
        notes += self.untested
        notes += [f"{name} is declared and not in the formula: not loaded" for name in unused]
        if self.term_parallel is not None:
            weights = {
                bound_term.lane: self.told.descriptions[bound_term.term.model].weights
                for bound_term in every
            }
            self.term_parallel.owners = tuple(
                self.owners.get(weights[i]) for i in range(len(self.lanes))
            )
        return Bound(
            plan, bound_terms, rewards, tuple(self.lanes.values()),
            tuple(_together(names) for names in self.lane_names.values()),
            size, self.device, next((t for t in tokenizers if t is not None), None),
            frozenset().union(*(self.told.descriptions[name].eos for name in terms)),
            min(limits, default=None), (*plan.dropped, *notes), self.term_parallel,
        )  # fmt: skip

    def _reader(
        self, term: Term, kind: str, asked: tuple[StageAddress, Stage] | None, size: int
    ) -> BoundTerm:
        home = self.told.home(term.model)
        spec, description = self.specs[home], self.told.descriptions[term.model]
        reads_text = kind == REWARD and term.model in self.told.reads_text
        model = self._load(description, spec, rows=not reads_text)
        if description.value_head:
            model = self.told.marked(
                term.model, partial(with_value_head, description.name, model, spec, self.skeleton)
            )
        place, stage = asked if asked else (None, None)
        mapped = self.told.mapped.get(term.model) if term.aligned else None
        by = spec.tokenizer if isinstance(spec.tokenizer, str) else id(spec.tokenizer)
        key = (place if kind == REWARD else None, mapped, reads_text and by, *description.weights)
        if key not in self.lanes:
            width = size if mapped is None else mapped.other_size
            reads_all = place is not None and kind == REWARD and moves_winner(place, stage)
            make = partial(self._lane, description, model, width, reads_all, reads_text)
            shares = self.pool.together and kind == SCORES
            self.lanes[key] = self.pool.view((*key, width), make) if shares else make()
            self.lane_names[key] = []
        if term.model not in self.lane_names[key]:
            self.lane_names[key].append(term.model)
        adapter = self._adapter(term.model, key) if home != term.model else 0
        own = self.specs[term.model]
        if home != term.model:  # an adapter reads as its base does, where it says nothing itself
            said = {k: v for k, v in own if v is not None and k in ("template", "system", "prefix")}
            own = spec.model_copy(update=said)
        number = list(self.lanes).index(key)
        label = None
        if kind == REWARD:
            chosen = getattr(stage, "label", None)
            wanted = chosen if chosen is not None else own.label
            label = self.told.marked(term.model, lambda: choose_label(description, wanted))
        shared = self.told.shared if reads_text else None
        return BoundTerm(
            term,
            own,
            description.tokenizer,
            number,
            adapter,
            place,
            kind == SCORES,
            label,
            shared,
            mapped,
        )

    def _load(self, description: Description, spec: ModelSpec, rows: bool) -> Any:
        weights = self.pool.weights
        if description.weights not in weights:
            empty = self.skeleton or self._is_remote(description)
            model = self.told.marked(
                description.name,
                lambda: load_model(description, spec, self.dtype, self.device, empty),
            )
            weights[description.weights] = model
            if rows and description.config is not None and not empty:
                trial = partial(self_check, description.name, model, description.kind == REWARD)
                self.untested += self.told.marked(description.name, trial)
        return weights[description.weights]

    def _lane(
        self, description: Description, model: Any, width: int, reads_all: bool, reads_text: bool
    ) -> Any:
        if isinstance(model, (TableModel, RuleReward)):
            return model.lane(width)
        if reads_text:
            return text_lane(model, description, self.told.shared)
        if self._is_remote(description):
            return RemoteLane(model, width, reads_all, self.device)
        return TransformersLane(model, width, reads_all)

    def _is_remote(self, description: Description) -> bool:
        """Whether another process holds a model's weights."""
        rank = self.term_parallel.rank if self.term_parallel is not None else None
        return self.owners.get(description.weights, rank) != rank

    def _share_out(self) -> None:
        """Give every set of weights a rank.

        Tables, rewards that read text, and models whose layers are split are everywhere.
        """
        split = [
            name for name in self.told.descriptions if self.specs[self.told.home(name)].tp_plan
        ]
        if self.term_parallel is None:
            if split:
                problem = f"{split[0]} is to be split over processes, and this decoder has one"
                raise self.told.at(ModelError(problem, 'say parallel="terms"', split[0]))
            return
        for name in split:
            config = self.told.descriptions[name].config.get_text_config()
            heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
            if heads % self.term_parallel.size:
                problem = (
                    f"{name} has {heads} key heads, which {self.term_parallel.size} processes "
                    "cannot share"
                )
                raise self.told.at(ModelError(problem, "start as many as divide them", name))
        everywhere = {
            self.told.descriptions[name].weights for name in {*self.told.reads_text, *split}
        }
        sizes: dict[tuple[Any, ...], int] = {}
        for name, description in self.told.descriptions.items():
            if description.config is not None and description.weights not in everywhere:
                spec = self.specs[self.told.home(name)]
                shapes = load_model(description, spec, self.dtype, self.device, skeleton=True)
                sizes[description.weights] = sum(p.nbytes for p in shapes.parameters())
        term_parallel = self.term_parallel.shared_out(list(sizes.values()))
        self.owners = dict(zip(sizes, term_parallel, strict=True))

    def _adapter(self, name: str, key: tuple[Any, ...]) -> int:
        folder, revision = self.specs[name].adapter, self.specs[name].revision
        lane, base = self.lanes[key], self.specs[name].on
        if self.specs[self.told.home(name)].tp_plan:
            problem = f"{name} is an adapter on {base}, whose layers are split over processes"
            raise self.told.at(ModelError(problem, f"leave tp_plan out of {base}", name), name)
        if not hasattr(lane, "adapters"):
            raise ModelError(f"{name} is an adapter on a table, which has no layers", "", name)
        added = self.told.marked(
            name, lambda: lane.adapters.add(name, adapter_folder(folder, revision))
        )
        return int(added)


def _together(names: list[str]) -> str:
    return " + ".join(names)
