"""The scores of a run's completions, as lines of ``scores.jsonl``."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..extras import require
from ..grammar import FormulaError
from ..inputs.expand import Setting, is_greedy, key_of
from ..inputs.runfile import RunFile, RunFileError
from ..inputs.sections import ScoreSpec
from ..models import ModelError
from ..models.text.vocabulary import common_vocabulary
from ..results.folder import COMPLETIONS, SCORES, Record, scores_by_key
from ..scoring.coherence import PACKAGE, CoherenceScorer
from ..scoring.declared import language_model, reward_model
from ..scoring.expressions import check_models
from ..scoring.words import word_measures
from .lines import Work, chunks, line
from .rewards import measure_rewards, reward_expressions

if TYPE_CHECKING:
    from ..runs.models import Models

_log = logging.getLogger(__name__)
Known = tuple[Record, frozenset[str]]  # a completion, and the names of the scores that it has
Values = Sequence[float | None]  # one per record; None where the score has no value


def check_scores(run: RunFile, models: Models, settings: Sequence[Setting]) -> None:
    """Check every score before anything is decoded; no weights are loaded.

    Raises:
        FormulaError: a reward expression that is wrong.
        RunFileError: a model of another kind or vocabulary, or one that cannot be read.
    """
    _check_drawn(run, settings)
    expressions = reward_expressions(run, models.specs)
    for name, score in (run.score or {}).items():
        kind, model = score.source
        try:
            if kind == "coherence":
                require(f"score.{name}", PACKAGE)
            elif kind == "reward":
                check = partial(
                    reward_model, specs=models.specs, dtype=models.dtype, device=models.device
                )
                check_models(expressions[name], check)
            elif score.model:
                language_model(model, models.specs, models.dtype, models.device)
                _check_tokens(model, models, settings)
        except (FormulaError, ModelError) as error:
            raise RunFileError(f"score.{name}: {error}") from error


def _check_drawn(run: RunFile, settings: Sequence[Setting]) -> None:
    """Check that a kl has answers that were drawn, and say which rows have none.

    Raises:
        RunFileError: no answer is drawn.
    """
    names = [name for name, score in (run.score or {}).items() if score.kl]
    drawing = (each for each in settings if not each.plan.search)
    greedy = [is_greedy(run, point) for each in drawing for point in each.points]
    if not names or not any(greedy):
        return
    why = "at temperature 0 an answer is certain, and has no KL divergence from another model"
    if all(greedy):
        cure = "write generate: {temperature: 1.0}, or leave it out"
        raise RunFileError(f"score.{names[0]}: {why}; {cure}")
    _log.warning("score.%s: %s: the column is empty there", names[0], why)


def _check_tokens(model: str, models: Models, settings: Sequence[Setting]) -> None:
    """Check that a model has the vocabulary of every formula."""
    for setting in settings:
        own = next(term.model for term in setting.plan.terms if not term.aligned)
        try:
            common_vocabulary([models.description(own), models.description(model)])
        except ModelError as error:
            cure = "a likelihood needs the sampled tokens; a reward reads text"
            raise ModelError(error.problem, cure, model) from None


def measure(work: Work, score: Callable[[Sequence[Known]], Iterable[list[Record]]]) -> None:
    """Score the completions of this process's prompts, except where a score is known.

    ``score`` makes the lines of what is missing, as ``score_lines`` does.

    Raises:
        RunFileError: a score that is not finite; names the completion. ModelError: a text that a
            model cannot read. What is scored is kept.
    """
    journal = work.journal(SCORES)
    known = scores_by_key(journal.records())
    order = {item.id: i for i, item in enumerate(work.items)}
    formulas, process = {setting.name for setting in work.settings}, work.process
    mine = [
        (record, frozenset(known.get(key_of(record), ())))
        for record in work.journal(COMPLETIONS).records()
        if record["formula"] in formulas
        and order.get(record["id"], -1) % process.count == process.rank
    ]
    for lines in score(mine):
        journal.add(lines)


def score_lines(
    run: RunFile, models: Models, completions: Sequence[Known], shown: bool
) -> Iterator[list[Record]]:
    """The lines of scores that completions do not have, some at a time."""

    def unscored(name: str) -> list[Record]:
        return [record for record, known in completions if name not in known]

    yield [
        line(record, word_measures(record["text"] or "", len(record["token_ids"])))
        for record in unscored("length")
    ]
    yield from measure_rewards(run, models, unscored, shown)
    for name, score in (run.score or {}).items():
        records = unscored(name)
        if not records or score.recovered or score.reward:
            continue
        values_of, close = _scorer(name, score, models)
        for chunk in chunks(name, records, shown):
            scored = zip(chunk, values_of(chunk), strict=True)
            yield [line(r, {name: value}) for r, value in scored if value is not None]
        close()


def _scorer(
    name: str, score: ScoreSpec, models: Models
) -> tuple[Callable[[Sequence[Record]], Values], Callable[[], None]]:
    """The function that gives one score of some completions, and one that releases its model."""
    kind, source = score.source
    if kind == "coherence":
        scorer = CoherenceScorer(name, source, models.device)

        def of_texts(records: Sequence[Record]) -> Values:
            texts = [record["text"] or "" for record in records]
            return scorer.scores([record["prompt"] for record in records], texts)

        return of_texts, lambda: None
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
