"""Compiled formulas, as a cache: from the model's name of a request to the number of a formula.

The decode process holds the formulas. Those of the run file stay; of the others the least recently
used one is forgotten when there are too many.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from typing import TypeAlias

from ...formula import Names, Plan, make_plan
from ...formula.algebra.drafting import AUTO, PROMPT, why_no_draft
from ...formula.request_fields import NO_FIELDS, Group
from ...formula.words.constraints import ConstraintStage
from ...grammar import FormulaError, did_you_mean, parse, text
from ...inputs.runfile import RunFile
from ...runtime.constraints.spec import Constraint
from ..protocol import errors
from ..protocol.messages import Compile, Forget, FormulaEncoders
from ..worker.checks import PlanFormula
from .check_queue import Checks
from .constraint_checks import ConstraintChecks
from .worker_link import WorkerLink

WORDS = (PROMPT, AUTO)  # drafts that are no formulas
MOST_TERMS, MOST_REWARDS = 32, 8  # forwards that each token of a client's formula may cost
# Formula, parameters, draft, and fields of requests.
Key: TypeAlias = tuple[str, frozenset[str], str | None, Group]


@dataclass(frozen=True)
class FormulaRef:
    """The formula that a request names.

    Attributes:
        model: a name, or a formula.
        params: the request's own values.
        fields: which stages of requests it is to have, as ``Compile`` has it.
        draft: who proposes its tokens, as ``Compile`` has it.
    """

    model: str
    params: Mapping[str, float]
    fields: Group = NO_FIELDS
    draft: str | None = None


@dataclass
class _Entry:
    number: int
    compiling: asyncio.Future[None] | None  # None for a formula of the run file, which stays
    uses: int = 0


class FormulaCache:
    """The formulas of a server; the arguments are those of ``Server`` and of ``Limits``.

    Attributes:
        run: the run file; another, where adapters have come or gone.
        encoders: how each compiled formula reads prompts, by their numbers.
    """

    def __init__(
        self, run: RunFile, link: WorkerLink, checks: Checks, constraints: ConstraintChecks,
        allow_formulas: bool, max_formulas: int,
    ) -> None:  # fmt: skip
        self.run, self._link, self._checks, self._constraints = run, link, checks, constraints
        self._allow_formulas, self._max_formulas = allow_formulas, max_formulas
        self.encoders: dict[int, FormulaEncoders] = {}
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._numbers = count(1)

    def compile_named(self) -> list[Compile]:
        """The commands that compile the formulas of the run file.

        Raises:
            FormulaError: anything wrong with one, before any process is started.
        """
        commands, run, draft = [], self.run, self.run.generate.draft
        names = self._names()
        for formula in run.named.values():
            make_plan(formula, names)
            key = self._key(formula, {}, draft)
            if key not in self._entries:
                number = next(self._numbers)
                self._entries[key] = _Entry(number, None)
                commands.append(Compile(number, formula, run.params, draft=draft))
        return commands

    async def compile(self, name: str) -> None:
        """Have a formula compiled that the run file has come to have; it stays.

        Raises:
            FormulaError, ModelError: it cannot be compiled.
        """
        draft = self.run.generate.draft
        number, formula = next(self._numbers), self.run.named[name]
        command = Compile(number, formula, self.run.params, draft=draft)
        self.encoders[number] = await self._link.call(command)
        self._entries[self._key(formula, {}, draft)] = _Entry(number, None)

    def forget_model(self, name: str) -> bool:
        """Forget the formulas that have a model; False, and none, where requests need one."""
        entries = {key: entry for key, entry in self._entries.items() if self._has(key, name)}
        if any(entry.uses for entry in entries.values()):
            return False
        for key, entry in entries.items():
            del self._entries[key]
            self.encoders.pop(entry.number, None)
            self._link.send(Forget(entry.number))
        return True

    def _has(self, key: Key, name: str) -> bool:
        """Whether a formula, or its draft, has a model."""
        formula, params, draft, _ = key
        texts = [formula, *([] if draft is None or draft in WORDS else [draft])]
        return any(name in make_plan(text, self.run.names(params)).declared for text in texts)

    def number(self, name: str) -> int:
        """The number of a formula of the run file."""
        draft = self.run.generate.draft
        return self._entries[self._key(self.run.named[name], {}, draft)].number

    @asynccontextmanager
    async def use(self, ref: FormulaRef, client: Hashable = None) -> AsyncIterator[int]:
        """The number of a compiled formula, which stays compiled inside of this.

        One that nobody waits for any more is not compiled.

        Raises:
            ApiError: no such model.
            FormulaError, ModelError: the formula cannot be compiled.
        """
        formula = self._formula(ref.model)
        await self._plan_draft(ref.draft, client)
        params = dict(self.run.params)
        # A named formula has the run file's parameters; any other may bring its own.
        if ref.model not in self.run.named:
            params |= ref.params
        key = self._key(formula, params, ref.draft, ref.fields)
        entry = self._entries.get(key)
        if entry is None:
            number = next(self._numbers)
            task = asyncio.ensure_future(
                self._compiled(Compile(number, formula, params, ref.fields, ref.draft), client)
            )
            entry = self._entries[key] = _Entry(number, task)

            def drop_if_failed(task: asyncio.Future[None]) -> None:
                failed = task.cancelled() or task.exception() is not None
                if failed and self._entries.get(key) is entry:
                    del self._entries[key]

            task.add_done_callback(drop_if_failed)
        self._entries.move_to_end(key)
        entry.uses += 1
        try:
            if entry.compiling is not None:  # a request that is cancelled does not cancel others
                await asyncio.shield(entry.compiling)
            yield entry.number
        finally:
            entry.uses -= 1
            if not entry.uses and entry.compiling is not None and not entry.compiling.done():
                entry.compiling.cancel()
                if self._entries.get(key) is entry:
                    del self._entries[key]  # nobody else waits for what is cancelled
            self._evict()

    async def _compiled(self, command: Compile, client: Hashable) -> None:
        """Have a formula compiled, which is a client's: its plan and constraints come before."""
        names = self.run.names(command.params)
        made = await self._checks.run(PlanFormula(command.text, names), client)
        plan: Plan = made or make_plan(command.text, names)
        if command.text not in self.run.named.values():
            check_models(plan)
        for _, stage in plan.all_stages:
            if isinstance(stage, ConstraintStage):
                await self._constraints.check(Constraint(stage.name, stage.text), client)
        try:
            encoders = await self._link.call(replace(command, plan=made))
        except asyncio.CancelledError:
            self._link.send(Forget(command.formula))
            raise
        self.encoders[command.formula] = encoders

    def checked_draft(self, draft: str | None) -> str | None:
        """A request's draft: the run file's, one of its models, or a formula where those are taken.

        Raises:
            ApiError: it is none of these.
        """
        run = self.run
        known = {PROMPT, AUTO, *run.models, run.generate.draft}
        if draft is None or draft in WORDS:
            return draft
        if draft not in known and not self._allow_formulas:
            cure = did_you_mean(draft[:100], [each for each in known if each])
            raise errors.invalid_value(f"there is no draft {draft[:100]!r} here; {cure}", "draft")
        return draft

    async def _plan_draft(self, draft: str | None, client: Hashable) -> None:
        """Refuse a request's draft that is no formula over the declared models, or drafts nothing.

        Raises:
            ApiError: says which.
        """
        if draft in (None, *WORDS, self.run.generate.draft):
            return
        assert draft is not None
        try:
            made = await self._checks.run(PlanFormula(draft, self._names()), client)
            error = why_no_draft(made or make_plan(draft, self._names()))
        except FormulaError as wrong:
            error = wrong
        if error is not None:
            raise errors.wrong_formula(error, "draft")

    def _names(self) -> Names:
        """The names that a formula may use."""
        return self.run.names()

    def _formula(self, model: str) -> str:
        if model in self.run.named:
            return self.run.named[model]
        if self._allow_formulas and (model in self.run.models or not model.isidentifier()):
            return model
        raise errors.unknown_model(model, self.run.named)

    def _key(
        self, formula: str, params: Mapping[str, float], draft: str | None,
        fields: Group = NO_FIELDS,
    ) -> Key:  # fmt: skip
        """The cache's key; the values of parameters come with each request."""
        if draft is not None and draft not in WORDS:
            draft = text(_parsed(draft))
        names = frozenset(params) | frozenset(self.run.params)
        return text(_parsed(formula)), names, draft, fields

    def _evict(self) -> None:
        """Forget unused formulas, the least recently used first, while there are too many."""
        entries = [(key, entry) for key, entry in self._entries.items() if entry.compiling]
        for key, entry in entries[: max(0, len(entries) - self._max_formulas)]:
            if entry.uses == 0 and entry.compiling is not None and entry.compiling.done():
                del self._entries[key]
                self.encoders.pop(entry.number, None)
                self._link.send(Forget(entry.number))


def check_models(plan: Plan) -> None:
    """Refuse a client's formula each of whose tokens costs very many forwards.

    Raises:
        FormulaError: it has too many terms, or reward models.
    """
    rewards = [term for _, stage in plan.reranks for term in stage.reward.terms]
    rewards += plan.search[1].r.terms if plan.search else ()
    for terms, most, what in (
        (plan.terms, MOST_TERMS, "terms"), (rewards, MOST_REWARDS, "reward models"),
    ):  # fmt: skip
        if len(terms) > most:
            problem = f"it has {len(terms)} {what}, and a client's formula may have {most} here"
            raise plan.error(problem, plan.spans[terms[most]], "or the run file may name it")


_parsed = lru_cache(maxsize=256)(parse)
