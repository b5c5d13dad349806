"""The scores of a run's completions, as lines of ``scores.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..extras import require
from ..inputs.expand import KEY, Setting, key_of
from ..inputs.prompts import Item
from ..inputs.runfile import RunFile, RunFileError
from ..inputs.sections import ScoreSpec
from ..models import ModelError
from ..models.text.vocabulary import common_vocabulary
from ..results.folder import COMPLETIONS, SCORES, Journal, Record, scores_by_key
from ..runs.processes import Process
from ..runtime.progress import progress_bar
from ..scoring.coherence import PACKAGE, CoherenceScorer
from ..scoring.declared import language_model, reward_model
from ..scoring.rewards import RewardScorer
from ..scoring.words import word_measures

if TYPE_CHECKING:
    from ..runs.models import Models

CHUNK = 64  # completions that are scored between two writes
Values = Sequence[float | None]  # one per record; None where the score has no value


@dataclass(frozen=True)
class Work:
    """One process's part of a sweep: every formula with its points, and the prompts."""

    run: RunFile
    folder: Path
    process: Process
    settings: Sequence[Setting]
    items: Sequence[Item]

    def journal(self, stem: str) -> Journal:
        """The file that this process writes."""
        return Journal(self.folder, stem, self.process.rank, self.process.count)


def check_scores(run: RunFile, models: Models, settings: Sequence[Setting]) -> None:
    """Check every score before anything is decoded; no weights are loaded.

    Raises:
        RunFileError: a model of another kind or vocabulary, or one that cannot be read.
    """
    for name, score in (run.score or {}).items():
        kind, model = score.source
        try:
            if kind == "coherence":
                require(f"score.{name}", PACKAGE)
            elif kind == "reward":
                reward_model(model, models.specs, models.dtype, models.device)
            elif score.model:
                language_model(model, models.specs, models.dtype, models.device)
                _check_tokens(model, models, settings)
        except ModelError as error:
            raise RunFileError(f"score.{name}: {error}") from error


def _check_tokens(model: str, models: Models, settings: Sequence[Setting]) -> None:
    """Check that a model has the vocabulary of every formula."""
    for setting in settings:
        own = next(term.model for term in setting.plan.terms if not term.aligned)
        try:
            common_vocabulary([models.description(own), models.description(model)])
        except ModelError as error:
            cure = "a likelihood needs the sampled tokens; a reward reads text"
            raise ModelError(error.problem, cure, model) from None


def measure(work: Work, models: Models) -> None:
    """Score the completions of this process's prompts, except where a score is known.

    Raises:
        RunFileError: a score that is not finite; names the completion. ModelError: a text that a
            model cannot read. What is scored is kept.
    """
    journal = work.journal(SCORES)
    known = scores_by_key(journal.records())
    order = {item.id: i for i, item in enumerate(work.items)}
    formulas, process = {setting.name for setting in work.settings}, work.process
    mine = [
        record
        for record in work.journal(COMPLETIONS).records()
        if record["formula"] in formulas
        and order.get(record["id"], -1) % process.count == process.rank
    ]

    def unscored(name: str) -> list[Record]:
        return [record for record in mine if name not in known.get(key_of(record), ())]

    journal.add(
        _line(record, word_measures(record["text"] or "", len(record["token_ids"])))
        for record in unscored("length")
    )
    for name, score in (work.run.score or {}).items():
        records = unscored(name)
        if not records or score.recovered:
            continue
        values_of, close = _scorer(name, score, models)
        for chunk in _chunks(name, records, process.first):
            scored = zip(chunk, values_of(chunk), strict=True)
            journal.add(_line(r, {name: value}) for r, value in scored if value is not None)
        close()


def _chunks(name: str, records: Sequence[Record], shown: bool) -> Iterable[list[Record]]:
    """The records some at a time, long texts first, so that neighbours are alike."""
    ordered = sorted(records, key=lambda record: -len(record["token_ids"]))
    with progress_bar(len(ordered), "row", name, None if shown else False) as bar:
        for start in range(0, len(ordered), CHUNK):
            chunk = ordered[start : start + CHUNK]
            yield chunk
            bar.update(len(chunk))


def _line(record: Record, scores: Mapping[str, float]) -> Record:
    for name, value in scores.items():
        if not math.isfinite(value):
            row = "{}, point {}, prompt {}, sample {}".format(*key_of(record))
            cure = "what is scored is kept. Look at that text, or at the model's dtype"
            raise RunFileError(f"score.{name} is {value} for {row}; {cure}")
    rounded = {name: round(value, 6) for name, value in scores.items()}
    return {**{part: record[part] for part in KEY}, "scores": rounded}


def _scorer(
    name: str, score: ScoreSpec, models: Models
) -> tuple[Callable[[Sequence[Record]], Values], Callable[[], None]]:
    """The function that gives one score of some completions, and one that releases its model."""
    kind, source = score.source
    if kind in ("reward", "coherence"):
        scorer: RewardScorer | CoherenceScorer
        if kind == "coherence":
            scorer = CoherenceScorer(name, source, models.device)
        else:
            arguments = source, models.specs, models.dtype, models.device, models.loaded
            scorer = RewardScorer(*arguments, raw_text=models.raw_text)

        def of_texts(records: Sequence[Record]) -> Values:
            texts = [record["text"] or "" for record in records]
            return scorer.scores([record["prompt"] for record in records], texts)

        return of_texts, getattr(scorer, "close", lambda: None)
    decoder, close = models.language_model(source)

    def of_tokens(records: Sequence[Record]) -> Values:
        prompts = [record["prompt"] for record in records]
        completions = [record["token_ids"] for record in records]
        rows = models.run.generate.batch_size
        scored = decoder.loglikelihood(prompts, completions, batch_size=rows, progress=False)
        if kind == "kl":  # one sample's estimate of the sum over its tokens
            return [
                record["logprob"] - own.total if "logprob" in record else None
                for record, own in zip(records, scored, strict=True)
            ]
        return [math.exp(-own.total / len(own.logprobs)) for own in scored]

    return of_tokens, close
