"""One fit by texts: what is read, the objective over it, and the result."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ...errors import ArgumentError
from ...formula import Names
from ...formula.words.signature import MOST
from ...grammar import FormulaError
from ...models import prompts_of
from ..binding.bound import Bound
from ..progress import progress_bar
from ..requests.build import RequestBuilder
from ..requests.completions import check_completion, pair_completions
from ..requests.per_row import at_least_one
from ..requests.request import Request
from . import differentiable
from .composed import ComposedLikelihood, parts_of
from .kept_scores import KeptScores, RereadScores, dtype_that_fits
from .likelihoods import LikelihoodOfTexts, Texts
from .objectives import LIKELIHOOD, PREFERENCE, PreferenceLoss, held_out, objective_of
from .optimise import Optimum, by_gradients, newton, uncertainty
from .result import Fit, run_file_of
from .space import Space
from .sums import SumLikelihood

SAMPLED = 2**27  # scores from which on a fit begins with a sample of them


class FitsTexts(Protocol):
    """A decoder, as far as a fit asks it."""

    session: Any
    _bound: Bound
    _builder: RequestBuilder
    _draft_binder: Any


class TextFit:
    """One fit by texts."""

    def __init__(
        self,
        decoder: FitsTexts,
        space: Space,
        values: Mapping[str, float],
        kind: str,
        beta: float,
        folder: Path | None = None,
    ) -> None:
        self._decoder, self._space, self._kind, self._beta = decoder, space, kind, beta
        self._values = {name: float(value) for name, value in values.items()}
        self._plan = decoder._bound.plan
        self._summands = differentiable.summands(self._plan, space.names)
        self._texts: Texts | None = None
        self._notes: list[str] = []
        self._folder = folder

    @property
    def texts(self) -> Texts:
        """What was kept, once they are read."""
        assert self._texts is not None
        return self._texts

    def close(self, finished: bool = True) -> None:
        """Remove what was kept; of a fit that has not ``finished``, not what is in a folder."""
        if self._texts is not None:
            self._texts.kept.close(finished)

    def read(
        self,
        read_texts: Callable[..., Iterator[int]],
        prompts: Any,
        completions: Any,
        batch_size: int,
        progress: bool | None,
    ) -> tuple[list[Request], list[list[int]]]:
        """Read every text once by ``read_texts``, and keep what the fit needs of it.

        Returns:
            The requests, and their completions' tokens.
        """
        at_least_one("batch_size", batch_size)
        requests, ids = self._requests(prompts, completions)
        bound = self._decoder._bound
        for request, each in zip(requests, ids, strict=True):
            check_completion(bound, request, each, read=max(0, len(each) - 1))
        tokens = [len(each) for each in ids]
        if not sum(tokens):
            raise ArgumentError("the completions have no tokens; there is nothing to fit")
        parts: list[Any]
        if self._summands is None:
            parts = [*parts_of(self._plan)]
        else:
            parts = [(each.node, each.number) for each in self._summands]
        width = len(parts) * (bound.vocabulary + 1)
        dtype = dtype_that_fits(sum(tokens), width)
        engine = self._decoder.session.engine
        if dtype is None:
            self._notes.append("no disk holds the scores: every pass read the texts again")
            again = RereadScores(
                lambda keep: read_texts(engine, requests, ids, parts, keep, batch_size)
            )
            self._texts = Texts(again, len(ids), tokens, masked=True)
            return requests, ids
        kept = KeptScores(dtype, self._folder, self._key(requests, ids, dtype))
        self._texts = texts = Texts(kept, len(ids), tokens)
        if dtype != "float32":
            self._notes.append("scores were kept in bfloat16, for half of the disk holds no more")
        done = kept.resume(tokens)
        texts.masked = bool(done)  # by an earlier process, who knows
        missing = [i for i in range(len(ids)) if i not in done]
        numbers_of = torch.tensor(missing)

        def keep(features: torch.Tensor, numbers: torch.Tensor) -> None:
            texts.masked = texts.masked or bool(features.amin() == -torch.inf)
            numbers[:, 1] = numbers_of[numbers[:, 1]]
            kept.add(features, numbers)

        total = sum(tokens[i] for i in missing)
        with progress_bar(total, "token", "reading", progress) as bar:
            own = [requests[i] for i in missing], [ids[i] for i in missing]
            for read in read_texts(engine, *own, parts, keep, batch_size):
                bar.update(read)
        return requests, ids

    def _key(self, requests: Sequence[Request], ids: Sequence[Any], dtype: str) -> str:
        """What tells these texts under this formula from others, for a fit that resumes."""
        binder = self._decoder._draft_binder
        specs = {} if binder is None else {name: repr(s) for name, s in binder.specs.items()}
        prompts = [request.prompts for request in requests]
        content = repr((self._plan.source, self._space.names, specs, prompts, ids, dtype))
        return hashlib.sha256(content.encode()).hexdigest()

    def fitted(self, holdout: float, folds: int, seed: int, slices: int = 0) -> Fit:
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
            slices=self._slices(loss, optimum.values, covariance, slices),
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
            except FormulaError:
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

    def _slices(
        self, loss: Any, at: np.ndarray, covariance: np.ndarray, points: int
    ) -> dict[str, list[tuple[float, float]]]:
        """Along each parameter, the others as found: values, and the log-likelihood there."""
        found = {}
        errors = np.sqrt(np.nan_to_num(np.diag(covariance)))
        for i, name in enumerate(self._space.names if points else ()):
            reach = 4 * errors[i] or 0.5 * max(1.0, abs(at[i]))
            low, high = max(at[i] - reach, self._space.lower[i]), min(
                at[i] + reach, self._space.upper[i])  # fmt: skip
            values = np.linspace(low, high, points)
            moved = [np.where(np.arange(len(at)) == i, value, at) for value in values]
            found[name] = [(float(v), -loss(m, 0)[0]) for v, m in zip(values, moved, strict=True)]
        return found

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
