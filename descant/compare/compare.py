"""``descant compare --by`` and ``--judge``: which of two runs answers better.

Answers to the same prompt with the same sample number are compared; intervals are over prompts,
paired.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import disk
from ..api import declared, where
from ..inputs.expand import without_temperature
from ..inputs.runfile import RunFile, RunFileError
from ..models import ModelSpec
from ..results.folder import COMPLETIONS, Journal, Record, resolved_run
from ..results.lock import writing
from ..runtime.progress import progress_bar
from ..scoring.coherence import plain_text
from ..scoring.declared import reward_model
from ..scoring.effects import ByPrompt, Effect, effects, p_text
from ..scoring.expressions import (
    check_models,
    is_expression,
    models_of,
    reward_expression,
    values_of,
)
from ..scoring.intervals import Mean, interval
from ..scoring.rewards import RewardScorer
from .judge import FIRST, SECOND, TIE, Budget, Judge, Question

if TYPE_CHECKING:
    from rich.table import Table

Key = tuple[Any, int]  # a prompt's id and a sample


@dataclass(frozen=True)
class Side:
    """One of two runs, by the name that the user wrote: its completions at one point."""

    name: str
    run: RunFile
    answers: Mapping[Key, Record]

    def cost(self) -> tuple[float, float]:
        """The mean seconds of a row, and its tokens per second."""
        elapsed = float(sum(record["elapsed"] for record in self.answers.values()))
        tokens = sum(len(record["token_ids"]) for record in self.answers.values())
        return elapsed / len(self.answers), tokens / max(elapsed, 1e-9)


@dataclass(frozen=True)
class Verdict:
    """How often the first of two runs wins: over pairs, by both orders of a judge together."""

    wins: int
    ties: int
    losses: int
    rate: Mean  # the win rate; a tie is half a win
    p: float | None  # of the prompts' mean rewards; by a judge, of their win rates against 1/2
    d_z: float | None  # the effect size of the same; None where all prompts are alike
    left: int  # pairs without a verdict: the budget was spent, or it could not be read
    ahead: Mean | None  # by a reward, how much larger the first run's is
    cost: dict[str, int] | None  # by a judge, its calls and tokens


def side_of(name: str) -> Side:
    """A run, or one point of one: ``runs/first``, ``runs/first#arms`` or ``runs/first#arms:3``.

    Raises:
        RunFileError: no such run, or several points and none chosen.
    """
    sides = sides_of(name)
    if len(sides) > 1:
        shown = ", ".join(side.name for side in sides[:8])
        raise RunFileError(f"{name} has several points; name one: {shown}")
    return replace(sides[0], name=name)


def sides_of(name: str) -> list[Side]:
    """Every point that a name as ``side_of`` takes it stands for.

    Raises:
        RunFileError: no such run, or no such point.
    """
    folder, _, chosen = name.partition("#")
    run = resolved_run(Path(folder))
    formula, _, number = chosen.partition(":")
    points: dict[tuple[str, int], dict[Key, Record]] = {}
    for record in Journal(Path(folder), COMPLETIONS).records():
        answers = points.setdefault((record["formula"], record["point"]), {})
        answers[record["id"], record["sample"]] = record
    wanted = [p for p in sorted(points) if formula in ("", p[0]) and number in ("", str(p[1]))]
    if not wanted:
        shown = ", ".join(f"{folder}#{of}:{point}" for of, point in sorted(points)[:8])
        cure = shown or "it holds no completions"
        raise RunFileError(f"{name} has no such point; name one: {cure}")
    return [Side(f"{folder}#{of}:{point}", run, points[of, point]) for of, point in wanted]


def pairs_of(ours: Side, theirs: Side) -> list[Key]:
    """The prompts and samples that both runs answer.

    Raises:
        RunFileError: there are none, or an id stands for two prompts.
    """
    keys = [key for key in ours.answers if key in theirs.answers]
    for key in keys:
        if ours.answers[key]["prompt"] != theirs.answers[key]["prompt"]:
            raise RunFileError(f"prompt {key[0]} of {ours.name} is another in {theirs.name}")
    if not keys:
        raise RunFileError(f"{ours.name} and {theirs.name} have no prompt and sample in common")
    return sorted(keys, key=lambda key: (isinstance(key[0], str), *key))


def by_reward(ours: Side, theirs: Side, by: str) -> Verdict:
    """Compare by a reward model, which a run declares, by a path, or by a reward expression."""
    models: dict[str, Any] = {**theirs.run.models, **ours.run.models}
    params = {**theirs.run.params, **ours.run.params}
    specs, expression = declared(models), None
    if is_expression(by, specs, params):
        expression = reward_expression(by, specs, params)
        dtype, device = where(ours.run.dtype, ours.run.device)
        check = partial(reward_model, specs=specs, dtype=dtype, device=device)
        check_models(expression, check)
    elif by not in models:
        specs = declared({**models, by: by})
    keys = pairs_of(ours, theirs)
    records = [side.answers[key] for side in (ours, theirs) for key in keys]
    names = [by] if expression is None else models_of(expression)
    values = {name: _rewards(name, specs, ours.run, records) for name in names}
    if expression is None:
        every = values[by]
    else:
        runs = [side.run for side in (ours, theirs) for _ in keys]
        own = [
            {**run.params, **without_temperature(record["params"])}
            for run, record in zip(runs, records, strict=True)
        ]
        lengths = [len(record["token_ids"]) for record in records]
        every = list(values_of(expression, values, lengths, own))
    rewards = every[: len(keys)], every[len(keys) :]
    if wrong := [key for key, *pair in zip(keys, *rewards, strict=True) if math.isnan(sum(pair))]:
        raise RunFileError(f"--by {by} is no number for prompt {wrong[0][0]}")
    points = [(a > b) + 0.5 * (a == b) for a, b in zip(*rewards, strict=True)]
    first, second = (_by_prompt(keys, values) for values in rewards)
    return _verdict(keys, points, 0, _effect(first, second), None)


def _rewards(
    name: str, specs: Mapping[str, ModelSpec], run: RunFile, records: Sequence[Record]
) -> list[float]:
    """The rewards of answers by one model."""
    dtype, device = where(run.dtype, run.device)
    scorer = RewardScorer(name, specs, dtype, device, {})
    texts = [record["text"] or "" for record in records]
    rewards = scorer.scores([record["prompt"] for record in records], texts)
    scorer.close()
    return rewards


def by_judge(ours: Side, theirs: Side, judge: Judge) -> Verdict:
    """Compare by a judge, which sees every pair in both orders.

    A pair that is won in one order and lost in the other is a tie. Equal answers are a tie without
    a call.
    """
    keys = pairs_of(ours, theirs)
    different = [key for key in keys if ours.answers[key]["text"] != theirs.answers[key]["text"]]
    questions = []
    for key in different:
        prompt = plain_text(ours.answers[key]["prompt"])
        texts = [side.answers[key]["text"] or "" for side in (ours, theirs)]
        questions += [Question(prompt, *texts), Question(prompt, *reversed(texts))]
    with progress_bar(len(questions), "verdict", judge.model) as bar:
        verdicts = judge.verdicts(questions, bar.update)
    worth = {FIRST: 1.0, TIE: 0.5, SECOND: 0.0}
    points = {key: 0.5 for key in keys if key not in different}
    for key, first, second in zip(different, verdicts[::2], verdicts[1::2], strict=True):
        if first in worth and second in worth:
            points[key] = (worth[first] + 1 - worth[second]) / 2
    cost = {"calls": judge.calls, "tokens": judge.tokens}
    left = len(keys) - len(points)
    return _verdict(list(points), list(points.values()), left, None, cost)


def _verdict(
    keys: Sequence[Key], points: Sequence[float], left: int, ahead: Effect | None, cost: Any
) -> Verdict:
    """The verdict over pairs; ``ahead`` is the effect on a reward, where one compares."""
    wins, losses = sum(p > 0.5 for p in points), sum(p < 0.5 for p in points)
    rates = _by_prompt(keys, points)
    effect = ahead or (_effect(rates, {prompt: [0.5] for prompt in rates}) if points else None)
    p, d_z = (effect.p, effect.d_z) if effect else (None, None)
    gap = ahead.difference if ahead else None
    ties = len(points) - wins - losses
    return Verdict(wins, ties, losses, interval(rates), p, d_z, left, gap, cost)


def _effect(ours: ByPrompt, theirs: ByPrompt) -> Effect:
    return effects({"": ours}, theirs)[""]


def _by_prompt(keys: Sequence[Key], values: Sequence[float]) -> dict[object, list[float]]:
    grouped: dict[object, list[float]] = {}
    for (prompt, _), value in zip(keys, values, strict=True):
        grouped.setdefault(prompt, []).append(value)
    return grouped


def shown(ours: Side, theirs: Side, verdict: Verdict, by: str) -> Table:
    """The verdict as a table."""
    from rich.table import Table

    table = Table("", "wins", "win rate", "seconds", "tokens/s", title=f"by {by}")
    other = Mean(1 - verdict.rate.mean, 1 - verdict.rate.high, 1 - verdict.rate.low, verdict.rate.n)
    for side, wins, rate in ((ours, verdict.wins, verdict.rate), (theirs, verdict.losses, other)):
        seconds, speed = side.cost()
        table.add_row(side.name, str(wins), str(rate), f"{seconds:.2f}", f"{speed:.0f}")
    notes = [f"{verdict.ties} ties", "95 % bootstrap intervals over prompts"]
    if verdict.p is not None:
        notes.append(f"p {p_text(verdict.p)} by a sign-flip test over prompts")
    if verdict.ahead is not None:
        d_z = "" if verdict.d_z is None else f", d_z {verdict.d_z:.2f}"
        notes.append(f"the first's reward is {verdict.ahead} larger{d_z}")
    if verdict.left:
        notes.append(f"{verdict.left} pairs have no verdict")
    if verdict.cost is not None:
        notes.append(f"{verdict.cost['calls']} calls, {verdict.cost['tokens']} tokens")
    table.caption = "; ".join(notes)
    return table


def compared(
    console: Any,
    names: tuple[str, str],
    by: str | None,
    judge: str | None,
    *,
    base_url: str | None = None,
    calls: int | None = None,
    tokens: int | None = None,
    timeout: float = 60.0,
    cache: Path | None = None,
    output: Path | None = None,
) -> Verdict:
    """Compare two runs, and show and write the verdict.

    Raises:
        RunFileError: not two comparable runs, not one way to compare them, or no verdict.
    """
    if (by is None) == (judge is None):
        raise RunFileError("say by what, and not both: --by REWARD, or --judge openai:MODEL")
    ours, theirs = map(side_of, names)
    with ExitStack() as held:
        if output is not None:
            held.enter_context(writing(output))
        if by is not None:
            verdict = by_reward(ours, theirs, by)
        else:
            assert judge is not None
            kind, _, model = judge.partition(":")
            if kind != "openai" or not model:
                cure = "write openai:MODEL, with --base-url for a server"
                raise RunFileError(f"--judge {judge}: {cure}")
            file = cache or Path(names[0].partition("#")[0]) / "verdicts.jsonl"
            held.enter_context(writing(file))
            client = Judge(model, file, Budget(calls, tokens), base_url=base_url, timeout=timeout)
            verdict = by_judge(ours, theirs, client)
        console.print(shown(ours, theirs, verdict, by or judge or ""))
        if output is not None:
            names_of = {"ours": ours.name, "theirs": theirs.name, "by": by or judge}
            disk.replace(output, json.dumps({**names_of, **asdict(verdict)}, indent=1))
    return verdict
