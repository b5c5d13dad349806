"""From answers to preferences, by rules that read nothing but the text and how it ended.

Each kind of pair differs in one thing: both sides of `brief` are prose, both sides of `list` are
as long as a training row. Nothing here knows of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from random import Random

from descant.demo.measures import ITEM, has_list, repeated, words

SHORT, LONG = 25, 45  # words: at most, at least
ITEMS = 3  # of a list; it has one other line at most
REPEATED = 0.05  # of a list's runs of four words: a small model's lists tend to go round


@dataclass(frozen=True)
class Answer:
    """An answer to a question; `finished` where it ended by itself, not at the limit of tokens."""

    question: str
    text: str
    finished: bool


@dataclass(frozen=True)
class Pair:
    """Two answers to one question: what a rule prefers, and what it does not."""

    question: str
    chosen: str
    rejected: str


Rule = Callable[[Answer], bool]


def is_brief(answer: Answer) -> bool:
    """Prose of at most `SHORT` words that ended."""
    return answer.finished and 4 <= words(answer.text) <= SHORT and not has_list(answer.text)


def is_long(answer: Answer) -> bool:
    """Prose of at least `LONG` words."""
    return words(answer.text) >= LONG and not has_list(answer.text)


def is_long_list(answer: Answer) -> bool:
    """A list that fills a training row: `ITEMS` items of different words, and no item of digits."""
    lines = [line for line in answer.text.splitlines() if line.strip()]
    items = [line for line in lines if ITEM.match(line)]
    return (
        not answer.finished
        and len(items) >= max(ITEMS, len(lines) - 1)
        and repeated(answer.text) < REPEATED
    )


def is_long_prose(answer: Answer) -> bool:
    """Prose that fills a training row."""
    return not answer.finished and is_long(answer)


KINDS: dict[str, tuple[Rule, Rule]] = {
    "brief": (is_brief, is_long),
    "list": (is_long_list, is_long_prose),
}


def pairs(kind: str, answers: Iterable[Answer], per_question: int, seed: int) -> Iterator[Pair]:
    """Pairs of one kind: up to `per_question` of each question, no answer twice."""
    wanted, unwanted = KINDS[kind]
    random = Random(seed)
    by_question = sorted(answers, key=lambda answer: answer.question)
    for question, group in groupby(by_question, key=lambda answer: answer.question):
        own = list(group)
        chosen, rejected = _drawn(own, wanted, random), _drawn(own, unwanted, random)
        drawn = zip(chosen[:per_question], rejected, strict=False)
        yield from (Pair(question, better.text, worse.text) for better, worse in drawn)


def _drawn(answers: Sequence[Answer], rule: Rule, random: Random) -> list[Answer]:
    fitting = sorted({answer for answer in answers if rule(answer)}, key=lambda one: one.text)
    random.shuffle(fitting)
    return fitting
