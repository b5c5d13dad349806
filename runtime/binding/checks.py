"""What checkpoints say of a plan's models before weights are read: kinds, vocabularies, tokens.

Everything that only a checkpoint can tell is checked here and marked in the formula: a reward model
used as a term, another vocabulary, a k beyond it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from ...formula import Plan, Term
from ...formula.scalar import parameters
from ...grammar import FormulaError, Span
from ...models import ModelError, ModelSpec
from ...models.checkpoint.description import REWARD, SCORES, Description, describe
from ...models.text.token_map import TokenMap, Vocabulary, one_vocabulary, token_map
from ...models.text.vocabulary import common_vocabulary
from .reward_input import why_text, with_values

T = TypeVar("T")
_log = logging.getLogger("descant")


class Described:
    """The models of a plan, as their checkpoints describe them.

    Args:
        plan: the checked formula.
        specs: every declared model.
        dtype: for models that name none; None is the checkpoint's own.
        device: for models that name none.

    Attributes:
        cards: by the models' names.
        shared: the tokenizer of the formula's tokens.
        size: tokens of the shared vocabulary.
        reads_text: the reward models that read text.
        mapped: the aligned models of another vocabulary.
        notes: a line per model that differs in any way.

    Raises:
        FormulaError: a model that does not fit its place in the formula, marked there.
        ModelError: a checkpoint that cannot be read.
    """

    def __init__(
        self, plan: Plan, specs: Mapping[str, ModelSpec], dtype: str | None, device: str
    ) -> None:
        self.plan, self.specs, self.dtype, self.device = plan, specs, dtype, device
        self.shared: Any = None
        self.reads_text: set[str] = set()
        self.mapped: dict[str, TokenMap] = {}
        descriptions = {name: self._description(name) for name in plan.models}
        self.descriptions = with_values(
            plan, descriptions, lambda name: self.specs[self.home(name)]
        )
        self._check_kinds()
        self.size, self.notes = self._vocabulary()
        self._check_candidates(self.size)

    def home(self, name: str) -> str:
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

    def _description(self, name: str) -> Description:
        home = self.home(name)
        return self.marked(name, lambda: describe(home, self.specs[home], self.dtype, self.device))

    def marked(self, name: str, action: Callable[[], T]) -> T:
        """Run something about one model, marking what it says in the formula."""
        try:
            return action()
        except ModelError as error:
            raise self.at(error, name) from error.__cause__

    def at(self, error: ModelError, name: str = "") -> FormulaError | ModelError:
        for term, span in self.plan.spans.items():
            if term.model in (error.model, name):
                return self.plan.error(error.problem, span, error.cure, error.more)
        return error

    def _check_kinds(self) -> None:
        plan = self.plan
        wanted = [(term, SCORES, plan.spans[term]) for term in plan.terms]
        for _, stage in plan.reranks:
            wanted += [(part.term, REWARD, number.span) for number, part in stage.reward.parts]
        if plan.search is not None:  # rewards or scores, but one or the other
            kind = self.descriptions[plan.search_terms[0].model].kind
            wanted += [(part.term, kind, n.span) for n, part in plan.search[1].r.parts]
        for term, kind, span in wanted:
            found = self.descriptions[term.model].kind
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
        search_terms = [
            term for term in self.plan.search_terms if self.descriptions[term.model].kind == REWARD
        ]
        language = [*self.written(), *(t for t in self.plan.search_terms if t not in search_terms)]
        aligned = dict.fromkeys(term.model for term in language if term.aligned)
        descriptions = [self.descriptions[t.model] for t in self.written() if not t.aligned]
        self.shared = next(
            (
                description.tokenizer
                for description in descriptions
                if description.tokenizer is not None
            ),
            None,
        )
        own = dict.fromkeys(term.model for term in language if not term.aligned)
        descriptions, notes = [self.descriptions[name] for name in own], []
        for name in dict.fromkeys(term.model for term in (*self.plan.rewards, *search_terms)):
            description = self.descriptions[name]
            spec = self.specs[self.home(name)]
            why = self.marked(name, partial(why_text, description, spec, self.shared))
            if why:
                self.reads_text.add(name)
                notes.append(f"{name} reads text by its own tokenizer, {why}")
            else:
                descriptions.append(description)
        try:
            size, cut = common_vocabulary(descriptions)
            same = [n for n in aligned if one_vocabulary(self.shared, size, self.descriptions[n])]
            if same:
                size, cut = common_vocabulary(
                    [*descriptions, *(self.descriptions[name] for name in same)]
                )
        except ModelError as error:
            raise self.at(error) from None
        for name in aligned:
            cut += self._map(name, size, name in same)
        return size, [*cut, *notes]

    def _map(self, name: str, size: int, same: bool) -> list[str]:
        """Map an aligned model to the formula's vocabulary; what the plan says of it."""
        if same:
            return [f"align({name}): its vocabulary is the formula's, so that nothing is mapped"]
        description = self.descriptions[name]
        own, cut = common_vocabulary([description])  # without the rows that are padding
        ends = {
            end for t in self.plan.terms if not t.aligned for end in self.descriptions[t.model].eos
        }
        shared = Vocabulary(self.shared, size, frozenset(ends))
        found = token_map(shared, Vocabulary(description.tokenizer, own, description.eos))
        self.mapped[name], said = found, _said_of(found)
        if 2 * len(found.formula_ids) < size:
            _log.warning("align(%s): only %s", name, said[0])
        if open_ends := sorted(end for end in ends if end < size and not found.reads[end]):
            said.append(f"no text ends at {open_ends}, which it cannot read")
            _log.warning("align(%s): %s", name, said[-1])
        return [*cut, *(f"align({name}): {note}" for note in said)]

    def written(self) -> list[Term]:
        return sorted(self.plan.terms, key=lambda term: self.plan.spans[term])

    def _check_candidates(self, size: int) -> None:
        for scalar in self.plan.scalars:
            if scalar.limits.tokens and not parameters(scalar.expression):
                check_count(self.plan, scalar.what, scalar.span, self.plan.value(scalar, {}), size)


def check_count(plan: Plan, what: str, span: Span, value: float, vocabulary: int) -> None:
    """Refuse a count of tokens above the vocabulary."""
    if value > vocabulary:
        raise plan.error(f"{what} is {value:g}, and the vocabulary has {vocabulary} tokens", span)


def _said_of(found: TokenMap) -> list[str]:
    """How far two vocabularies go together: of the formula's tokens, and of the other model's."""
    size, count = len(found.other_ids), len(found.formula_ids)
    spelled = sum(bool(ids) for ids in found.reads) - count
    never = size - count - spelled
    many = f"{count} of {size} tokens of the vocabulary have a counterpart"
    if spelled:
        many += f"; {spelled} are given nothing, and read as the tokens that spell them"
    if never:
        many += f"; {never} cannot be read and are never drawn"
    lost = f"; what it gives to the other {len(found.unused)} is lost" if found.unused else ""
    other_size = found.other_size
    used = other_size - len(found.unused)
    said = [many, f"{used} of its own {other_size} tokens are one{lost}"]
    if found.literal:
        said.append("a tokenizer does not say how it decodes: tokens are taken for their strings")
    return said
