"""Where a sweep's rows are decoded and its completions scored: in this process, or anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ..api import declared
from ..inputs.expand import Row, Setting, drafting_models
from ..inputs.runfile import RunFile
from ..results.folder import Record
from ..runs.models import Models, declared_models
from ..runtime import Decoder
from ..runtime.progress import progress_bar
from ..scoring.expressions import models_of
from .decode import completed
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
        for row, completion in completed(self._decoder, self._run, setting.plan, rows):
            yield row.record(completion, self._run)

    def score(self, completions: Sequence[Known]) -> Iterator[list[Record]]:
        """As the protocol; a progress bar for each model where they are shown."""
        self._release([])
        return score_lines(self._run, self.models, completions, self._shown)

    def _release(self, later: Sequence[Setting]) -> None:
        """Release the decoder, and the weights that no later formula and no score uses."""
        self._close()
        self._decoder, self._close = None, _nothing
        self.models.keep(_models_of(self._run, later))


def decode(
    source: Source, setting: Setting, rows: Sequence[Row], done: int, shown: bool
) -> Iterator[Record]:
    """Decode the missing rows of one formula; yields each record when its completion ends.

    The progress bar, where one is ``shown``, counts the rows that are ``done``, too.
    """
    bar = progress_bar(
        done + len(rows), "row", setting.name, None if shown else False,
        initial=done, smoothing=0.1,
    )  # fmt: skip
    tokens = 0
    with bar:
        for record in source.decode(setting, rows):
            tokens += len(record["token_ids"])
            bar.update()
            elapsed = bar.format_dict["elapsed"] or 1e-9
            bar.set_postfix_str(f"{tokens / elapsed:.0f} tokens/s", refresh=False)
            yield record


def models_of_scores(run: RunFile) -> set[str]:
    """The declared models that score."""
    scores = {score.model for score in (run.score or {}).values() if score.model}
    expressions = reward_expressions(run, declared(run.models)).values()
    return scores | {name for expression in expressions for name in models_of(expression)}


def _models_of(run: RunFile, settings: Sequence[Setting]) -> set[str]:
    """The models of some formulas, of what drafts for them, and of the scores."""
    scores = models_of_scores(run) | drafting_models(run, run.models)
    return scores.union(*(declared_models(run, setting) for setting in settings))


def _nothing() -> None:
    """The end of no decoder."""
