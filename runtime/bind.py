"""Binding: a plan and the models that it names become lanes, grouped by shared weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..formula import Plan, Term
from ..formula.nodes import Place
from ..formula.stages import Stage
from ..models import (
    REWARD,
    SCORES,
    Card,
    ElsewhereLane,
    ModelError,
    ModelSpec,
    RuleReward,
    TableModel,
    TransformersLane,
    adapter_folder,
    choose_label,
    load_model,
    tried,
    valued,
)
from .bound import Bound
from .described import Described
from .house import House
from .judged import text_lane
from .ranks import Ranks
from .reader import Reader
from .stages import moves_winner


def bind(
    plan: Plan,
    specs: Mapping[str, ModelSpec],
    dtype: str | None,
    device: str,
    skeleton: bool = False,
    ranks: Ranks | None = None,
    house: House | None = None,
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
    return _Binder(plan, specs, dtype, device, skeleton, ranks, house or House()).bind()


class _Binder:
    def __init__(
        self,
        plan: Plan,
        specs: Mapping[str, ModelSpec],
        dtype: str | None,
        device: str,
        skeleton: bool,
        ranks: Ranks | None,
        house: House,
    ) -> None:
        self.plan, self.specs, self.dtype, self.device = plan, specs, dtype, device
        self.skeleton, self.ranks = skeleton, ranks
        self.owners: dict[tuple[Any, ...], int] = {}  # weights: the rank that holds them
        self.lanes: dict[tuple[Any, ...], Any] = {}
        self.lane_names: dict[tuple[Any, ...], list[str]] = {}
        self.house = house
        self.untested: list[str] = []  # what was found of models of families that no test covers
        self.told = Described(plan, specs, dtype, device)

    def bind(self) -> Bound:
        plan = self.plan
        size, notes = self.told.size, [*self.told.notes]
        self._share_out()
        made = {term: self._reader(term, SCORES, None, size) for term in self.told.written()}
        readers = tuple(made[term] for term in plan.terms)
        rewards = {
            place: tuple(
                self._reader(part.term, REWARD, (place, stage), size)
                for _, part in stage.reward.parts
            )
            for place, stage in plan.reranks
        }
        if plan.search is not None:
            place, search = plan.search
            kind = self.told.cards[plan.judges[0].model].kind
            rewards[place] = tuple(
                self._reader(part.term, kind, (place, search), size) for _, part in search.r.parts
            )
        every = [*readers, *(reader for some in rewards.values() for reader in some)]
        terms = {term.model for term in plan.terms} - set(self.told.mapped)
        tokenizers = [self.told.cards[name].tokenizer for name in plan.models if name in terms]
        by_ids = [
            card for name, card in self.told.cards.items() if name not in self.told.reads_text
        ]
        limits = [card.positions for card in by_ids if card.positions]
        named = {term.model for term in plan.spans}
        named |= {spec.on for spec in self.specs.values() if spec.on}
        unused = sorted(set(self.specs) - named)
        notes += self.untested
        notes += [f"{name} is declared and not in the formula: not loaded" for name in unused]
        if self.ranks is not None:
            weights = {reader.lane: self.told.cards[reader.term.model].weights for reader in every}
            self.ranks.owners = tuple(self.owners.get(weights[i]) for i in range(len(self.lanes)))
        return Bound(
            plan, readers, rewards, tuple(self.lanes.values()),
            tuple(_together(names) for names in self.lane_names.values()),
            size, self.device, next((t for t in tokenizers if t is not None), None),
            frozenset().union(*(self.told.cards[name].eos for name in terms)),
            min(limits, default=None), (*plan.dropped, *notes), self.ranks,
        )  # fmt: skip

    def _reader(
        self, term: Term, kind: str, asked: tuple[Place, Stage] | None, size: int
    ) -> Reader:
        home = self.told.home(term.model)
        spec, card = self.specs[home], self.told.cards[term.model]
        reads_text = kind == REWARD and term.model in self.told.reads_text
        model = self._load(card, spec, rows=not reads_text)
        if card.valued:
            model = self.told.marked(
                term.model, partial(valued, card.name, model, spec, self.skeleton)
            )
        place, stage = asked if asked else (None, None)
        mapped = self.told.mapped.get(term.model) if term.aligned else None
        by = spec.tokenizer if isinstance(spec.tokenizer, str) else id(spec.tokenizer)
        key = (place if kind == REWARD else None, mapped, reads_text and by, *card.weights)
        if key not in self.lanes:
            width = size if mapped is None else mapped.own
            reads_all = place is not None and kind == REWARD and moves_winner(place, stage)
            make = partial(self._lane, card, model, width, reads_all, reads_text)
            shares = self.house.together and kind == SCORES
            self.lanes[key] = self.house.party((*key, width), make) if shares else make()
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
            label = self.told.marked(term.model, lambda: choose_label(card, wanted))
        shared = self.told.shared if reads_text else None
        return Reader(
            term, own, card.tokenizer, number, adapter, place, kind == SCORES, label, shared, mapped
        )

    def _load(self, card: Card, spec: ModelSpec, rows: bool) -> Any:
        weights = self.house.weights
        if card.weights not in weights:
            empty = self.skeleton or self._elsewhere(card)
            model = self.told.marked(
                card.name, lambda: load_model(card, spec, self.dtype, self.device, empty)
            )
            weights[card.weights] = model
            if rows and card.config is not None and not empty:
                trial = partial(tried, card.name, model, card.kind == REWARD)
                self.untested += self.told.marked(card.name, trial)
        return weights[card.weights]

    def _lane(self, card: Card, model: Any, width: int, reads_all: bool, reads_text: bool) -> Any:
        if isinstance(model, (TableModel, RuleReward)):
            return model.lane(width)
        if reads_text:
            return text_lane(model, card, self.told.shared)
        if self._elsewhere(card):
            return ElsewhereLane(model, width, reads_all, self.device)
        return TransformersLane(model, width, reads_all)

    def _elsewhere(self, card: Card) -> bool:
        """Whether another process holds a model's weights."""
        rank = self.ranks.rank if self.ranks is not None else None
        return self.owners.get(card.weights, rank) != rank

    def _share_out(self) -> None:
        """Give every set of weights a rank.

        Tables, rewards that read text, and models whose layers are split are everywhere.
        """
        split = [name for name in self.told.cards if self.specs[self.told.home(name)].tp_plan]
        if self.ranks is None:
            if split:
                problem = f"{split[0]} is to be split over processes, and this decoder has one"
                raise self.told.at(ModelError(problem, 'say parallel="terms"', split[0]))
            return
        for name in split:
            config = self.told.cards[name].config.get_text_config()
            heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
            if heads % self.ranks.size:
                problem = (
                    f"{name} has {heads} key heads, which {self.ranks.size} processes cannot share"
                )
                raise self.told.at(ModelError(problem, "start as many as divide them", name))
        everywhere = {self.told.cards[name].weights for name in {*self.told.reads_text, *split}}
        sizes: dict[tuple[Any, ...], int] = {}
        for name, card in self.told.cards.items():
            if card.config is not None and card.weights not in everywhere:
                spec = self.specs[self.told.home(name)]
                shapes = load_model(card, spec, self.dtype, self.device, skeleton=True)
                sizes[card.weights] = sum(p.nbytes for p in shapes.parameters())
        ranks = self.ranks.shared_out(list(sizes.values()))
        self.owners = dict(zip(sizes, ranks, strict=True))

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
