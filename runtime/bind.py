"""Binding: a plan and the declared models become lanes, grouped by shared weights.

Everything that only a checkpoint can tell is checked here, before weights are read, and marked in
the formula: a reward model used as a term, another vocabulary, a k beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..formula import Plan, Term
from ..formula.plan import Place
from ..formula.scalar import parameters
from ..formula.stages import Stage
from ..grammar import FormulaError, Span
from ..models import (
    REWARD,
    SCORES,
    Card,
    ModelError,
    ModelSpec,
    RuleReward,
    TableModel,
    TextRewardLane,
    TransformersLane,
    adapter_folder,
    choose_label,
    common_vocabulary,
    describe,
    load_model,
    render,
    render_text,
)
from .stages import moves_winner

T = TypeVar("T")


@dataclass(frozen=True)
class Reader:
    """One term at its lane: what its rows are fed with.

    Attributes:
        term: the model and its prompt.
        lane: the lane's index in ``Bound.lanes``.
        adapter: 0 for the bare weights, or the adapter's number on the lane.
        place: the place of the stage that asks for it; None for a term of the scores.
        language: whether its lane gives scores; otherwise it gives rewards.
        shared: for a reward that reads text, the tokenizer that decodes the formula's tokens.
        label: for a reward, the class whose log-probability it is; None for the only output.
    """

    term: Term
    spec: ModelSpec
    tokenizer: Any
    lane: int
    adapter: int
    place: Place | None = None
    language: bool = True
    label: int | None = None
    shared: Any = None

    def reads(self, prompt: Any) -> list[int] | str:
        """The token ids, or the text, that this term reads before the response."""
        term = self.term
        if self.shared is not None:
            return render_text(
                term.model, self.spec, self.shared, self.tokenizer, prompt, term.system
            )
        return render(term.model, self.spec, self.tokenizer, prompt, term.system, term.alone)


@dataclass(frozen=True)
class Bound:
    """A plan with its lanes.

    Attributes:
        readers: one per term of ``plan.terms``, in that order.
        rewards: per stage that reranks, one per reward model of its expression.
        lanes: each with its models' names, for the report.
        vocabulary: tokens that every model shares.
        device: of the models that name none.
        eos: ids that end a text unless the request says otherwise.
        positions: the longest text that every model can read, or None.
    """

    plan: Plan
    readers: tuple[Reader, ...]
    rewards: Mapping[Place, tuple[Reader, ...]]
    lanes: tuple[Any, ...]
    lane_names: tuple[str, ...]
    vocabulary: int
    device: str
    tokenizer: Any
    eos: frozenset[int]
    positions: int | None
    notes: tuple[str, ...] = field(default=())


def bind(
    plan: Plan,
    specs: Mapping[str, ModelSpec],
    dtype: str | None,
    device: str,
    skeleton: bool = False,
) -> Bound:
    """Describe, check, load and group the models of a plan.

    Args:
        plan: the checked formula.
        specs: every declared model; those that the plan does not need are left alone.
        dtype: for models that name none; None is the checkpoint's own.
        device: for models that name none.
        skeleton: shapes only; enough for a report, and no weights are read.

    Raises:
        FormulaError: a model that does not fit its place in the formula, marked there.
        ModelError: a checkpoint that cannot be read.
    """
    return _Binder(plan, specs, dtype, device, skeleton).bind()


class _Binder:
    def __init__(
        self,
        plan: Plan,
        specs: Mapping[str, ModelSpec],
        dtype: str | None,
        device: str,
        skeleton: bool,
    ) -> None:
        self.plan, self.specs, self.dtype, self.device = plan, specs, dtype, device
        self.skeleton = skeleton
        self.lanes: dict[tuple[Any, ...], Any] = {}
        self.lane_names: dict[tuple[Any, ...], list[str]] = {}
        self.loaded: dict[tuple[Any, ...], Any] = {}
        self.adapters: dict[tuple[Any, ...], int] = {}  # name and lane: its number there
        self.cards: dict[str, Card] = {}
        self.shared: Any = None  # the tokenizer of the formula's tokens
        self.reads_text: set[str] = set()

    def bind(self) -> Bound:
        plan = self.plan
        self.cards = {name: self._card(name) for name in plan.models}
        self._check_kinds()
        size, notes = self._vocabulary()
        self._check_candidates(size)
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
        terms = {term.model for term in plan.terms}
        tokenizers = [self.cards[name].tokenizer for name in plan.models if name in terms]
        by_ids = [card for name, card in self.cards.items() if name not in self.reads_text]
        limits = [card.positions for card in by_ids if card.positions]
        named = {note.partition(" ")[0].partition("@")[0] for note in plan.dropped}
        named |= {*plan.models, *(spec.on for spec in self.specs.values() if spec.on)}
        unused = sorted(set(self.specs) - named)
        notes += [f"{name} is declared and not in the formula: not loaded" for name in unused]
        return Bound(
            plan, readers, rewards, tuple(self.lanes.values()),
            tuple(_together(names) for names in self.lane_names.values()),
            size, self.device, next((t for t in tokenizers if t is not None), None),
            frozenset().union(*(self.cards[name].eos for name in terms)),
            min(limits, default=None), (*plan.dropped, *notes),
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
        """The size of the shared vocabulary, and a note per model that is cut or reads text."""
        terms = [self.cards[name] for name in dict.fromkeys(t.model for t in self._written())]
        cards = list(terms)
        self.shared = next((card.tokenizer for card in terms if card.tokenizer is not None), None)
        notes = []
        judges = [term for term in self.plan.judges if self.cards[term.model].kind == REWARD]
        cards += [self.cards[t.model] for t in self.plan.judges if t not in judges]
        for name in dict.fromkeys(term.model for term in (*self.plan.rewards, *judges)):
            card = self.cards[name]
            why = self._why_text(card, self.specs[self._home(name)])
            if why:
                self.reads_text.add(name)
                notes.append(f"{name} reads text, {why}: each candidate's is read anew every step")
            else:
                cards.append(card)
        try:
            size, cut = common_vocabulary(cards)
        except ModelError as error:
            raise self._at(error) from None
        return size, [*cut, *notes]

    def _written(self) -> list[Term]:
        return sorted(self.plan.terms, key=lambda term: self.plan.spans[term])

    def _why_text(self, card: Card, spec: ModelSpec) -> str:
        """Why a reward model reads text and not the formula's token ids; "" where it does not."""
        if spec.read == "tokens" or card.tokenizer is None or self.shared is None:
            if spec.read == "text":
                raise self.plan.error(
                    f"{card.name} reads text, which needs tokenizers",
                    next(s for t, s in self.plan.spans.items() if t.model == card.name),
                    "give tokenizer: … with the models",
                )
            return ""
        if spec.read == "text":
            return "as declared"
        differs = card.tokenizer.get_vocab() != self.shared.get_vocab()
        return "for its tokenizer is another" if differs else ""

    def _check_candidates(self, size: int) -> None:
        for scalar in self.plan.scalars:
            if scalar.limits.tokens and not parameters(scalar.expression):
                check_count(self.plan, scalar.what, scalar.span, self.plan.value(scalar, {}), size)

    def _reader(
        self, term: Term, kind: str, asked: tuple[Place, Stage] | None, size: int
    ) -> Reader:
        home = self._home(term.model)
        spec, card = self.specs[home], self.cards[term.model]
        model = self._load(card, spec)
        place, stage = asked if asked else (None, None)
        key = (place if kind == REWARD else None, *card.weights)
        reads_text = kind == REWARD and term.model in self.reads_text
        if key not in self.lanes:
            if isinstance(model, (TableModel, RuleReward)):
                self.lanes[key] = model.copy()
            elif reads_text:
                self.lanes[key] = TextRewardLane(model, card.tokenizer, self.shared)
            else:
                reads_all = place is not None and moves_winner(place, stage)
                self.lanes[key] = TransformersLane(model, size, reads_all)
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
            term, own, card.tokenizer, number, adapter, place, kind == SCORES, label, shared
        )

    def _load(self, card: Card, spec: ModelSpec) -> Any:
        if card.weights not in self.loaded:
            self.loaded[card.weights] = self._marked(
                card.name, lambda: load_model(card, spec, self.dtype, self.device, self.skeleton)
            )
        return self.loaded[card.weights]

    def _adapter(self, name: str, key: tuple[Any, ...]) -> int:
        if (name, key) not in self.adapters:
            folder, revision = self.specs[name].adapter, self.specs[name].revision
            lane = self.lanes[key]
            if not isinstance(lane, TransformersLane):
                raise ModelError(f"{name} is an adapter on a table, which has no layers", "", name)
            number = self._marked(
                name, lambda: lane.adapters.add(name, adapter_folder(folder, revision))
            )
            self.adapters[name, key] = number
        return self.adapters[name, key]

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


def _together(names: list[str]) -> str:
    return " + ".join(names)
