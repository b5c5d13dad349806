"""The jobs of the decode process between two steps: compile, forget, score, print, explain.

Each job is a generator that advances once between two steps, so that no row waits for all of it.
Its return value is the reply.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ..protocol.messages import Command, Compile, Forget, InspectJob, PlanJob, ScoreJob, Start

if TYPE_CHECKING:
    from ...runtime import Served, Service
    from ...scoring.rewards import RewardScorer

Job = Generator[None, None, Any]


class Jobs:
    """The service of a server, and the jobs that use it.

    Args:
        start: what to serve.

    Attributes:
        service: decodes the formulas.
        formulas: compiled, by their numbers.

    Raises:
        FormulaError, ModelError: as ``Service.decoder``.
    """

    def __init__(self, start: Start) -> None:
        from ...api import where
        from ...runtime import Service

        run, limits = start.run, start.limits
        self._specs = run.models
        self._dtype, self._device = where(run.dtype, run.device)
        self.service: Service = Service(
            run.models, prompts=run.prompts, slots=limits.slots,
            max_model_len=limits.max_model_len, dtype=self._dtype, device=self._device,
        )  # fmt: skip
        self.formulas: dict[int, Served] = {}
        self._scorers: dict[str, RewardScorer] = {}  # loaded on first use
        for formula in start.formulas:
            self._compile(formula)

    def job(self, command: Command) -> Job:
        """The job of a command."""
        match command:
            case Compile():
                self._compile(command)
            case Forget():
                yield from self._forget(command)
            case PlanJob():
                return str(self.formulas[command.formula].plan)
            case ScoreJob():
                return self._score(command)
            case InspectJob():
                return (yield from self._inspect(command))
            case _:
                raise TypeError(f"{type(command).__name__} is no job")

    def reward_models(self) -> list[str]:
        """The names of the models that can score complete texts; loads no weights."""
        from ...scoring.declared import is_reward_model

        declared = self._specs, self._dtype, self._device
        return [name for name in self._specs if is_reward_model(name, *declared)]

    def _compile(self, command: Compile) -> None:
        self.formulas[command.formula] = self.service.decoder(command.text, command.params)

    def _forget(self, command: Forget) -> Job:
        decoder = self.formulas.pop(command.formula)
        while decoder.scheduler.busy:  # its last rows have not ended
            yield
        self.service.forget(decoder)

    def _score(self, command: ScoreJob) -> list[float]:
        from ...scoring.rewards import RewardScorer

        if command.model not in self._scorers:
            self._scorers[command.model] = RewardScorer(
                command.model, self._specs, self._dtype, self._device, self.service.weights,
                longest=self.service.max_model_len,
            )  # fmt: skip
        return self._scorers[command.model].scores(command.prompts, command.answers)

    def _inspect(self, command: InspectJob) -> Job:
        decoder = self.formulas[command.formula].alone()  # with caches of its own
        for inspection in decoder.inspecting(command.prompt, **command.arguments):
            if inspection is not None:
                return inspection.as_dict()
            yield
