"""``descant demo --chat``: a real chat model, steered by a prompt and by a small arm.

It uses the public API alone; nothing here is needed to use the library.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..disk import make_folder, written
from ..extras import MissingExtra, require
from ..results.lock import WAIT, writing
from .chat_model import CHAT_MODEL, chat_models
from .measures import pirate_words, words
from .tour import write_csv

if TYPE_CHECKING:
    from rich.console import Console

    from ..runtime import Completion, Decoder

Answers: TypeAlias = "dict[tuple[str, float, float], Completion]"  # by question, g and brief

QUESTIONS: tuple[str, ...] = (
    "Why is clean air important?",
    "What is a good morning routine?",
    "What are the benefits of swimming?",
    "How do I write a short story?",
    "What should I pack for a day at the beach?",
    "How does a tree grow?",
)
SHOWN = 3  # questions whose answers are printed
SYSTEM = {"pirate": "You are a pirate. You talk like a pirate."}
# A model this small repeats itself where it takes the best token every time.
READABLE = "repetition_penalty(1.2)"
FORMULA = f"smol + g*(smol@pirate - smol) + brief*arm_brief | {READABLE}"
GUIDANCE, BRIEF = (0.0, 1.0, 1.5), (0.0, 0.25, 0.5)


@dataclass(frozen=True)
class Point:
    """One pair of weights: what its answers have, in the mean.

    Attributes:
        g, brief: the weights of the system prompt and of the arm.
        words: per answer.
        pirate: the share of answers with one of a pirate's words.
        finished: the share of answers that ended before the last token allowed.
    """

    g: float
    brief: float
    words: float
    pirate: float
    finished: float


def chat_tour(console: Console, output: Path, questions: int, tokens: int) -> list[Point]:
    """Show the plan, answers by the weights of a prompt and of an arm, and a picture of all.

    Args:
        output: the folder for ``chat.csv`` and ``chat.png``.
        questions: how many of the demo's questions are asked.
        tokens: new tokens per answer, at most.

    Raises:
        ModelError: the chat model's package is not installed.
    """
    from ..api import compile

    start = time.perf_counter()
    models = chat_models()
    console.print(f"{CHAT_MODEL}, {models['smol']['path']}", style="bold")
    decoder = compile(FORMULA, models, params={"g": 0, "brief": 0}, prompts=SYSTEM)
    console.print("The plan", style="bold")
    console.print(str(decoder.plan))
    console.print(f'\npirate: "{SYSTEM["pirate"]}"')
    console.print("arm_brief: trained to prefer short answers to long ones")
    asked = QUESTIONS[:questions]
    answers = answered(decoder, asked, tokens, GUIDANCE, BRIEF)
    for question in asked[:SHOWN]:
        _show_answers(console, question, answers)
    points = [_point(*weights, answers, asked) for weights in product(GUIDANCE, BRIEF)]
    console.print(f"\nThe sweep: {len(answers)} answers as rows of one batch", style="bold")
    console.print(_table(points))
    make_folder(output)
    with writing(output, WAIT):
        write_csv(points, output / "chat.csv")
        console.print(f"the table: {output / 'chat.csv'}")
        console.print(_drawn(points, output / "chat.png"))
    console.print(f"{time.perf_counter() - start:.0f} s in all")
    return points


def answered(
    decoder: Decoder, questions: Sequence[str], tokens: int, g: Sequence[float],
    brief: Sequence[float],
) -> Answers:  # fmt: skip
    """The best-token answer to every question at every pair of weights."""
    rows = [*product(questions, g, brief)]
    completions = decoder.generate(
        [question for question, *_ in rows],
        params={"g": [row[1] for row in rows], "brief": [row[2] for row in rows]},
        max_new_tokens=tokens, temperature=0, batch_size=96,
    )  # fmt: skip
    return dict(zip(rows, completions, strict=True))


def _show_answers(console: Console, question: str, answers: Answers) -> None:
    console.print(f"\n{question}", style="bold")
    for (asked, g, brief), completion in answers.items():
        if asked == question:
            text = (completion.text or "").strip()
            cut = " …" if completion.finish_reason == "length" else ""
            console.print(f"  g = {g:g}, brief = {brief:g}", style="dim")
            console.print(textwrap.indent(text + cut, "  "))


def _point(g: float, brief: float, answers: Answers, questions: Sequence[str]) -> Point:
    own = [answers[question, g, brief] for question in questions]
    texts = [completion.text or "" for completion in own]
    columns = (
        [words(text) for text in texts],
        [pirate_words(text) > 0 for text in texts],
        [completion.finish_reason != "length" for completion in own],
    )
    return Point(g, brief, *(sum(column) / len(own) for column in columns))


def _table(points: Sequence[Point]) -> Any:
    from rich.table import Table

    table = Table("g", "brief", "words", "answers of a pirate", "that end by themselves")
    for p in points:
        shares = (f"{share:.0%}" for share in (p.pirate, p.finished))
        table.add_row(f"{p.g:g}", f"{p.brief:g}", f"{p.words:.0f}", *shares)
    return table


def _drawn(points: Sequence[Point], file: Path) -> str:
    """Draw the sweep, or return the package that it needs."""
    try:
        require("drawing", "matplotlib")
    except MissingExtra as error:
        return f"no picture: {error}"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for brief in BRIEF:
        x, y = zip(*[(p.words, p.pirate) for p in points if p.brief == brief], strict=True)
        axes.plot(x, y, marker="o", label=f"brief = {brief:g}")
    for p in points:
        xy = (p.words, p.pirate)
        axes.annotate(f"g = {p.g:g}", xy, xytext=(6, 6), textcoords="offset points")
    axes.margins(0.1)
    axes.set(xlabel="mean words per answer", ylabel="share of answers with a pirate's words")
    axes.set_title(FORMULA.partition(" |")[0])
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with written(file) as partial:
        figure.savefig(partial, dpi=150)
    return f"the picture: {file}"
