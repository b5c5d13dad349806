"""The section ``fit`` of a run file: what is fitted, on what, and how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from .sections import Data, Strict

ONLY_OF = {
    "data": ("likelihood", "preference"), "folds": ("likelihood", "preference"),
    "beta": ("preference",), "gate": ("likelihood",), **dict.fromkeys(
        ("trials", "sampler", "pruner", "at_once", "grid", "weights"), ("reward",)
    ),
}  # fmt: skip


class FitData(Data):
    """Texts, or pairs: the fields of a row besides its prompt."""

    completion: str = "completion"
    chosen: str = "chosen"
    rejected: str = "rejected"


class GateSection(Strict):
    """Parameters as functions of a hidden state: of the term ``on``, after decoder ``layer``."""

    on: str
    layer: int = Field(ge=0)


class FitSection(Strict):
    """How a formula's parameters are fitted.

    Attributes:
        objective: ``likelihood`` of completions, ``preference`` among pairs, or ``reward`` of what
            is generated.
        bounds: ``{a: [0, 2], b: null}``: which parameters are fitted, and between what; null is
            free. Left out, all are fitted, and free.
        constraints: ``simplex(a, b)``, each.
        data: completions or pairs; left out, the run's data.
        holdout: the share that takes no part, and says what the result is worth.
        folds: of a cross-validation; 0 for none.
        gate: what the fitted parameters become functions of; left out, they are constants.
        beta: of preferences.
        seed: of what is held out, and of a search; left out, that of ``generate``.
        trials, sampler, pruner, at_once, grid, weights: of a search by rewards.
    """

    objective: Literal["likelihood", "preference", "reward"] = "likelihood"
    bounds: dict[str, Any] | None = None
    constraints: list[str] = Field(default_factory=list)
    data: FitData | None = None
    holdout: FiniteFloat = Field(default=0.0, ge=0, lt=1)
    folds: int = Field(default=0, ge=0)
    gate: GateSection | None = None
    beta: FiniteFloat = Field(default=1.0, gt=0)
    seed: int | None = None
    trials: int = Field(default=50, ge=1)
    sampler: Literal["tpe", "nsga2", "gp", "random"] = "tpe"
    pruner: Literal["wilcoxon", "median"] | None = None
    at_once: int | None = Field(default=None, ge=1)
    grid: bool = False
    weights: dict[str, FiniteFloat] | None = None

    @model_validator(mode="after")
    def _check_objective(self) -> FitSection:
        for key, objectives in ONLY_OF.items():
            changed = getattr(self, key) != type(self).model_fields[key].default
            if changed and self.objective not in objectives:
                raise ValueError(f"fit.{key} is for objective: {' or '.join(objectives)}")
        if self.objective == "reward" and not self.bounds:
            raise ValueError("fit.bounds: a search by rewards has bounds, as in {a: [0, 2]}")
        if self.gate is not None:
            if not self.bounds:
                raise ValueError("fit.bounds: say which parameters become gates, as in {a: [0, 2]}")
            if self.constraints or self.folds:
                raise ValueError("fit.gate: gates have no constraints and no folds; leave them out")
        return self
