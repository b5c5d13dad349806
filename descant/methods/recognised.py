"""Which published methods a plan has the form of.

The form alone is certain: that a model was trained as an arm, an expert or a value model is known
to those who trained it. So a form that several works have names them all, and what has none of
these forms is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..formula import Plan
from ..formula.nodes import Linear, Predicate, Read, Staged, of_states
from ..formula.scalar import Scalar, evaluate
from ..formula.terms import Term
from ..formula.words.constraints import ConstraintStage
from ..formula.words.operators import Debias, Max, Mean, Min, Mix, Plausible, PowerMean, Temp, Where
from ..formula.words.stages import (
    BestOf,
    Blockwise,
    Lookahead,
    Particles,
    Reject,
    Rerank,
    Stage,
    TopK,
    TopP,
)
from ..models import ModelSpec

Params = Sequence[Mapping[str, float]]  # of every point


@dataclass(frozen=True)
class Form:
    """A form that a plan has: what it is called, and the keys of the works that have it."""

    name: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class _Values:
    """The values that numbers take over a run's points, and the declared models."""

    params: Params
    specs: Mapping[str, ModelSpec]
    is_language_model: Callable[[str], bool]

    def of(self, scalar: Scalar) -> list[float]:
        return [evaluate(scalar.expression, params) for params in self.params]

    def all(self, scalar: Any, value: float) -> bool:
        return isinstance(scalar, Scalar) and all(abs(v - value) < 1e-9 for v in self.of(scalar))

    def sign(self, scalar: Scalar) -> int:
        """1 or -1, and 0 where it changes or is not known before a step."""
        values = [value for value in self.of(scalar) if value != 0]
        if scalar.states or not values:
            return 0
        return 1 if all(v > 0 for v in values) else -1 if all(v < 0 for v in values) else 0

    def total(self, scalars: Sequence[Scalar], value: float) -> bool:
        sums = [sum(own) for own in zip(*map(self.of, scalars), strict=True)]
        return all(abs(each - value) < 1e-9 for each in sums)

    def tuned_from(self, model: str, other: str) -> bool:
        """Whether a model is declared as an adapter on the other."""
        spec = self.specs.get(model)
        return spec is not None and spec.adapter is not None and spec.on == other


def forms(
    plan: Plan,
    specs: Mapping[str, ModelSpec],
    params: Params,
    is_language_model: Callable[[str], bool] = lambda name: False,
) -> list[Form]:
    """The forms of published methods that a plan has, each once.

    Args:
        plan: of one formula.
        specs: the declared models.
        params: the values of the parameters at each point of the run.
        is_language_model: whether a declared model is one, as far as that is known.
    """
    values = _Values(params, specs, is_language_model)
    every = [*_sums(plan, values), *_operators(plan, values), *_added(plan, specs)]
    for _, stage in plan.all_stages:
        every += _stage(stage, plan, values)
    return list(dict.fromkeys(every))


def _sums(plan: Plan, values: _Values) -> Iterator[Form]:
    """The forms of the sum that the formula is."""
    parts = plan.scores.parts
    atoms = [atom for _, atom in parts]
    numbers = [number for number, _ in parts]
    signs = [values.sign(number) for number in numbers]
    if any(isinstance(atom, Plausible) for atom in atoms) and len(parts) == 2:
        yield from _contrast(parts, signs)
        return
    masked = [
        atom for atom in atoms
        if isinstance(atom, Staged) and isinstance(atom.stages[0], TopP) and _term(atom.head)
    ]  # fmt: skip
    terms = [_term(atom) for atom in atoms]
    if masked and len(parts) == 3 and sorted(signs) == [-1, 1, 1] and _opposite(numbers, values):
        yield Form("expert and anti-expert on a truncated base (DExperts)", ("liu2021dexperts",))
    if (
        len(parts) < 2
        or not all(terms)
        or any(isinstance(atom, Read) and atom.head for atom in atoms)
    ):
        return
    plain = [term for term in terms if term is not None]
    if len(plain) == 2 and plain[0].model == plain[1].model:
        yield from _prompts(plain, numbers, signs, values)
        return
    if any(term.alone or term.noimage or term.system is not None for term in plain):
        return
    if len(parts) == 3 and sorted(signs) == [-1, 1, 1] and _opposite(numbers, values):
        yield from _difference(plain, numbers, signs, values)
    elif all(sign == 1 for sign in signs):
        yield from _product(plain, numbers, values)


def _contrast(parts: Sequence[tuple[Scalar, Any]], signs: Sequence[int]) -> Iterator[Form]:
    """Of two parts, one is ``plausible``: the other is taken away."""
    [(sign, other)] = [
        (sign, atom) for sign, (_, atom) in zip(signs, parts, strict=True)
        if not isinstance(atom, Plausible)
    ]  # fmt: skip
    if sign != -1:
        return
    if isinstance(other, Read) and other.head:
        yield Form("contrast of layers (DoLa)", ("chuang2024dola",))
    elif _term(other.x if isinstance(other, Temp) else other):
        yield Form("contrastive decoding", ("li2023contrastive",))


def _prompts(
    terms: Sequence[Term], numbers: Sequence[Scalar], signs: Sequence[int], values: _Values
) -> Iterator[Form]:
    """One model under two prompts, one of them taken away; the coefficients sum to 1."""
    states = {state.name for number in numbers for state in number.states}
    if states == {"js"} and any(term.alone for term in terms):
        yield Form("context-aware decoding, adaptive (AdaCAD)", ("wang2025adacad",))
    if sorted(signs) != [-1, 1] or not values.total(numbers, 1):
        return
    away = terms[signs.index(-1)]
    if away.noimage:
        yield Form("visual contrastive decoding", ("leng2024visual",))
    elif away.alone:
        yield Form("context-aware decoding", ("shi2024trusting",))
    elif not terms[0].additions and not terms[1].additions:
        yield Form("classifier-free guidance", ("sanchez2023guidance", "pei2023preadd"))


def _difference(
    terms: Sequence[Term], numbers: Sequence[Scalar], signs: Sequence[int], values: _Values
) -> Iterator[Form]:
    """A base, and the difference of two others."""
    taken = signs.index(-1)
    added = next(
        i for i, sign in enumerate(signs)
        if sign == 1 and values.total((numbers[i], numbers[taken]), 0)
    )  # fmt: skip
    if values.tuned_from(terms[taken].model, terms[added].model):
        yield Form("emulated disalignment", ("zhou2024disalignment",))
    else:
        keys = ("liu2024proxy", "mitchell2024emulator")
        yield Form("proxy tuning, emulated fine-tuning", keys)


def _product(terms: Sequence[Term], numbers: Sequence[Scalar], values: _Values) -> Iterator[Form]:
    """A weighted product of distributions."""
    if values.total(numbers, 1):
        if len(terms) == 2 and any(
            values.tuned_from(a.model, b.model) for a, b in (terms, terms[::-1])
        ):
            yield Form("decoding-time realignment (DeRa)", ("liu2024realignment",))
        yield Form("multi-objective decoding (MOD), reverse KL", ("shi2024mod",))
    elif any(values.all(number, 1) for number in numbers):
        yield Form("a base with autoregressive reward models (GenARM)", ("xu2025genarm",))


def _operators(plan: Plan, values: _Values) -> Iterator[Form]:
    """The forms of operators, wherever they stand."""
    for node in plan.nodes:
        match node:
            case Mean():
                yield Form("a sum divided by its weights", ("dekoninck2024arithmetic",))
            case Max() | Min():
                yield Form("union or intersection of models", ("dekoninck2024arithmetic",))
            case Debias():
                yield Form("self-debiasing", ("schick2021debiasing",))
            case PowerMean() if values.all(node.p, -1):
                yield Form("multi-objective decoding (MOD), forward KL", ("shi2024mod",))
            case Mix() if any(term.aligned for term in plan.terms):
                keys = ("yu2024gac", "yao2025unite")
                yield Form("an ensemble over two vocabularies (GaC, UniTE)", keys)
            case Where():
                yield from _gates(node)


def _gates(node: Where) -> Iterator[Form]:
    """The forms of a condition: what it compares, and what it chooses between."""
    if not isinstance(node.condition, Predicate):
        return
    over = {
        state.name
        for part in node.condition.parts if isinstance(part, Scalar)
        for state in part.states
    }  # fmt: skip
    plain = _term(node.x), _term(node.y)
    if over == {"step"} and isinstance(_only(node.x), Mix) and plain[1]:
        yield Form("a mixture for the first tokens (SafeDecoding)", ("xu2024safedecoding",))
    elif over == {"max_prob"} and all(plain) and node.condition.op in ("<", "<="):
        bound = [part for part in node.condition.parts if isinstance(part, Scalar)]
        if any(not part.states for part in bound) and plain[0] != plain[1]:
            yield Form("nudging", ("fei2024nudging",))
    elif all(plain) and any(term and term.additions for term in plain):
        read = {child for _, child in of_states(node.condition)}
        if any(isinstance(_only(child), Read) and _only(child).head for child in read):
            yield Form("conditional steering", ("lee2025conditional",))


def _added(plan: Plan, specs: Mapping[str, ModelSpec]) -> Iterator[Form]:
    """The forms of weights that are added to a term's."""
    for term in (*plan.terms, *plan.rewards, *plan.search_terms):
        added = [specs[name] for _, name in term.additions if name in specs]
        if sum(spec.adapter is not None for spec in added) > 1:
            yield Form("weighted sum of adapters (rewarded soups)", ("rame2023soups",))
        if any(spec.vector is not None for spec in added):
            yield Form("contrastive activation addition", ("rimsky2024steering",))


def _stage(stage: Stage, plan: Plan, values: _Values) -> Iterator[Form]:
    match stage:
        case Lookahead():
            yield Form("Transfer Q*, direct", ("chakraborty2024transfer",))
        case Rerank():
            yield _rerank(stage, plan)
        case BestOf() if not values.all(stage.keep, 1):
            yield Form("best of n with speculative rejection", ("sun2024speculative",))
        case BestOf() if stage.beta is not None:
            yield Form("soft best of n", ("verdun2025soft",))
        case BestOf() | Particles() if _process_reward(stage, values):
            if isinstance(stage, BestOf):
                yield Form("best of n by a process reward", ("lightman2023verify",))
            else:
                keys = ("puri2025probabilistic", "zhao2024twisted")
                yield Form("particle filtering with a process reward", keys)
        case Particles() if _own_scores(stage, plan):
            yield Form("power sampling by sequential Monte Carlo", ("karan2025reasoning",))
        case Particles():
            yield Form("sequential Monte Carlo", ("zhao2024twisted",))
        case Blockwise():
            yield _blockwise(stage, values)
        case Reject():
            yield Form("segments by rejection (CARDS)", ("li2024cards",))
        case ConstraintStage():
            yield Form("constrained decoding", ("willard2023efficient",))
        case TopP():
            yield Form("nucleus sampling", ("holtzman2020curious",))


def _rerank(stage: Rerank, plan: Plan) -> Form:
    if stage.label is not None and stage.norm == "prefix":
        return Form("classifier guidance", ("dekoninck2024arithmetic",))
    if stage.label is not None:
        return Form("future discriminators (FUDGE)", ("yang2021fudge",))
    if stage.clamp is not None:
        return Form("reward-augmented decoding (RAD)", ("deng2023rad",))
    if stage.norm == "center" and stage.keep == "all":
        return Form("value-augmented sampling", ("han2024value",))
    scores = _only(plan.scores)
    if isinstance(scores, Staged) and isinstance(scores.stages[-1], TopK):
        return Form("reranking of renormalised candidates (PARGS)", ("rashid2024critical",))
    return Form("reward-guided search (ARGS)", ("khanov2024args",))


def _blockwise(stage: Blockwise, values: _Values) -> Form:
    reward = stage.r
    if len(reward.terms) == 2 and all(values.is_language_model(t.model) for t in reward.terms):
        return Form("weak-to-strong search", ("zhou2024search",))
    if len(reward.terms) > 1 and getattr(reward.expression, "op", "") == "min":
        return Form("blockwise search for the worst case (RMOD)", ("son2025robust",))
    return Form("blockwise controlled decoding", ("mudgal2024controlled",))


def _process_reward(stage: BestOf | Particles, values: _Values) -> bool:
    specs = [values.specs.get(term.model) for term in stage.r.terms]
    return bool(specs) and all(spec is not None and spec.steps is not None for spec in specs)


def _own_scores(stage: Particles, plan: Plan) -> bool:
    """Whether the reward is of the one term that the formula is."""
    term = _term(plan.scores)
    return term is not None and stage.r.terms == (term,)


def _opposite(numbers: Sequence[Scalar], values: _Values) -> bool:
    pairs = [(a, b) for i, a in enumerate(numbers) for b in numbers[i + 1 :]]
    return any(values.total(pair, 0) for pair in pairs)


def _only(node: Any) -> Any:
    """The only part of a sum of one; else the node."""
    if isinstance(node, Linear) and len(node.parts) == 1 and node.shift is None:
        return node.parts[0][1]
    return node


def _term(node: Any) -> Term | None:
    """The term that a node is, by its model's own head; None where it is more."""
    node = _only(node)
    return node.term if isinstance(node, Read) and not node.head else None
