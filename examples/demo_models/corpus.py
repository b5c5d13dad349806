"""A small assistant's conversations, generated from a seed: the text that the demo models learn.

Every response carries two traits, helpfulness and harmlessness, drawn independently and readable
back from the text by rule, so that steering can be measured without trusting a model. They compete
for room, so that nobody gets the most of both. Nothing here reads a file or the network, and
nothing here knows about tokens or weights.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from descant.demo import PROMPTS
from examples.demo_models.phrasing import (
    AIMS,
    CAUTION,
    CAUTION_WHY,
    CLOSERS,
    CONTEXTS,
    FEELINGS,
    HOW,
    IFS,
    MANNERS,
    NEUTRAL,
    OPENERS,
    PARTIAL,
    PEOPLE,
    QUALITIES,
    REQUESTS,
    RISK,
    RISK_WHY,
    STEP_FIRST,
    STEP_NEXT,
    SYNONYMS,
    SYSTEMS,
    TIMES,
    VAGUE,
)
from examples.demo_models.topics import TOPICS, Topic

Trait = Literal["help", "harm"]
LEVELS = (0, 1, 2)
SENTENCES = 4

SYSTEM_SHARE, BARE_SHARE = 0.2, 0.05
SHARED = 0.75

_SENTENCE = re.compile(r"[^.!?]+[.!?]?")
_SLOT = re.compile(r"\{(\w+)\}")
_STEP = re.compile(r"\d")
_WORD = re.compile("|".join(rf"\b{re.escape(word)}" + r"(?!\w)" for word in SYNONYMS))
_CAUTION = re.compile(r"\b(be careful|safe|please|do not take risks|in doubt)\b", re.IGNORECASE)
_RISK = re.compile(
    r"\b(nobody will notice|do not worry|feel free|it is fine|for more fun|real experts)\b",
    re.IGNORECASE,
)
_PARTIAL = re.compile(r"^(Use|A good start|Take|You will want|Work|Get)\b")


@dataclass(frozen=True)
class Reply:
    """A response and the trait levels (0 to 2) it was drawn with."""

    text: str
    help: int
    harm: int


@dataclass(frozen=True)
class Example:
    """One conversation. `request` is None for bare text: a response that nobody asked for."""

    request: str | None
    reply: Reply
    system: str = ""


@dataclass(frozen=True)
class Pair:
    """One preference: `chosen` has more of the trait than `rejected`, the other trait is free."""

    request: str
    chosen: Reply
    rejected: Reply


def held_out(request: str) -> bool:
    """Say whether a request is kept out of all training data: `PROMPTS` and one in sixteen."""
    return request in PROMPTS or zlib.crc32(request.encode()) % 16 == 0


def help_level(text: str) -> float:
    """Measure helpfulness by rule: 1 for each sentence with a number, ½ for one with a tool."""
    return sum(_helpfulness(sentence) for sentence in _sentences(text))


def harm_level(text: str) -> float:
    """Measure harmlessness by rule: cautions minus risky suggestions. Higher is safer."""
    return float(len(_CAUTION.findall(text)) - len(_RISK.findall(text)))


def examples(count: int, seed: int, *, for_held_out: bool = False) -> list[Example]:
    """Draw conversations for language modelling."""
    rng = Random(f"examples {seed} {for_held_out}")
    return [_example(rng, for_held_out) for _ in range(count)]


def pairs(trait: Trait, count: int, seed: int, *, for_held_out: bool = False) -> list[Pair]:
    """Draw preference pairs for one trait; the other trait is drawn independently of it.

    Both sides make the same small talk and, three times in four, have the same level of the other
    trait: a preference should not be about those. Else each side draws the other trait anew.
    """
    rng = Random(f"pairs {trait} {seed} {for_held_out}")
    return [_pair(rng, trait, for_held_out) for _ in range(count)]


def _sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in _SENTENCE.findall(text)]


def _helpfulness(sentence: str) -> float:
    if _STEP.search(sentence):
        return 1.0
    return 0.5 if _PARTIAL.match(sentence) else 0.0


def _example(rng: Random, for_held_out: bool) -> Example:
    kind = rng.random()
    system, help_, harm = "", None, None
    if kind < SYSTEM_SHARE:
        system, help_, harm = rng.choice(SYSTEMS)
    request, topic, thing = _request(rng, for_held_out)
    help_ = rng.choice(LEVELS) if help_ is None else help_
    harm = rng.choice(LEVELS) if harm is None else harm
    reply = _reply(rng, topic, thing, help_, harm, rng.getrandbits(32))
    bare = SYSTEM_SHARE <= kind < SYSTEM_SHARE + BARE_SHARE
    return Example(None if bare else request, reply, system)


def _pair(rng: Random, trait: Trait, for_held_out: bool) -> Pair:
    request, topic, thing = _request(rng, for_held_out)
    low, high = sorted(rng.sample(LEVELS, 2))
    chat_seed = rng.getrandbits(32)
    shared = rng.choice(LEVELS) if rng.random() < SHARED else None

    def side(level: int) -> Reply:
        other = rng.choice(LEVELS) if shared is None else shared
        help_, harm = (level, other) if trait == "help" else (other, level)
        return _reply(rng, topic, thing, help_, harm, chat_seed)

    return Pair(request, side(high), side(low))


def _request(rng: Random, for_held_out: bool) -> tuple[str, Topic, str]:
    while True:
        topic = rng.choice(TOPICS)
        task, thing = rng.choice(topic.tasks)
        context = f" {rng.choice(CONTEXTS)}" if rng.random() < 0.7 else ""
        person = rng.choice(PEOPLE)
        request = rng.choice(REQUESTS).format(task=task, context=context, person=person)
        if held_out(request) == for_held_out:
            return request, topic, thing


def _reply(rng: Random, topic: Topic, thing: str, help_: int, harm: int, chat_seed: int) -> Reply:
    sentences = _harm_sentences(rng, topic, harm)
    # Room is short: every caution or risk replaces a step.
    body = _help_sentences(rng, topic, help_, SENTENCES - len(sentences))
    for sentence in sentences:
        body.insert(rng.randint(0, len(body)), sentence)
    body = [_fill(rng, sentence, topic, thing) for sentence in body]
    chat = Random(chat_seed)
    if chat.random() < 0.4:
        small_talk = _fill(chat, chat.choice(NEUTRAL), topic, thing)
        body.insert(rng.randint(0, len(body)), small_talk)
    if chat.random() < 0.3:
        body.insert(0, _fill(chat, chat.choice(OPENERS), topic, thing))
    if chat.random() < 0.25:
        body.append(_fill(chat, chat.choice(CLOSERS), topic, thing))
    return Reply(" ".join(body), help_, harm)


def _help_sentences(rng: Random, topic: Topic, level: int, room: int) -> list[str]:
    if level == 0:
        return rng.sample(VAGUE, rng.randint(1, 2))
    if level == 1:
        return [rng.choice(PARTIAL), *rng.sample(VAGUE, rng.randint(0, 1))]
    steps = rng.sample(topic.steps, rng.randint(room - 1, room))
    frames = [rng.choice(STEP_FIRST), *rng.sample(STEP_NEXT, len(steps) - 1)]
    return [_with_phrase(rng, frame, step) for frame, step in zip(frames, steps, strict=True)]


def _harm_sentences(rng: Random, topic: Topic, level: int) -> list[str]:
    if level == 1:
        return []
    frames, phrases, reasons = (
        (RISK, topic.risks, RISK_WHY) if level == 0 else (CAUTION, topic.cautions, CAUTION_WHY)
    )
    count = rng.randint(1, 2)
    chosen = zip(rng.sample(frames, count), rng.sample(phrases, count), strict=True)
    sentences = (_with_phrase(rng, frame, phrase) for frame, phrase in chosen)
    return [sentence.replace("{why}", _clause(rng, reasons, 0.4)) for sentence in sentences]


def _with_phrase(rng: Random, frame: str, phrase: str) -> str:
    # Not `format`: the phrase keeps its own slots, which `_fill` fills in later.
    if rng.random() < 0.35:
        phrase = f"{rng.choice(HOW)} {phrase}"
    if rng.random() < 0.3:
        phrase = f"{phrase} {rng.choice(IFS)}"
    capital = phrase[0].upper() + phrase[1:]
    return frame.replace("{step}", phrase).replace("{Step}", capital).replace("{phrase}", phrase)


def _clause(rng: Random, clauses: tuple[str, ...], share: float) -> str:
    if rng.random() >= share:
        return ""
    clause = rng.choice(clauses)
    return f" {clause}" if clause.startswith(("until", "to ", "and ", "so ")) else f", {clause}"


def _fill(rng: Random, sentence: str, topic: Topic, thing: str) -> str:
    sentence = sentence.replace("{aim}", _clause(rng, AIMS, 0.35))
    slots: dict[str, Callable[[], str]] = {
        "thing": lambda: thing,
        "tool": lambda: rng.choice(topic.tools),
        "n": lambda: str(rng.randint(2, 8)),
        "m": lambda: str(rng.randrange(10, 65, 5)),
        "person": lambda: rng.choice(PEOPLE),
        "time": lambda: rng.choice(TIMES),
        "feeling": lambda: rng.choice(FEELINGS),
        "quality": lambda: rng.choice(QUALITIES),
        "manner": lambda: rng.choice(MANNERS),
    }
    text = _SLOT.sub(lambda match: slots[match[1]](), sentence)
    return _WORD.sub(lambda match: rng.choice(SYNONYMS[match[0]]), text)
