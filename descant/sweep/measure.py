"""What a run's scores say of its completions: lines of ``scores.jsonl``, as they come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..inputs.runfile import RunFile, RunFileError, Score
from ..models import ModelError
from ..models.text.vocabulary import common_vocabulary
from ..runs.expand import Setting, key_of
from ..runs.folder import COMPLETIONS, SCORES
from ..runtime.progress import progress_bar
from ..scoring.coherence import CoherenceScorer, check_coherence
from ..scoring.declared import language_model, reward_model
from ..scoring.rewards import RewardScorer
from ..scoring.words import word_measures
from .state import Work

if TYPE_CHECKING:
    from ..runs.models import Models

CHUNK = 64  # completions that are scored between two writings
Record = Mapping[str, Any]
Measures = Sequence[float | None]  # one per record; None where there is nothing to say


def score_key(record: Record) -> tuple[Any, ...]:
    """What tells a line of scores from all others."""
    return (*key_of(record), *sorted(record["scores"]))


def check_scores(run: RunFile, models: Models, settings: Sequence[Setting]) -> None:
    """See that whatever is to score can, before anything is decoded; no weights are read.

    Raises:
        RunFileError: a model of another kind or vocabulary, or one that cannot be read.
    """
    for name, score in (run.score or {}).items():
        [(kind, named)] = score.said.items()
        place = (named, models.specs, models.dtype, models.device)
        try:
            if kind == "coherence":
                check_coherence(name)
            elif kind == "reward":
                reward_model(*place)
            elif score.model:
                language_model(*place)
                _check_tokens(named, models, settings)
        except ModelError as error:
            raise RunFileError(f"score.{name}: {error}") from error


def _check_tokens(judge: str, models: Models, settings: Sequence[Setting]) -> None:
    """See that a model reads the tokens that the formulas draw."""
    for setting in settings:
        own = next(term.model for term in setting.plan.terms if not term.aligned)
        parts = setting.merges[own].names if own in setting.merges else (own,)
        try:
            common_vocabulary([models.description(parts[0]), models.description(judge)])
        except ModelError as error:
            cure = "likelihood is of the tokens that were drawn; a reward reads text"
            raise ModelError(error.problem, cure, judge) from None


def measure(work: Work, models: Models) -> None:
    """Score this process's share of what has been decoded, but for what is scored already.

    Raises:
        RunFileError: a score that is not a number, names the completion; ModelError: a text that a
            model cannot read. What is scored is kept.
    """
    journal = work.journal(SCORES)
    known: dict[Any, set[str]] = {}
    for line in journal.records():
        known.setdefault(key_of(line), set()).update(line["scores"])
    places = {item.id: i for i, item in enumerate(work.items)}
    wanted = {setting.name for setting in work.settings}
    mine = [
        record
        for record in work.journal(COMPLETIONS).records()
        if record["formula"] in wanted
        and places.get(record["id"], -1) % work.share.count == work.share.rank
    ]
    plain = [record for record in mine if "length" not in known.get(key_of(record), ())]
    journal.add(
        _line(record, word_measures(record["text"] or "", len(record["token_ids"])))
        for record in plain
    )
    for name, score in (work.run.score or {}).items():
        rest = [record for record in mine if name not in known.get(key_of(record), ())]
        if not rest or score.recovered:
            continue
        says, close = _scorer(name, score, models)
        for chunk in _chunks(name, rest, work.share.first):
            journal.add(_lines(name, chunk, says(chunk)))
        close()


def _chunks(name: str, records: Sequence[Record], shown: bool) -> Iterable[list[Record]]:
    """The records some at a time, long texts first, so that neighbours are alike."""
    ordered = sorted(records, key=lambda record: -len(record["token_ids"]))
    with progress_bar(len(ordered), "row", name, None if shown else False) as bar:
        for start in range(0, len(ordered), CHUNK):
            chunk = ordered[start : start + CHUNK]
            yield chunk
            bar.update(len(chunk))


def _lines(name: str, records: Sequence[Record], values: Measures) -> list[dict[str, Any]]:
    lines = []
    for record, value in zip(records, values, strict=True):
        if value is None:
            continue
        if not math.isfinite(value):
            formula, point, item, sample = key_of(record)
            raise RunFileError(
                f"score.{name} is {value} for {formula}, point {point}, prompt {item}, sample "
                f"{sample}; what is scored is kept. Look at that text, or at the model's dtype"
            )
        lines.append(_line(record, {name: value}))
    return lines


def _line(record: Record, scores: Mapping[str, float]) -> dict[str, Any]:
    key = {part: record[part] for part in ("formula", "point", "id", "sample")}
    return {**key, "scores": {name: round(value, 6) for name, value in scores.items()}}


def _scorer(
    name: str, score: Score, models: Models
) -> tuple[Callable[[Sequence[Record]], Measures], Callable[[], None]]:
    """What says one score of some completions, and what is to be called after it."""
    [(kind, named)] = score.said.items()
    place = (models.specs, models.dtype, models.device, models.loaded)
    if kind == "reward":
        reward = RewardScorer(named, *place)
        return lambda some: reward.scores(_prompts(some), _texts(some)), reward.close
    if kind == "coherence":
        coherent = CoherenceScorer(name, named, models.device)
        return lambda some: coherent.scores(_prompts(some), _texts(some)), lambda: None
    judge, close = models.judge(named)

    def says(some: Sequence[Record]) -> Measures:
        answers = [record["token_ids"] for record in some]
        rows = models.run.generate.batch_size
        found = judge.loglikelihood(_prompts(some), answers, batch_size=rows, progress=False)
        if kind == "kl":  # one sample's estimate of the sum over its tokens
            return [
                record["logprob"] - one.total if "logprob" in record else None
                for record, one in zip(some, found, strict=True)
            ]
        return [math.exp(-one.total / len(one.logprobs)) for one in found]

    return says, close


def _prompts(records: Sequence[Record]) -> list[Any]:
    return [record["prompt"] for record in records]


def _texts(records: Sequence[Record]) -> list[str]:
    return [record["text"] or "" for record in records]
