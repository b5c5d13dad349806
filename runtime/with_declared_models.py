"""Decoders whose declared models change while they run: other formulas, models that come and go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, Protocol, Self, cast

from ..errors import ArgumentError
from ..models import Prompt
from ..models.text.chat import RawTextLog
from .binding.bound import Bound
from .binding.declared_models import bound_formula, declare, forget, has_model, unload
from .binding.draft import DraftBinder
from .requests.request import Completion
from .session import Session


class Asynchronous(Protocol):
    """What decodes for coroutines."""

    def astream(self, prompt: Prompt, **arguments: Any) -> AsyncIterator[Any]:
        """As ``Decoder.astream``."""

    async def agenerate(self, prompts: Any, **arguments: Any) -> list[Completion]:
        """As ``Decoder.agenerate``."""

    def remove_model(self, name: str) -> None:
        """Let go of a model that is declared no more."""


class WithDeclaredModels:
    """What a decoder does with the models that were declared with its formula."""

    session: Session
    _params: dict[str, float]
    _bound: Bound
    _sessions: dict[Any, Session]
    _raw_text: RawTextLog
    _draft_binder: DraftBinder | None
    _make_asynchronous: Any
    _by_rewards: Any
    _asynchronous: Asynchronous | None

    def __repr__(self) -> str:
        params = f", params={self._params}" if self._params else ""
        return f"Decoder({self._bound.plan.formula!r}{params})"

    @property
    @abstractmethod
    def lanes(self) -> list[Any]:
        """The lanes of the formula, and of what has drafted for it."""

    def compile(self, formula: Any, params: Mapping[str, float] | None = None) -> Self:
        """Another formula over the same declared models: what is in memory is not read again.

        Args:
            formula: as in ``descant.compile``.
            params: its parameters and their values; left out, this formula's.

        Raises:
            FormulaError, ModelError: as ``descant.compile``.
        """
        models, params = self._models("compile"), self._params if params is None else params
        bound = replace(bound_formula(models, str(formula), params), sources=self._bound.sources)
        engine, kind = self.session.engine, cast(Any, type(self))
        decoder: Self = kind(
            bound, params, engine.capture, self._raw_text, None, engine.cache, models,
            self._make_asynchronous, self._by_rewards,
        )  # fmt: skip
        return decoder

    def add_model(self, name: str, spec: Any) -> None:
        """Declare another model, for ``compile`` and ``draft``; it is read when one needs it.

        An adapter or a vector on a base in memory takes its own memory alone.

        Args:
            name: none of a model declared already.
            spec: as in ``descant.compile``.

        Raises:
            ArgumentError, ModelError: as ``with_model``.
        """
        declare(self._models("add_model"), name, spec)

    def remove_model(self, name: str) -> None:
        """Declare a model no more, and free what it takes here; not one that this formula has.

        Other formulas that ``compile`` has made go on with it.

        Raises:
            ArgumentError: there is none, or the formula has it.
        """
        models = self._models("remove_model")
        if self._asynchronous is not None:
            self._asynchronous.remove_model(name)
        forget(models, name, [self._bound])
        for key, session in [*self._sessions.items()]:
            if any(has_model(each.plan, name) for each in session.bound.draft_plans):
                del self._sessions[key]
        for lane in self.lanes:
            unload(lane, name)

    def _coroutines(self, verb: str) -> Asynchronous:
        models = self._models(verb)
        if self._asynchronous is None:
            self._asynchronous = self._make_asynchronous(self.session, models, self._params)
        return self._asynchronous

    def _models(self, verb: str) -> DraftBinder:
        if self._draft_binder is None:
            raise ArgumentError(f"{verb} is for decoders that descant.compile has made")
        return self._draft_binder
