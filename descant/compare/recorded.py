"""Two runs compared by the scores that their folders hold: effect sizes, and no model is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..disk import replace
from ..inputs.expand import key_of
from ..inputs.runfile import RunFileError
from ..results.effects import LENGTH
from ..results.folder import SCORES, Journal, scores_by_key
from ..results.lock import writing
from ..scoring.effects import Effect, effects
from .compare import Side, pairs_of, side_of, sides_of

Values = Mapping[str, Mapping[object, Sequence[float]]]  # per score, each prompt's samples


def by_scores(ours: str, theirs: str) -> list[dict[str, Any]]:
    """Every point of a run against one point of another, or of the same.

    Args:
        ours: a run, or some of its points, as ``compare.sides_of`` takes them.
        theirs: one point, as ``compare.side_of`` takes it.

    Returns:
        A row for each point and score: ``ours``, ``score``, ``against``, and ``Effect.figures``.
        p-values are corrected over the points, for each score.

    Raises:
        RunFileError: no such points, no prompts or no scores in common.
    """
    reference = side_of(theirs)
    [itself] = (side.name for side in sides_of(theirs))
    sides = [side for side in sides_of(ours) if side.name != itself]
    if not sides:
        raise RunFileError(f"{ours} and {theirs} are the same point; name another")
    for side in sides:
        pairs_of(side, reference)
    each, known = {side.name: _values(side) for side in sides}, _values(reference)
    scores = [score for score in known if any(score in values for values in each.values())]
    if not set(scores) - {LENGTH}:
        problem = f"{ours} and {theirs} have no score in common"
        raise RunFileError(f"{problem}; say by what: --by REWARD, or --judge openai:MODEL")
    found: dict[str, dict[str, Effect]] = {}
    for score in scores:
        own = {name: values[score] for name, values in each.items() if score in values}
        found[score] = effects(own, known[score])
    return [
        {"ours": name, "score": score, "against": theirs, **found[score][name].figures}
        for name in each
        for score in scores
        if name in found[score]
    ]


def scores_compared(console: Any, names: tuple[str, str], output: Path | None) -> None:
    """Compare two runs by their scores, and show and write the effects.

    Raises:
        RunFileError: as ``by_scores``.
    """
    from ..sweep.shown import effects_rows

    rows = by_scores(*names)
    console.print(effects_rows([(row["ours"], row) for row in rows], names[1]))
    if output is not None:
        with writing(output):
            replace(output, json.dumps(rows, indent=1, ensure_ascii=False))


def _values(side: Side) -> Values:
    """The declared scores of a point's answers, and their length."""
    lines = scores_by_key(Journal(Path(side.name.partition("#")[0]), SCORES).records())
    declared = [name for name, score in (side.run.score or {}).items() if not score.recovered]
    values: dict[str, dict[object, list[float]]] = {}
    for record in side.answers.values():
        own = lines.get(key_of(record), {})
        scores = {name: own[name] for name in declared if name in own}
        for score, value in {**scores, LENGTH: float(len(record["token_ids"]))}.items():
            values.setdefault(score, {}).setdefault(record["id"], []).append(value)
    return values
