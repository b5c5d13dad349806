"""``descant compare``: which of two runs answers better, by a reward model or by a judge.

Answers to the same prompt and of the same sample are compared with each other; intervals are over
prompts, paired.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api import declared, where
from ..inputs.runfile import RunFile, RunFileError
from ..results.folder import COMPLETIONS, Journal, resolved_run
from ..scoring.coherence import plain_text
from ..scoring.intervals import Mean, difference, interval
from ..scoring.rewards import RewardScorer
from .judge import FIRST, SECOND, TIE, Budget, Judge, Question

if TYPE_CHECKING:
    from rich.table import Table

Record = dict[str, Any]
Place = tuple[Any, int]  # a prompt's id and a sample


@dataclass(frozen=True)
class Side:
    """One of two runs: what was said at one point of one formula.

    Attributes:
        name: as the user wrote it.
        run: its run file.
        answers: its completions.
    """

    name: str
    run: RunFile
    answers: Mapping[Place, Record]

    @property
    def seconds(self) -> float:
        """The mean seconds of a row."""
        return self._elapsed / len(self.answers)

    @property
    def rate(self) -> float:
        """Tokens per second of a row."""
        tokens = sum(len(one["token_ids"]) for one in self.answers.values())
        return tokens / max(self._elapsed, 1e-9)

    @property
    def _elapsed(self) -> float:
        return float(sum(one["elapsed"] for one in self.answers.values()))


@dataclass(frozen=True)
class Verdict:
    """How often the first of two runs wins; a tie is half a win.

    Attributes:
        wins, ties, losses: over compared pairs, by both orders of a judge together.
        rate: the win rate and its interval.
        left: pairs that were not compared: the budget was spent, or a verdict could not be read.
        ahead: by a reward, how much larger the first one's is.
        cost: by a judge, its calls and tokens.
    """

    wins: int
    ties: int
    losses: int
    rate: Mean
    left: int = 0
    ahead: Mean | None = None
    cost: dict[str, int] | None = None


def side_of(said: str) -> Side:
    """A run, or one point of one: ``runs/first``, ``runs/first#arms`` or ``runs/first#arms:3``.

    Raises:
        RunFileError: no such run, or several points and none chosen.
    """
    folder, _, chosen = said.partition("#")
    place = Path(folder)
    run = resolved_run(place)
    formula, _, number = chosen.partition(":")
    records = Journal(place, COMPLETIONS).records()
    there = sorted({(r["formula"], r["point"]) for r in records})
    wanted = [
        (name, point) for name, point in there
        if formula in ("", name) and number in ("", str(point))
    ]  # fmt: skip
    if len(wanted) != 1:
        shown = ", ".join(f"{folder}#{name}:{point}" for name, point in (wanted or there)[:8])
        what = "several points" if wanted else "no such point"
        raise RunFileError(f"{said} has {what}; name one: {shown or 'it holds no completions'}")
    mine = [r for r in records if (r["formula"], r["point"]) == wanted[0]]
    return Side(said, run, {(r["id"], r["sample"]): r for r in mine})


def pairs_of(ours: Side, theirs: Side) -> list[Place]:
    """The prompts and samples that both have answered.

    Raises:
        RunFileError: there are none, or an id stands for two prompts.
    """
    places = [place for place in ours.answers if place in theirs.answers]
    for place in places:
        if ours.answers[place]["prompt"] != theirs.answers[place]["prompt"]:
            raise RunFileError(f"prompt {place[0]} of {ours.name} is another in {theirs.name}")
    if not places:
        raise RunFileError(f"{ours.name} and {theirs.name} have no prompt and sample in common")
    return sorted(places, key=lambda place: (isinstance(place[0], str), *place))


def by_reward(ours: Side, theirs: Side, name: str, device: str | None = None) -> Verdict:
    """Compare by a reward model: one that a run declares, or a path."""
    models: dict[str, Any] = {**theirs.run.models, **ours.run.models}
    specs = declared(models if name in models else {**models, name: name})
    dtype, place = where(ours.run.dtype, device or ours.run.device)
    scorer = RewardScorer(name, specs, dtype, place, {})
    places = pairs_of(ours, theirs)
    said = [
        scorer.scores(
            [side.answers[p]["prompt"] for p in places],
            [side.answers[p]["text"] or "" for p in places],
        )
        for side in (ours, theirs)
    ]
    points = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(*said, strict=True)]
    first, second = (_by_prompt(places, values) for values in said)
    return _verdict(places, points, 0, difference(first, second), None)


def by_judge(ours: Side, theirs: Side, judge: Judge) -> Verdict:
    """Compare by a judge, which sees every pair in both orders.

    A pair that is won in one order and lost in the other is a tie, and so is one of equal answers,
    which the judge is not asked about.
    """
    from tqdm.auto import tqdm

    places = pairs_of(ours, theirs)
    questions = []
    asked = [p for p in places if ours.answers[p]["text"] != theirs.answers[p]["text"]]
    for place in asked:
        mine, other = ours.answers[place], theirs.answers[place]
        prompt = plain_text(mine["prompt"])
        texts = [mine["text"] or "", other["text"] or ""]
        questions += [Question(prompt, *texts), Question(prompt, *reversed(texts))]
    with tqdm(total=len(questions), desc=judge.model, unit="verdict", disable=None) as bar:
        verdicts = judge.verdicts(questions, bar.update)
    mine_won = {FIRST: 1.0, TIE: 0.5, SECOND: 0.0}
    other_won = {FIRST: 0.0, TIE: 0.5, SECOND: 1.0}
    both = zip(asked, verdicts[::2], verdicts[1::2], strict=True)
    judged = {place: 0.5 for place in places if place not in asked} | {
        place: (mine_won[a] + other_won[b]) / 2
        for place, a, b in both
        if a in mine_won and b in other_won
    }
    cost = {"calls": judge.calls, "tokens": judge.tokens}
    left = len(places) - len(judged)
    return _verdict(list(judged), list(judged.values()), left, None, cost)


def _verdict(
    places: Sequence[Place], points: Sequence[float], left: int, ahead: Mean | None, cost: Any
) -> Verdict:
    wins, losses = sum(p > 0.5 for p in points), sum(p < 0.5 for p in points)
    rate = interval(_by_prompt(places, points))
    return Verdict(wins, len(points) - wins - losses, losses, rate, left, ahead, cost)


def _by_prompt(places: Sequence[Place], values: Sequence[float]) -> dict[object, list[float]]:
    found: dict[object, list[float]] = {}
    for (item, _), value in zip(places, values, strict=True):
        found.setdefault(item, []).append(value)
    return found


def shown(ours: Side, theirs: Side, verdict: Verdict, by: str) -> Table:
    """The verdict as a table."""
    from rich.table import Table

    table = Table("", "wins", "win rate", "seconds", "tokens/s", title=f"by {by}")
    other = Mean(1 - verdict.rate.mean, 1 - verdict.rate.high, 1 - verdict.rate.low, verdict.rate.n)
    for side, wins, rate in ((ours, verdict.wins, verdict.rate), (theirs, verdict.losses, other)):
        table.add_row(side.name, str(wins), str(rate), f"{side.seconds:.2f}", f"{side.rate:.0f}")
    notes = [f"{verdict.ties} ties", "95 % bootstrap intervals over prompts"]
    if verdict.ahead is not None:
        notes.append(f"the first's reward is {verdict.ahead} larger")
    if verdict.left:
        notes.append(f"{verdict.left} pairs were not judged")
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
        raise RunFileError("say by what: --by REWARD, or --judge openai:MODEL")
    ours, theirs = map(side_of, names)
    if by is not None:
        verdict = by_reward(ours, theirs, by)
    else:
        assert judge is not None
        kind, _, model = judge.partition(":")
        if kind != "openai" or not model:
            raise RunFileError(f"--judge {judge}: write openai:MODEL, with --base-url for a server")
        file = cache or Path(names[0].partition("#")[0]) / "verdicts.jsonl"
        asked = Judge(model, file, Budget(calls, tokens), base_url=base_url, timeout=timeout)
        verdict = by_judge(ours, theirs, asked)
    console.print(shown(ours, theirs, verdict, by or judge or ""))
    if output is not None:
        write(ours, theirs, verdict, by or judge or "", output)
    return verdict


def write(ours: Side, theirs: Side, verdict: Verdict, by: str, file: Path) -> None:
    """The verdict as JSON."""
    said = {"ours": ours.name, "theirs": theirs.name, "by": by, **asdict(verdict)}
    file.write_text(json.dumps(said, indent=1), encoding="utf-8")
