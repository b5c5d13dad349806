"""``Decoder.fit``: from arguments to a ``Fit``. The decoder stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...errors import ArgumentError, quoted
from ...models import Prompt
from ..binding.bound import Bound
from ..binding.draft import DraftBinder
from ..requests.build import RequestBuilder
from ..requests.per_row import at_least_one
from ..session import Session
from . import differentiable
from .objectives import LIKELIHOOD, OBJECTIVES, REWARD
from .reading import read_texts
from .result import Fit
from .space import space_of
from .text_fit import TextFit


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
        slices: int = 0,
        folder: Path | str | None = None,
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
            slices: values along each parameter at which the log-likelihood is evaluated, too.
            folder: where scores are kept, so that a fit that was killed resumes; left out, in a
                temporary file. They are removed at the end.
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
                raise ArgumentError("a fit by rewards needs descant.compile's decoder")
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
        at = None if folder is None else Path(folder)
        texts = TextFit(self, space, values, objective, beta, at)
        try:
            texts.read(read_texts, prompts, completions, batch_size, progress)
            folds = at_least_one("folds", folds) if folds else 0
            fit = texts.fitted(holdout, folds, seed, slices)
        except BaseException:
            texts.close(finished=False)
            raise
        texts.close()
        return fit


def _listed() -> str:
    return " or ".join(OBJECTIVES)
