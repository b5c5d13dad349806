"""Formulas by the name that clients give, and the numbers of those that are compiled.

A compiled formula is kept while it is used; the one that was used least recently goes when there
are too many. Those of the run file stay. The formulas themselves are in the decode process.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

from ...formula.words.stages import STAGES, Search, Stage
from ...grammar import Argument, Call, FormulaError, Name, Pipeline, did_you_mean, parse, text
from ...models import ModelError
from ..protocol.errors import ApiError, wrong_formula
from ..protocol.messages import Compile, Forget
from .worker_link import Link


@dataclass(frozen=True)
class Named:
    """A formula of the run file, with its parameters' values where a request gives none."""

    text: str
    params: Mapping[str, float]


@dataclass(frozen=True)
class Wanted:
    """What a request asks to decode from.

    Attributes:
        model: a name, or a formula.
        params: the request's own values.
        heat: the temperature and the top_p that it draws at, where it says a top_p.
    """

    model: str
    params: Mapping[str, float]
    heat: tuple[float, float] | None = None


@dataclass
class _Held:
    number: int
    compiling: asyncio.Future[None] | None  # None where it is of the run file, and stays
    uses: int = 0


class Formulas:
    """The formulas of a server.

    Args:
        named: those of the run file.
        models: the names of the declared models.
        link: to the process that compiles.
        allowed: whether a model's name may be a formula.
        most: compiled formulas that are kept beside those of the run file.
    """

    def __init__(
        self,
        named: Mapping[str, Named],
        models: frozenset[str],
        link: Link,
        allowed: bool,
        most: int,
    ) -> None:
        self.named, self._link, self._allowed, self._most = named, link, allowed, most
        self._models = models
        self._params = dict(next(iter(named.values())).params)
        taken = {*models, *self._params}
        self._temperature, self._top_p = (_free(one, taken) for one in ("request_t", "request_p"))
        self._held: OrderedDict[tuple[str, frozenset[str]], _Held] = OrderedDict()
        self._numbers = count(1)

    def first(self) -> list[Compile]:
        """What is to be compiled before there are clients: the formulas of the run file.

        Raises:
            FormulaError: what is no formula at all.
        """
        found = []
        for one in self.named.values():
            key, _ = self._key(one.text, {})
            if key not in self._held:
                self._held[key] = _Held(next(self._numbers), None)
                found.append(Compile(self._held[key].number, one.text, one.params))
        return found

    def arguments(self, wanted: Wanted) -> dict[str, Any]:
        """What ``generate`` is called with for them: parameters and temperature."""
        if wanted.heat is None:
            return {"params": dict(wanted.params)}
        temperature, top_p = wanted.heat
        own = {self._temperature: temperature, self._top_p: top_p}
        return {"params": {**wanted.params, **own}, "temperature": 1.0}

    @contextmanager
    def use(self, wanted: Wanted) -> Iterator[Coroutine[Any, Any, int]]:
        """The number of a formula, awaited by the caller, that stays compiled inside of this.

        Raises:
            ApiError: no such model, or, when it is awaited, a formula that cannot be compiled.
        """
        formula = self._formula(wanted.model)
        params: dict[str, float] = {**self._params}
        # More parameters than the run file's can only be for a formula that came with them.
        if wanted.model not in self.named:
            params |= wanted.params
        try:
            key, tree = self._key(formula, params)
            if wanted.heat is not None:
                params |= {self._temperature: 1.0, self._top_p: 1.0}
                formula = sampled(tree, self._temperature, self._top_p)
                key, _ = self._key(formula, params)
        except FormulaError as error:
            raise wrong_formula(error) from None
        held = self._held.get(key)
        if held is None:
            number = next(self._numbers)
            compiling = self._link.ask(Compile(number, formula, params))
            held = self._held[key] = _Held(number, asyncio.ensure_future(compiling))
        self._held.move_to_end(key)
        held.uses += 1
        try:
            yield self._compiled(key, held)
        finally:
            held.uses -= 1
            self._shed()

    async def _compiled(self, key: Any, held: _Held) -> int:
        if held.compiling is None:
            return held.number
        try:  # one who stops waiting does not stop the others
            await asyncio.shield(held.compiling)
            return held.number
        except Exception as error:
            if self._held.get(key) is held:
                del self._held[key]
            if isinstance(error, FormulaError):
                raise wrong_formula(error) from None
            if isinstance(error, ModelError):
                raise ApiError(400, str(error), "model", "model_error") from None
            raise

    def _formula(self, model: str) -> str:
        if model in self.named:
            return self.named[model].text
        if self._allowed and (model in self._models or not model.isidentifier()):
            return model
        cure = did_you_mean(model[:100], self.named)
        message = f"there is no model {model[:100]!r}; {cure}"
        raise ApiError(404, message, "model", "model_not_found")

    def _key(self, formula: str, params: Mapping[str, float]) -> tuple[Any, Any]:
        """What makes two compiled formulas one; values of parameters come with each request."""
        tree = _parsed(formula)
        return (text(tree), frozenset(params) | frozenset(self._params)), tree

    def _shed(self) -> None:
        """Forget what nobody uses, oldest first, while there is too much of it."""
        spare = [(key, one) for key, one in self._held.items() if one.compiling is not None]
        for key, one in spare[: max(0, len(spare) - self._most)]:
            if one.uses == 0 and one.compiling is not None and one.compiling.done():
                del self._held[key]
                if one.compiling.exception() is None:
                    self._link.tell(Forget(one.number))


def sampled(tree: Any, temperature: str, top_p: str) -> str:
    """The formula that draws as OpenAI's ``temperature`` and then ``top_p`` say.

    Args:
        tree: of the formula; a stage that searches stays the last.
        temperature: the parameter that is the temperature.
        top_p: the parameter that is the share of probability.

    >>> sampled(parse("base | best_of(rm, n=4)"), "t", "p")
    'base | temperature(t) | top_p(p) | best_of(rm, n=4)'
    """
    head, stages = (tree.head, tree.stages) if isinstance(tree, Pipeline) else (tree, ())
    more = tuple(
        Call(Name(stage), (Argument(Name(value)),))
        for stage, value in (("temperature", temperature), ("top_p", top_p))
    )
    searches = bool(stages) and issubclass(STAGES.get(stages[-1].function.name, Stage), Search)
    last = stages[-1:] if searches else ()
    return text(Pipeline(head, (*stages[: len(stages) - len(last)], *more, *last)))


@lru_cache(maxsize=256)
def _parsed(formula: str) -> Any:
    return parse(formula)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
