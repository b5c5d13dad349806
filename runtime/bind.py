"""Binding: a plan and the declared models become lanes, grouped by shared weights.

Everything that only a checkpoint can tell is checked here, before weights are read, and marked in
the formula: a reward model used as a term, another vocabulary, a k beyond it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from ..formula import Plan, Term
from ..formula.nodes import Place
from ..formula.scalar import parameters
from ..formula.stages import Stage
from ..grammar import FormulaError, Span
from ..models import (
    REWARD,
    SCORES,
    Card,
    Counterparts,
    ElsewhereLane,
    ModelError,
    ModelSpec,
    RuleReward,
    Side,
    TableModel,
    TransformersLane,
    adapter_folder,
    choose_label,
    common_vocabulary,
    counterparts,
    describe,
    load_model,
    one_vocabulary,
    tried,
    valued,
)
from .bound import Bound
from .house import House
from .judged import text_lane, why_text, with_values
from .ranks import Ranks
from .reader import Reader
from .stages import moves_winner

T = TypeVar("T")
_log = logging.getLogger("descant")


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
        self.cards: dict[str, Card] = {}
        self.shared: Any = None  # the tokenizer of the formula's tokens
        self.reads_text: set[str] = set()
        self.untested: list[str] = []  # what was found of models of families that no test covers
        self.mapped: dict[str, Counterparts] = {}  # the aligned models of another vocabulary

    def bind(self) -> Bound:
        plan = self.plan
        cards = {name: self._card(name) for name in plan.models}
        self.cards = with_values(plan, cards, lambda name: self.specs[self._home(name)])
        self._check_kinds()
        size, notes = self._vocabulary()
        self._check_candidates(size)
        self._share_out()
        made = {term: self._reader(term, SCORES, None, size) for term in self._written()}
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
            kind = self.cards[plan.judges[0].model].kind
            rewards[place] = tuple(
                self._reader(part.term, kind, (place, search), size) for _, part in search.r.parts
            )
        every = [*readers, *(reader for some in rewards.values() for reader in some)]
        terms = {term.model for term in plan.terms} - set(self.mapped)
        tokenizers = [self.cards[name].tokenizer for name in plan.models if name in terms]
        by_ids = [card for name, card in self.cards.items() if name not in self.reads_text]
        limits = [card.positions for card in by_ids if card.positions]
        named = {term.model for term in plan.spans}
        named |= {spec.on for spec in self.specs.values() if spec.on}
        unused = sorted(set(self.specs) - named)
        notes += self.untested
        notes += [f"{name} is declared and not in the formula: not loaded" for name in unused]
        if self.ranks is not None:
            weights = {reader.lane: self.cards[reader.term.model].weights for reader in every}
            self.ranks.owners = tuple(self.owners.get(weights[i]) for i in range(len(self.lanes)))
        return Bound(
            plan, readers, rewards, tuple(self.lanes.values()),
            tuple(_together(names) for names in self.lane_names.values()),
            size, self.device, next((t for t in tokenizers if t is not None), None),
            frozenset().union(*(self.cards[name].eos for name in terms)),
            min(limits, default=None), (*plan.dropped, *notes), self.ranks,
        )  # fmt: skip

    def _home(self, name: str) -> str:
        """The declared model whose weights a name uses: itself, or what its adapter is on."""
        spec = self.specs[name]
        if spec.on is None:
            return name
        base = self.specs.get(spec.on)
        if base is None or base.on is not None:
            what = "is not declared" if base is None else "is itself an adapter"
            raise ModelError(
                f"the adapter {name} is on {spec.on}, which {what}",
                "an adapter goes on a declared model with weights of its own",
                name,
            )
        return spec.on

    def _card(self, name: str) -> Card:
        home = self._home(name)
        return self._marked(name, lambda: describe(home, self.specs[home], self.dtype, self.device))

    def _check_kinds(self) -> None:
        plan = self.plan
        wanted = [(term, SCORES, plan.spans[term]) for term in plan.terms]
        for _, stage in plan.reranks:
            wanted += [(part.term, REWARD, number.span) for number, part in stage.reward.parts]
        if plan.search is not None:  # rewards or scores, but one or the other
            kind = self.cards[plan.judges[0].model].kind
            wanted += [(part.term, kind, n.span) for n, part in plan.search[1].r.parts]
        for term, kind, span in wanted:
            found = self.cards[term.model].kind
            if found == REWARD and term.aligned:
                problem = f"{term.model} is a reward model, and align takes a language model"
                cure = "leave align out: a reward of another tokenizer reads text by itself"
                raise plan.error(problem, span, cure)
            if found == kind:
                continue
            if found == REWARD:
                problem = f"{term.model} is a reward model, and a term is a language model"
                cure = f"write … | rerank({term.model}, k=10, w=1)"
            else:
                problem = f"{term.model} is a language model, and rerank takes reward models"
                cure = f"add it to the scores instead: base + {term.model}"
            raise plan.error(problem, span, cure)

    def _vocabulary(self) -> tuple[int, list[str]]:
        """The size of the shared vocabulary, and a note per model that differs in any way."""
        judges = [term for term in self.plan.judges if self.cards[term.model].kind == REWARD]
        language = [*self._written(), *(t for t in self.plan.judges if t not in judges)]
        aligned = dict.fromkeys(term.model for term in language if term.aligned)
        cards = [self.cards[t.model] for t in self._written() if not t.aligned]
        self.shared = next((card.tokenizer for card in cards if card.tokenizer is not None), None)
        own = dict.fromkeys(term.model for term in language if not term.aligned)
        cards, notes = [self.cards[name] for name in own], []
        for name in dict.fromkeys(term.model for term in (*self.plan.rewards, *judges)):
            card = self.cards[name]
            spec = self.specs[self._home(name)]
            why = self._marked(name, partial(why_text, card, spec, self.shared))
            if why:
                self.reads_text.add(name)
                notes.append(f"{name} reads text by its own tokenizer, {why}")
            else:
                cards.append(card)
        try:
            size, cut = common_vocabulary(cards)
            same = [n for n in aligned if one_vocabulary(self.shared, size, self.cards[n])]
            if same:
                size, cut = common_vocabulary([*cards, *(self.cards[name] for name in same)])
        except ModelError as error:
            raise self._at(error) from None
        for name in aligned:
            cut += self._map(name, size, name in same)
        return size, [*cut, *notes]

    def _map(self, name: str, size: int, same: bool) -> list[str]:
        """Map an aligned model to the formula's vocabulary; what the plan says of it."""
        if same:
            return [f"align({name}): its vocabulary is the formula's, so that nothing is mapped"]
        card = self.cards[name]
        own, cut = common_vocabulary([card])  # without the rows that are padding
        ends = {end for t in self.plan.terms if not t.aligned for end in self.cards[t.model].eos}
        shared = Side(self.shared, size, frozenset(ends))
        found = counterparts(shared, Side(card.tokenizer, own, card.eos))
        self.mapped[name], said = found, _said_of(found)
        if 2 * len(found.ours) < size:
            _log.warning("align(%s): only %s", name, said[0])
        if open_ends := sorted(end for end in ends if end < size and not found.reads[end]):
            said.append(f"no text ends at {open_ends}, which it cannot read")
            _log.warning("align(%s): %s", name, said[-1])
        return [*cut, *(f"align({name}): {note}" for note in said)]

    def _written(self) -> list[Term]:
        return sorted(self.plan.terms, key=lambda term: self.plan.spans[term])

    def _check_candidates(self, size: int) -> None:
        for scalar in self.plan.scalars:
            if scalar.limits.tokens and not parameters(scalar.expression):
                check_count(self.plan, scalar.what, scalar.span, self.plan.value(scalar, {}), size)

    def _reader(
        self, term: Term, kind: str, asked: tuple[Place, Stage] | None, size: int
    ) -> Reader:
        home = self._home(term.model)
        spec, card = self.specs[home], self.cards[term.model]
        reads_text = kind == REWARD and term.model in self.reads_text
        model = self._load(card, spec, rows=not reads_text)
        if card.valued:
            model = self._marked(term.model, partial(valued, card.name, model, spec, self.skeleton))
        place, stage = asked if asked else (None, None)
        mapped = self.mapped.get(term.model) if term.aligned else None
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
            label = self._marked(term.model, lambda: choose_label(card, wanted))
        shared = self.shared if reads_text else None
        return Reader(
            term, own, card.tokenizer, number, adapter, place, kind == SCORES, label, shared, mapped
        )

    def _load(self, card: Card, spec: ModelSpec, rows: bool) -> Any:
        weights = self.house.weights
        if card.weights not in weights:
            empty = self.skeleton or self._elsewhere(card)
            model = self._marked(
                card.name, lambda: load_model(card, spec, self.dtype, self.device, empty)
            )
            weights[card.weights] = model
            if rows and card.config is not None and not empty:
                reward = card.kind == REWARD
                self.untested += self._marked(card.name, lambda: tried(card.name, model, reward))
        return weights[card.weights]

    def _lane(self, card: Card, model: Any, width: int, reads_all: bool, reads_text: bool) -> Any:
        if isinstance(model, (TableModel, RuleReward)):
            return model.lane(width)
        if reads_text:
            return text_lane(model, card, self.shared)
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
        split = [name for name in self.cards if self.specs[self._home(name)].tp_plan]
        if self.ranks is None:
            if split:
                problem = f"{split[0]} is to be split over processes, and this decoder has one"
                raise self._at(ModelError(problem, 'say parallel="terms"', split[0]))
            return
        for name in split:
            config = self.cards[name].config.get_text_config()
            heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
            if heads % self.ranks.size:
                problem = (
                    f"{name} has {heads} key heads, which {self.ranks.size} processes cannot share"
                )
                raise self._at(ModelError(problem, "start as many as divide them", name))
        everywhere = {self.cards[name].weights for name in {*self.reads_text, *split}}
        sizes: dict[tuple[Any, ...], int] = {}
        for name, card in self.cards.items():
            if card.config is not None and card.weights not in everywhere:
                spec = self.specs[self._home(name)]
                shapes = load_model(card, spec, self.dtype, self.device, skeleton=True)
                sizes[card.weights] = sum(p.nbytes for p in shapes.parameters())
        ranks = self.ranks.shared_out(list(sizes.values()))
        self.owners = dict(zip(sizes, ranks, strict=True))

    def _adapter(self, name: str, key: tuple[Any, ...]) -> int:
        folder, revision = self.specs[name].adapter, self.specs[name].revision
        lane, base = self.lanes[key], self.specs[name].on
        if self.specs[self._home(name)].tp_plan:
            problem = f"{name} is an adapter on {base}, whose layers are split over processes"
            raise self._at(ModelError(problem, f"leave tp_plan out of {base}", name), name)
        if not hasattr(lane, "adapters"):
            raise ModelError(f"{name} is an adapter on a table, which has no layers", "", name)
        added = self._marked(
            name, lambda: lane.adapters.add(name, adapter_folder(folder, revision))
        )
        return int(added)

    def _marked(self, name: str, action: Callable[[], T]) -> T:
        """Run something about one model, marking what it says in the formula."""
        try:
            return action()
        except ModelError as error:
            raise self._at(error, name) from error.__cause__

    def _at(self, error: ModelError, name: str = "") -> FormulaError | ModelError:
        for term, span in self.plan.spans.items():
            if term.model in (error.model, name):
                return self.plan.error(error.problem, span, error.cure)
        return error


def check_count(plan: Plan, what: str, span: Span, value: float, vocabulary: int) -> None:
    """Refuse a count of tokens above the vocabulary."""
    if value > vocabulary:
        raise plan.error(f"{what} is {value:g}, and the vocabulary has {vocabulary} tokens", span)


def _said_of(found: Counterparts) -> list[str]:
    """How far two vocabularies go together: of the formula's tokens, and of the other model's."""
    size, count = len(found.theirs), len(found.ours)
    spelled = sum(bool(ids) for ids in found.reads) - count
    never = size - count - spelled
    many = f"{count} of {size} tokens of the vocabulary have a counterpart"
    if spelled:
        many += f"; {spelled} are given nothing, and read as the tokens that spell them"
    if never:
        many += f"; {never} cannot be read and are never drawn"
    lost = f"; what it gives to the other {len(found.unused)} is lost" if found.unused else ""
    said = [many, f"{found.own - len(found.unused)} of its own {found.own} tokens are one{lost}"]
    if found.literal:
        said.append("a tokenizer does not say how it decodes: tokens are taken for their strings")
    return said


def _together(names: list[str]) -> str:
    return " + ".join(names)
