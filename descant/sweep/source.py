"""Where a sweep's rows are decoded and its completions scored: in this process, or anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ..api import declared
from ..inputs.expand import Row, Setting, drafting_models, without_temperature
from ..inputs.runfile import TEMPERATURE, RunFile
from ..results.folder import Record
from ..runs.models import Models, declared_models
from ..runs.run import Completed, decode_readable
from ..runtime import Decoder
from ..scoring.expressions import models_of
from .measure import Known, score_lines
from .rewards import reward_expressions


class Source(Protocol):
    """Makes the lines of a sweep; who calls it writes them.

    Attributes:
        models: the declared models, whose descriptions are read here; ``plans`` has the plan of
            each formula once it is decoded.
        device: what decodes, for ``meta.json``.
    """

    models: Models
    device: str

    def decode(self, setting: Setting, rows: Sequence[Row]) -> Iterator[Record]:
        """The lines of a formula's rows, each when its completion ends, in any order."""

    def score(self, completions: Sequence[Known]) -> Iterator[list[Record]]:
        """The lines of the scores that completions do not have yet, some at a time."""


class InProcess:
    """A ``Source`` of this process: one formula's decoder at a time, and the weights in memory."""

    def __init__(
        self, run: RunFile, settings: Sequence[Setting], device: str | None, shown: bool = False
    ) -> None:
        self.models = Models(run, device)
        self.device = self.models.device
        self._run, self._settings, self._shown = run, settings, shown
        self._decoder: Decoder | None = None  # of the formula of this name:
        self._name, self._close = "", _nothing

    def decode(self, setting: Setting, rows: Sequence[Row]) -> Iterator[Record]:
        """As the protocol; the decoder is kept until another formula's rows, or scores, come."""
        if self._decoder is None or self._name != setting.name:
            numbers = {own.name: number for number, own in enumerate(self._settings)}
            self._release(self._settings[numbers[setting.name] :])
            self._decoder, self._close = self.models.decoder(setting)
            self._name = setting.name
        return records(self._run, self._decoder, setting, rows)

    def score(self, completions: Sequence[Known]) -> Iterator[list[Record]]:
        """As the protocol; a progress bar for each model where they are shown."""
        self._release([])
        return score_lines(self._run, self.models, completions, self._shown)

    def _release(self, later: Sequence[Setting]) -> None:
        """Release the decoder, and the weights that no later formula and no score uses."""
        self._close()
        self._decoder, self._close = None, _nothing
        self.models.keep(_models_of(self._run, later))


def records(
    run: RunFile, decoder: Decoder, setting: Setting, rows: Sequence[Row]
) -> Iterator[Record]:
    """The lines of a formula's rows, each when its completion ends."""
    generate = run.generate.model_dump(exclude={"seed", "num_return_sequences"})
    swept_temperature = any(TEMPERATURE in row.params for row in rows)
    names = list(without_temperature(rows[0].params))
    if run.has_kl and not setting.plan.search:
        generate |= {"logprobs": True, "logprobs_mode": "processed_logprobs"}

    def start(rows: Sequence[Row]) -> Completed:
        if swept_temperature:
            generate[TEMPERATURE] = [row.params.get(TEMPERATURE) for row in rows]
        return decoder.as_completed(
            [row.item.prompt for row in rows],
            params={name: [row.params[name] for row in rows] for name in names},
            seed=[row.seed for row in rows],
            progress=False,
            **generate,
        )

    rows, completions = decode_readable(rows, run, decoder, start)
    for index, completion in completions:
        yield rows[index].record(completion, run)


def _models_of(run: RunFile, settings: Sequence[Setting]) -> set[str]:
    """The models of some formulas and of the scores."""
    scores = {score.model for score in (run.score or {}).values() if score.model}
    expressions = reward_expressions(run, declared(run.models)).values()
    scores |= {name for expression in expressions for name in models_of(expression)}
    scores |= drafting_models(run, run.models)
    return scores.union(*(declared_models(run, setting) for setting in settings))


def _nothing() -> None:
    """The end of no decoder."""
