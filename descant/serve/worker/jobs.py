"""What the decode process does between two steps: compile, forget, score, explain.

Each job is a generator, which is let go on once between two steps, so that rows in flight go on;
what it returns is the reply.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ..protocol.messages import Compile, Forget, Inspect, Message, Plan, Score, Start

if TYPE_CHECKING:
    from ...runtime import Served, Service
    from ...scoring.rewards import RewardScorer

Job = Generator[None, None, Any]


class Jobs:
    """The work of a server beside its rows.

    Args:
        start: what is declared.
        dtype: of models that name none.
        device: of models that name none.

    Attributes:
        service: of which the formulas are.
        formulas: compiled, by their numbers.
    """

    def __init__(self, start: Start, dtype: str | None, device: str) -> None:
        from ...runtime import Service

        self._specs, self._dtype, self._device = start.specs, dtype, device
        self.service: Service = Service(
            start.specs, prompts=start.prompts, slots=start.slots,
            max_model_len=start.max_model_len, dtype=dtype, device=device,
        )  # fmt: skip
        self.formulas: dict[int, Served] = {}
        self._scorers: dict[str, RewardScorer] = {}  # each is read when it is first asked

    def job(self, message: Message) -> Job:
        """The job that a message asks for."""
        match message:
            case Compile():
                self.compile(message)
            case Forget():
                yield from self._forget(message)
            case Plan():
                return str(self.formulas[message.formula].plan)
            case Score():
                return self._scored(message)
            case Inspect():
                return (yield from self._inspected(message))
            case _:
                raise TypeError(f"{type(message).__name__} is no job")

    def compile(self, said: Compile) -> None:
        """Compile a formula, and know it by its number.

        Raises:
            FormulaError, ModelError: as ``Service.decoder``.
        """
        self.formulas[said.formula] = self.service.decoder(said.text, said.params)

    def rewards(self) -> list[str]:
        """The names of the models that can score whole texts; reads no weights."""
        from ...scoring.declared import is_reward_model

        declared = self._specs, self._dtype, self._device
        return [name for name in self._specs if is_reward_model(name, *declared)]

    def _forget(self, said: Forget) -> Job:
        decoder = self.formulas.pop(said.formula)
        while decoder.scheduler.busy:  # its last rows are still on their way out
            yield
        self.service.forget(decoder)

    def _scored(self, said: Score) -> list[float]:
        from ...scoring.rewards import RewardScorer

        if said.model not in self._scorers:
            self._scorers[said.model] = RewardScorer(
                said.model, self._specs, self._dtype, self._device, self.service.weights,
                longest=self.service.max_model_len,
            )  # fmt: skip
        return self._scorers[said.model].scores(said.prompts, said.answers)

    def _inspected(self, said: Inspect) -> Job:
        alone = self.formulas[said.formula].alone()  # with caches of its own
        for found in alone.inspecting(said.prompt, **said.arguments):
            if found is not None:
                return found.as_dict()
            yield
