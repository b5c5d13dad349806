"""Checks before weights are read: the kinds, vocabularies and tokens of a plan's models.

Whatever only a checkpoint can tell is checked here and marked in the formula: a reward model used
as a term, another vocabulary, a k beyond it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from ...formula import Plan, Stage, Term
from ...formula.scalar import parameters
from ...formula.words.stages import LogitBias, Lookahead, Rerank, Search
from ...grammar import FormulaError, Span
from ...models import ModelError, ModelSpec, ResolvedModel, resolve
from ...models.checkpoint.description import REWARD, SCORES, Description
from ...models.checkpoint.labels import choose_label, has_classes
from ...models.functions import FunctionReward
from ...models.loading.declared import describe_declared
from ...models.loading.value_head import as_reward
from ...models.text.chat import check_template
from ...models.text.token_map import TokenMap, Vocabulary, one_vocabulary, token_map
from ...models.text.vocabulary import NO_ROW, common_vocabulary, tokens_without_rows
from .bound import reward_stages
from .reward_input import why_text
from .weight_pool import WeightPool

T = TypeVar("T")
_log = logging.getLogger("descant")


class CheckedModels:
    """The models of a plan, described and checked; the arguments are those of ``bind``.

    Attributes:
        models: whose weights each name uses, and how it reads.
        additions: the adapters and vectors that terms add to their weights, by name.
        descriptions: of their checkpoints, by name.
        shared: the tokenizer of the formula's tokens.
        size: tokens of the shared vocabulary.
        reads_text: the reward models that read text.
        token_maps: for each aligned model of another vocabulary, the map of its tokens.
        rowless: for each model, the tokens of its tokenizer that its embeddings have no row for.
        notes: a line per model that differs in any way.

    Raises:
        FormulaError: a model that does not fit its place in the formula, marked there.
        ModelError: a checkpoint that cannot be read.
    """

    def __init__(
        self, plan: Plan, specs: Mapping[str, ModelSpec], dtype: str | None, device: str,
        pool: WeightPool,
    ) -> None:  # fmt: skip
        self.plan, self.specs, self.dtype, self.device = plan, specs, dtype, device
        self._pool = pool
        self.shared: Any = None
        self.reads_text: set[str] = set()
        self.token_maps: dict[str, TokenMap] = {}
        self.models = {name: resolve(name, specs) for name in plan.models}
        self.additions = {name: resolve(name, specs) for name in plan.added}
        self._check_additions()
        self._check_heads()
        self.descriptions = {name: self._describe(name) for name in plan.models}
        self.rowless = {
            name: tokens_without_rows(each.tokenizer, each.size)
            for name, each in self.descriptions.items()
        }
        self._check_kinds()
        for name, model in self.models.items():
            tokenizer = self.descriptions[name].tokenizer
            self.marked(name, partial(check_template, name, model.spec, tokenizer))
        self.size, notes = self._vocabulary()
        self._check_until()
        self.notes = [*notes, *self._unpacked(), *self._merged()]
        self._check_biases(self.size)
        self._check_candidates(self.size)

    def _describe(self, name: str) -> Description:
        """A model's description: a reward's where it has a value head and is no term."""
        model = self.models[name]
        description: Description = self.marked(name, partial(self._read, model))
        if any(term.model == name for term in self.plan.terms):
            return description
        return as_reward(description, model.spec)

    def _read(self, model: ResolvedModel) -> Description:
        """What a declared model's files say."""
        declared = [self.specs[model.name], self.specs[model.base]]
        where = model.name, self.dtype, self.device
        read = partial(describe_declared, model, self.dtype, self.device)
        description: Description = self._pool.described(declared, where, read)
        return description

    def marked(self, name: str, action: Callable[[], T]) -> T:
        """Call the action; mark the error that it raises where the formula names the model."""
        try:
            return action()
        except ModelError as error:
            raise self.at(error, name) from error.__cause__

    def marked_at(self, span: Span, action: Callable[[], T]) -> T:
        """Call the action; mark the error that it raises at this place in the formula."""
        try:
            return action()
        except ModelError as error:
            problem, cure = error.problem, error.cure
            raise self.plan.error(problem, span, cure, error.more) from error.__cause__

    def at(self, error: ModelError, name: str = "") -> FormulaError | ModelError:
        """The error, marked in the formula where its model, or the model of this name, stands."""
        for term, span in self.plan.spans.items():
            if term.model in (error.model, name):
                return self.plan.error(error.problem, span, error.cure, error.more)
        return error

    def written(self) -> list[Term]:
        """The terms of the scores, in the order in which they are written."""
        return sorted(self.plan.terms, key=lambda term: self.plan.spans[term])

    def kind_of(self, stage: Stage, term: Term) -> str:
        """What a model in a stage's reward gives: in a search, what it is; else a reward."""
        if isinstance(stage, Search) and not isinstance(stage, Lookahead):
            return self.descriptions[term.model].kind
        return REWARD

    def label(self, model: ResolvedModel, stage: Stage | None) -> int | None:
        """The output of a reward's head: the stage's label, or the declared one.

        A stage's label is for the classifiers of its reward, if there are any.
        """
        label, description = getattr(stage, "label", None), self.descriptions[model.name]
        stage_decides = label is not None and not has_classes(description)
        if stage_decides and isinstance(stage, (Lookahead, Rerank)):
            reward = stage.r if isinstance(stage, Lookahead) else stage.reward
            others = (self.descriptions[term.model] for term in reward.terms)
            label = None if any(map(has_classes, others)) else label
        label = model.spec.label if label is None else label
        return self.marked(model.name, partial(choose_label, description, label))

    def _check_additions(self) -> None:
        """Refuse what cannot be added to a term's weights, marked where it stands in brackets."""
        plan = self.plan
        for term in (*plan.terms, *plan.rewards, *plan.search_terms):
            if term.additions and (model := self.models[term.model]).addition is not None:
                problem = f"{term.model} is {model.kind} itself, and not weights to add to"
                name = term.additions[0][1]
                cure = f"write {model.base}[{term.model} + {name}]"
                raise plan.error(problem, plan.spans[term], cure)
            for number, name in term.additions:
                added = self.additions[name]
                if added.addition is None:
                    problem = f"{name} has weights of its own, and is not added to others"
                    cure = f"declare it as an adapter or a vector, on: {term.model}; or write "
                    cure += f"{term.model} + {name}, a sum of scores"
                elif added.base != term.model:
                    problem = f"{name} is on {added.base}, not on {term.model}"
                    cure = f"write {added.base}[…], or declare {name} on {term.model}"
                elif added.merged:
                    problem = f"{name} is merged: weights of its own, which are not added to others"
                    cure = f"leave merge: true out of {name}"
                else:
                    self.marked_at(number.span, partial(self._read, added))
                    continue
                raise plan.error(problem, number.span, cure)

    def _check_heads(self) -> None:
        """Refuse heads of other models than those that they read, marked where they stand."""
        for read in self.plan.heads:
            model, head = self.models[read.term.model], resolve(read.head, self.specs)
            if head.base != model.base:
                problem = f"{read.head} is on {head.base}, and {read.term} has other weights"
                cure = f"write head({head.base}, {read.head}), or declare another on {model.base}"
                raise self.plan.error(problem, self.plan.head_spans[read], cure)

    def _check_kinds(self) -> None:
        plan = self.plan
        for name, model in self.models.items():
            if model.spec.steps is not None and self.descriptions[name].kind == SCORES:
                problem = f"{name} is a language model, and steps are a reward model's"
                raise self.at(ModelError(problem, f"leave steps out of {name}", name))
        expected = [(term, SCORES, plan.spans[term], "") for term in plan.terms]
        for _, stage, reward in reward_stages(plan):
            expected += [
                (term, self.kind_of(stage, term), plan.reward_spans[reward.span, term], stage.name)
                for term in reward.terms
            ]
        for term, kind, span, stage_name in expected:
            name, own = term.model, self.descriptions[term.model].kind
            called = isinstance(self.models[name].spec.model, FunctionReward)
            if called and own == kind and (term.alone or term.noimage or term.system is not None):
                problem = f"{name} is a function, which is given prompts as they are"
                cure = f"write {name}"
            elif own == REWARD and term.aligned:
                problem = f"{name} is a reward model, and align takes a language model"
                cure = "leave align out: a reward of another tokenizer reads text by itself"
            elif own == kind:
                continue
            elif own == REWARD:
                problem = f"{name} is a reward model, and a term is a language model"
                cure = f"write … | rerank({name}, k=10, w=1)"
            else:
                problem = f"{name} is a language model, and {stage_name} takes reward models"
                cure = "use a search (best_of, blockwise, particles), or add it to the scores"
            raise plan.error(problem, span, cure)

    def _unpacked(self) -> list[str]:
        """A note per GGUF file: a forward reads more bytes than the file has."""
        types = {
            model.base: model.spec.dtype or self.dtype or self.descriptions[name].config.dtype
            for name, model in self.models.items()
            if self.descriptions[name].gguf
        }
        return [
            f"{base} is a GGUF file, unpacked into {str(dtype).removeprefix('torch.')}"
            for base, dtype in types.items()
        ]

    def _merged(self) -> list[str]:
        """A note per merged adapter, which shares no weights."""
        return [
            f"{name} is an adapter merged into a copy of {model.base}: weights of its own"
            for name, model in self.models.items()
            if model.merged
        ]

    def _vocabulary(self) -> tuple[int, list[str]]:
        """The size of the shared vocabulary, and a note per model that differs in any way."""
        plan, described = self.plan, self.descriptions
        rewards, language = [*plan.rewards], self.written()
        for term in plan.search_terms:
            (rewards if described[term.model].kind == REWARD else language).append(term)
        aligned = dict.fromkeys(term.model for term in language if term.aligned)
        plain = dict.fromkeys(term.model for term in language if not term.aligned)
        tokenizers = (described[t.model].tokenizer for t in self.written() if not t.aligned)
        self.shared = next((item for item in tokenizers if item is not None), None)
        by_ids, notes = [described[name] for name in plain], []
        for name in dict.fromkeys(term.model for term in rewards):
            reason = self.marked(
                name, partial(why_text, self.models[name], described[name], self.shared)
            )
            if reason:
                self.reads_text.add(name)
                if described[name].tokenizer is None:  # a function
                    continue
                notes.append(f"{name} reads text by its own tokenizer, {reason}")
                if more := len(self.rowless[name]):
                    notes.append(f"{name}: {more} tokens of its tokenizer {NO_ROW}")
            else:
                by_ids.append(described[name])
        try:
            size, cut = common_vocabulary(by_ids)
            same = [name for name in aligned if one_vocabulary(self.shared, size, described[name])]
            if same:
                size, cut = common_vocabulary([*by_ids, *(described[name] for name in same)])
        except ModelError as error:
            raise self.at(error) from None
        for name in aligned:
            cut += self._map(name, size, name in same)
        return size, [*cut, *notes]

    def _map(self, name: str, size: int, same: bool) -> list[str]:
        """Map an aligned model to the formula's vocabulary; the notes for the plan."""
        if same:
            return [f"align({name}): its vocabulary is the formula's, so that nothing is mapped"]
        description = self.descriptions[name]
        own, cut = common_vocabulary([description])  # without the rows that are padding
        ends = {
            end for t in self.plan.terms if not t.aligned for end in self.descriptions[t.model].eos
        }
        shared = Vocabulary(self.shared, size, frozenset(ends))
        mapped = token_map(shared, Vocabulary(description.tokenizer, own, description.eos))
        self.token_maps[name], notes = mapped, _map_notes(mapped)
        if 2 * len(mapped.formula_ids) < size:
            _log.warning("align(%s): only %s", name, notes[0])
        if open_ends := sorted(end for end in ends if end < size and not mapped.reads[end]):
            notes.append(f"no text ends at {open_ends}, which it cannot read")
            _log.warning("align(%s): %s", name, notes[-1])
        return [*cut, *(f"align({name}): {note}" for note in notes)]

    def _check_until(self) -> None:
        """Refuse a search whose segments end with a text where the models have no text."""
        if self.plan.search is None or self.shared is not None:
            return
        stage = self.plan.search[1]
        if (until := getattr(stage, "until", None)) is not None:
            problem = f"until of {stage.name} is a text, and no model here has a tokenizer"
            cure = "give tokenizer: … with the model, or write length=16"
            raise self.plan.error(problem, until.span, cure)

    def _check_biases(self, size: int) -> None:
        """Refuse a bias of a token that there is not."""
        biased = (stage for _, stage in self.plan.all_stages if isinstance(stage, LogitBias))
        for each in (bias for stage in biased for bias in stage.bias):
            if each.token >= size:
                problem = f"there is no token {each.token}: the vocabulary has {size} tokens"
                raise self.plan.error(problem, each.number.span)

    def _check_candidates(self, size: int) -> None:
        for scalar in self.plan.scalars:
            if scalar.limits.tokens and not parameters(scalar.expression):
                check_count(self.plan, scalar.what, scalar.span, self.plan.value(scalar, {}), size)


def check_count(plan: Plan, what: str, span: Span, value: float, vocabulary: int) -> None:
    """Refuse a count of tokens above the vocabulary."""
    if value > vocabulary:
        raise plan.error(f"{what} is {value:g}, and the vocabulary has {vocabulary} tokens", span)


def _map_notes(mapped: TokenMap) -> list[str]:
    """How many tokens of the formula, and of the other model, have a counterpart."""
    size, count = len(mapped.other_ids), len(mapped.formula_ids)
    spelled = sum(bool(ids) for ids in mapped.reads) - count
    never = size - count - spelled
    many = f"{count} of {size} tokens of the vocabulary have a counterpart"
    if spelled:
        many += f"; {spelled} are given nothing, and read as the tokens that spell them"
    if never:
        many += f"; {never} cannot be read and are never drawn"
    lost = f"; what it gives to the other {len(mapped.unused)} is lost" if mapped.unused else ""
    own = f"{mapped.other_size - len(mapped.unused)} of its own {mapped.other_size} tokens "
    own += f"are one{lost}"
    literal = "a tokenizer does not say how it decodes: tokens are taken for their strings"
    return [many, own, *([literal] if mapped.literal else [])]
