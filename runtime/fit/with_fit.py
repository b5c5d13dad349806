"""``Decoder.fit``: from arguments to a ``Fit``. The decoder stays as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ...errors import ArgumentError, quoted
from ...formula import Names
from ...formula.words.signature import MOST
from ...models import Prompt, prompts_of
from ..binding.bound import Bound
from ..binding.draft import DraftBinder
from ..progress import progress_bar
from ..requests.build import RequestBuilder
from ..requests.completions import check_completion, pair_completions
from ..requests.per_row import at_least_one
from ..requests.request import Request
from ..session import Session
from . import differentiable
from .composed import ComposedLikelihood, parts_of
from .kept_scores import KeptScores, dtype_that_fits
from .likelihoods import LikelihoodOfTexts, Texts
from .objectives import (
    LIKELIHOOD,
    OBJECTIVES,
    PREFERENCE,
    REWARD,
    PreferenceLoss,
    held_out,
    objective_of,
)
from .optimise import Optimum, by_gradients, newton, uncertainty
from .reading import read_texts
from .result import Fit, run_file_of
from .space import Space, space_of
from .sums import SumLikelihood

SAMPLED = 2**27  # scores from which on a fit begins with a sample of them


class ByRewards(Protocol):
    """Fits by rewards of generated text, for ``objective="reward"``."""

    def __call__(self, decoder: Any, prompts: Any, reward: Any, **options: Any) -> Fit:
        """``options`` are those of ``Decoder.fit`` that were passed, and of ``generate``."""


class WithFit:
    """What fits the parameters of a decoder's formula."""

    session: Session
    _params: dict[str, float]
    _bound: Bound
    _builder: RequestBuilder
    _draft_binder: DraftBinder | None
    _by_rewards: ByRewards | None

    def fit(
        self,
        prompts: Prompt | Sequence[Prompt],
        completions: Any = None,
        *,
        objective: str = LIKELIHOOD,
        bounds: Mapping[str, Any] | None = None,
        constraints: Sequence[str] = (),
        params: Mapping[str, float] | None = None,
        reward: Any = None,
        beta: float = 1.0,
        holdout: float = 0.0,
        folds: int = 0,
        seed: int = 0,
        batch_size: int = 32,
        progress: bool | None = None,
        **options: Any,
    ) -> Fit:
        """The values of the formula's parameters that texts, or preferences, make most likely.

        Args:
            prompts: as for ``generate``.
            completions: one per prompt, as for ``loglikelihood``; for preferences, per prompt a
                pair of what was chosen and what was rejected.
            objective: ``"likelihood"``, ``"preference"``, or ``"reward"`` of what is generated.
            bounds: ``{"a": (0, 2), "b": None}``: which parameters are fitted, and between what;
                None is free. Left out, all are fitted, and free.
            constraints: ``["simplex(a, b)"]``: these are at least 0 and add up to 1.
            params: where the fit begins, and what the others are; left out, the decoder's values.
            reward: of ``"reward"``: a reward model's name, a reward expression, a function, or
                several; ``options`` are then ``trials``, ``samples``, ``sampler``, ``pruner``,
                ``grid``, ``weights``, and arguments of ``generate``.
            beta: of preferences, what a difference of log-likelihoods is multiplied by.
            holdout: the share of texts, or pairs, that take no part and are judged by the result.
            folds: of a cross-validation; 0 for none.
            seed: which texts are held out.
            batch_size: texts read at once.
            progress: a progress bar; left out, only on a terminal.

        Raises:
            FormulaError: what cannot be differentiated, marked.
            ArgumentError: a parameter that no term uses; a direction that no text decides; a
                likelihood that grows without end; arguments that do not fit together.
        """
        if objective not in OBJECTIVES:
            raise ArgumentError(f"objective is {quoted(objective)}; there is {_listed()}")
        if objective == REWARD:
            if completions is not None or reward is None:
                problem = 'objective "reward" takes a reward, and no completions'
                raise ArgumentError(f'{problem}: fit(prompts, objective="reward", reward="rm")')
            if self._by_rewards is None:
                raise ArgumentError(
                    "a fit by rewards is for decoders that descant.compile has made"
                )
            own = {"constraints": constraints, "holdout": holdout, "seed": seed, "bounds": bounds}
            more = {"params": params, "batch_size": batch_size, "progress": progress}
            return self._by_rewards(self, prompts, reward, **own, **more, **options)
        for name in options:
            raise ArgumentError(f"fit with objective {objective} has no argument {name}")
        if completions is None or reward is not None:
            problem = f"objective {objective} takes completions, and no reward"
            raise ArgumentError(f'{problem}; objective="reward" takes a reward alone')
        values = {**self._params, **(params or {})}
        plan = self._bound.plan
        space = space_of(plan.params, values, bounds, constraints)
        differentiable.check(plan, space.names)
        if self._bound.term_parallel is not None:
            raise ArgumentError('fit is not for parallel="terms"; leave one of them out')
        texts = _TextFit(self, space, values, objective, beta)
        try:
            texts.read(prompts, completions, batch_size, progress)
            return texts.fitted(holdout, at_least_one("folds", folds) if folds else 0, seed)
        finally:
            texts.close()


class _TextFit:
    """One fit by texts."""

    def __init__(
        self, decoder: WithFit, space: Space, values: Mapping[str, float], kind: str, beta: float
    ) -> None:
        self._decoder, self._space, self._kind, self._beta = decoder, space, kind, beta
        self._values = {name: float(value) for name, value in values.items()}
        self._plan = decoder._bound.plan
        self._summands = differentiable.summands(self._plan, space.names)
        self._texts: Texts | None = None
        self._notes: list[str] = []

    def close(self) -> None:
        if self._texts is not None:
            self._texts.kept.close()

    def read(self, prompts: Any, completions: Any, batch_size: int, progress: bool | None) -> None:
        """Read every text once, and keep what the fit needs of it."""
        at_least_one("batch_size", batch_size)
        requests, ids = self._requests(prompts, completions)
        bound = self._decoder._bound
        for request, each in zip(requests, ids, strict=True):
            check_completion(bound, request, each, read=max(0, len(each) - 1))
        tokens = [len(each) for each in ids]
        if not sum(tokens):
            raise ArgumentError("the completions have no tokens; there is nothing to fit")
        if self._summands is None:
            parts = parts_of(self._plan)
        else:
            parts = [(each.node, each.number) for each in self._summands]
        width = len(parts) * (bound.vocabulary + 1)
        dtype = dtype_that_fits(sum(tokens), width)
        if dtype is None:
            raise ArgumentError(
                f"the scores of {sum(tokens)} tokens do not fit on the disk; give fewer texts"
            )
        kept = KeptScores(dtype)
        self._texts = texts = Texts(kept, len(ids), tokens)
        if dtype != "float32":
            self._notes.append("scores were kept in bfloat16, for half of the disk holds no more")

        def keep(features: torch.Tensor, numbers: torch.Tensor) -> None:
            texts.masked = texts.masked or bool(features.amin() == -torch.inf)
            kept.add(features, numbers)

        with progress_bar(sum(tokens), "token", "reading", progress) as bar:
            engine = self._decoder.session.engine
            read_texts(engine, requests, ids, parts, keep, batch_size, bar.update)

    def fitted(self, holdout: float, folds: int, seed: int) -> Fit:
        """Fit, and judge by what was held out."""
        assert self._texts is not None
        space, texts = self._space, self._texts
        likelihood = self._likelihood(texts)
        pairs = self._kind == PREFERENCE
        count = texts.count // 2 if pairs else texts.count
        chosen, held = held_out(count, holdout, seed, "pairs" if pairs else "texts")
        start = np.array(space.start)
        optimum = self._best(likelihood, chosen, start)
        tokens = self._tokens(chosen)
        covariance, hit = uncertainty(space, optimum, tokens)
        for name in hit:
            value = optimum.values[space.names.index(name)]
            self._notes.append(f"{name} hits its bound, {value:g}: it has no standard error")
        loss = objective_of(self._kind, likelihood, chosen, self._beta)
        found = space.params(optimum.values)
        accuracy = None
        if isinstance(loss, PreferenceLoss):
            accuracy = loss.accuracy(start), loss.accuracy(optimum.values)
        return Fit(
            params=found,
            stderr=space.params(np.sqrt(np.diag(covariance))),
            covariance=covariance,
            loglikelihood=-optimum.loss,
            table=self._table(likelihood, optimum, covariance, chosen),
            run_file=self._run_file(found),
            objective=self._kind,
            tokens=tokens,
            texts=len(chosen),
            start=space.params(start),
            start_loglikelihood=-loss(start, 0)[0],
            at_bounds=hit,
            trace=[{"params": space.params(at), "loglikelihood": -x} for at, x in optimum.trace],
            holdout=self._measured(likelihood, held, start, optimum.values),
            folds=self._folds(likelihood, chosen, folds, seed, optimum.values),
            accuracy=accuracy,
            notes=tuple(self._notes),
        )

    def _requests(self, prompts: Any, completions: Any) -> tuple[list[Request], list[list[int]]]:
        decoder, many = self._decoder, prompts_of(prompts)
        if self._kind == PREFERENCE:
            pairs = [tuple(pair) for pair in completions]
            if wrong := [i for i, pair in enumerate(pairs) if len(pair) != 2]:
                problem = f"completion {wrong[0]} is no pair"
                raise ArgumentError(f"{problem}; a preference is (chosen, rejected)")
            many = many * len(pairs) if len(many) == 1 else many
            if len(many) != len(pairs):
                raise ArgumentError(f"there are {len(many)} prompts and {len(pairs)} pairs")
            many = [prompt for prompt in many for _ in range(2)]
            completions = [text for pair in pairs for text in pair]
        many, ids = pair_completions(many, completions, None, decoder._bound.detokenizer)
        values = {**self._values, **self._reading_values()}
        rows = decoder._builder.rows(many, values)
        requests = [
            decoder._builder.request(i, *row, max_new_tokens=max(1, len(each)), strict=True)
            for i, (row, each) in enumerate(zip(rows, ids, strict=True))
        ]
        return requests, ids

    def _reading_values(self) -> dict[str, float]:
        """Values at which every term is read: no number of the formula is 0 at them."""
        space, random = self._space, np.random.default_rng(0)
        fitted = [s for s in self._plan.scalars if differentiable.depends(s, space.names)]
        low = np.maximum(space.lower, np.minimum(space.start, space.upper) - np.float64(1.0))
        high = np.minimum(space.upper, low + 2.0)
        for trial in range(100):
            at = np.array(space.start) if trial == 0 else random.uniform(low, high)
            values = {**self._values, **space.params(at)}
            try:
                numbers = [self._plan.value(scalar, values) for scalar in fitted]
                self._plan.values(values)
            except Exception:
                if trial == 0:
                    raise
                continue
            if all(math.isnan(number) or 1e-6 < abs(number) < MOST for number in numbers):
                break
        return {name: values[name] for name in space.names}

    def _likelihood(self, texts: Texts) -> LikelihoodOfTexts:
        names = self._space.names
        fixed = {name: value for name, value in self._values.items() if name not in names}
        if self._summands is not None:
            return SumLikelihood(self._summands, names, fixed, texts)
        return ComposedLikelihood(
            self._plan, self._decoder.session.engine.step.columns, self._decoder._bound.vocabulary,
            names, fixed, texts,
        )  # fmt: skip

    def _best(
        self, likelihood: LikelihoodOfTexts, texts: Sequence[int], start: np.ndarray
    ) -> Optimum:
        assert self._texts is not None
        tokens = self._tokens(texts)
        loss = objective_of(self._kind, likelihood, texts, self._beta)
        if not likelihood.has_curvature:
            return by_gradients(loss, self._space, start, tokens)
        scores = self._texts.kept.width * sum(self._texts.tokens)
        if self._kind == LIKELIHOOD and scores > SAMPLED:
            every = min(16, scores // SAMPLED + 1)
            sample = objective_of(self._kind, likelihood, texts, self._beta, every)
            start = newton(sample, self._space, start, tokens / every).values
        return newton(loss, self._space, start, tokens)

    def _tokens(self, chosen: Sequence[int]) -> int:
        assert self._texts is not None
        tokens = self._texts.tokens
        if self._kind == PREFERENCE:
            return sum(tokens[2 * i] + tokens[2 * i + 1] for i in chosen)
        return sum(tokens[i] for i in chosen)

    def _table(
        self,
        likelihood: LikelihoodOfTexts,
        optimum: Optimum,
        covariance: np.ndarray,
        chosen: Sequence[int],
    ) -> list[dict[str, Any]]:
        """A row per term; the parameters at a bound are as good as known."""
        known = np.nan_to_num(covariance)
        loss = objective_of(self._kind, likelihood, chosen, self._beta)
        return [
            {
                "term": row.term,
                "coefficient": row.coefficient,
                "stderr": float(np.sqrt(max(0.0, row.gradient @ known @ row.gradient))),
                "lost": loss.of_values(row.left) - optimum.loss,
            }
            for row in likelihood.terms(optimum.values)
        ]

    def _measured(
        self, likelihood: LikelihoodOfTexts, held: Sequence[int], *values: np.ndarray
    ) -> dict[str, Any]:
        """What held-out texts say, before and after."""
        if not held:
            return {}
        loss, tokens = objective_of(self._kind, likelihood, held, self._beta), self._tokens(held)
        after_before = [-loss(each, 0)[0] for each in values]
        measured: dict[str, Any] = {"texts": len(held), "tokens": tokens}
        measured["loglikelihood"] = after_before
        if isinstance(loss, PreferenceLoss):
            measured["accuracy"] = [loss.accuracy(each) for each in values]
        else:
            measured["perplexity"] = [math.exp(-each / tokens) for each in after_before]
        return measured

    def _folds(
        self,
        likelihood: LikelihoodOfTexts,
        chosen: Sequence[int],
        folds: int,
        seed: int,
        start: np.ndarray,
    ) -> list[dict[str, Any]]:
        if not folds:
            return []
        if not 2 <= folds <= len(chosen):
            raise ArgumentError(f"folds is {folds}; it is from 2 to {len(chosen)}, the texts")
        order = np.random.default_rng(seed).permutation(chosen).tolist()
        found = []
        for fold in range(folds):
            held = sorted(order[fold::folds])
            rest = sorted(set(order) - set(held))
            values = self._best(likelihood, rest, start).values
            measured = self._measured(likelihood, held, np.array(self._space.start), values)
            found.append({"params": self._space.params(values), **measured})
        return found

    def _run_file(self, found: Mapping[str, float]) -> dict[str, Any]:
        binder = self._decoder._draft_binder
        specs = {} if binder is None else binder.specs
        names = Names() if binder is None else binder.names
        texts = names.prompts, names.schemas, names.grammars
        return run_file_of(self._plan.source, {**self._values, **found}, specs, texts)


def _listed() -> str:
    return " or ".join(OBJECTIVES)
