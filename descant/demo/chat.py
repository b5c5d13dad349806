"""``descant demo --chat``: a real chat model, steered by a prompt and by two small arms.

It uses the public API alone; nothing here is needed to use the library.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import MissingExtra, require
from .chat_model import CHAT_MODEL, chat_models
from .measures import has_list, words
from .tour import write_csv

if TYPE_CHECKING:
    from rich.console import Console

    from ..runtime import Completion

QUESTIONS: tuple[str, ...] = (
    "What is a good morning routine?",
    "Why is clean air important?",
    "What are the benefits of swimming?",
    "How do I write a short story?",
    "What should I pack for a day at the beach?",
    "How does a tree grow?",
)
SHOWN = 3  # questions whose answers are printed
SYSTEM = {"pirate": "You are a pirate. You talk like a pirate."}
# A model this small repeats itself where it takes the best token every time.
READABLE = "repetition_penalty(1.2)"
GUIDED = f"smol + g*(smol@pirate - smol) | {READABLE}"
GUIDANCE = (0.0, 1.0, 1.5)
ARMS = f"smol + brief*arm_brief + bullets*arm_list | {READABLE}"
WEIGHTS = (0.0, 0.5, 1.0)  # of either arm
CHOSEN = {  # whose answers are printed
    "brief = 1": (1.0, 0.0),
    "bullets = 1": (0.0, 1.0),
    "brief = 0.5, bullets = 1": (0.5, 1.0),
}


@dataclass(frozen=True)
class Point:
    """One pair of weights: what its answers have, in the mean."""

    brief: float
    bullets: float
    words: float
    lists: float
    finished: float


def chat_tour(console: Console, output: Path, questions: int, tokens: int) -> list[Point]:
    """Show the plan, answers by guidance, answers by the arms' weights, and a picture of these.

    Args:
        output: the folder for ``chat.csv`` and ``chat.png``.
        questions: how many of the demo's questions the sweep uses.
        tokens: new tokens per answer, at most.

    Raises:
        ModelError: the chat model's package is not installed.
    """
    start = time.perf_counter()
    models = chat_models()
    console.print(f"[bold]{CHAT_MODEL}[/bold], {models['smol']['path']}", soft_wrap=True)
    asked = QUESTIONS[:questions]
    _show_guidance(console, models, asked[:SHOWN], tokens)
    console.print(f"\n[bold]By two arms[/bold]: {ARMS}")
    console.print("arm_brief: short over long answers; arm_list: lists over prose")
    answers = answered(ARMS, models, asked, tokens, brief=WEIGHTS, bullets=WEIGHTS)
    for question in asked[:SHOWN]:
        rows = [(label, answers[question, *weights]) for label, weights in CHOSEN.items()]
        _show_answers(console, question, rows)
    points = [_point(*weights, answers, asked) for weights in product(WEIGHTS, WEIGHTS)]
    console.print(f"\n[bold]The sweep[/bold]: {len(answers)} answers as rows of one batch")
    console.print(_table(points))
    write_csv(points, output / "chat.csv")
    console.print(f"the table: {output / 'chat.csv'}")
    console.print(_drawn(points, output / "chat.png"))
    console.print(f"{time.perf_counter() - start:.0f} s in all")
    return points


def answered(
    formula: str, models: Mapping[str, Any], questions: Sequence[str], tokens: int,
    **values: Sequence[float],
) -> dict[tuple[Any, ...], Completion]:  # fmt: skip
    """The best-token answer to every question at every point of a grid of parameters.

    Returns:
        The completions by question and values, in the order of ``values``.
    """
    from ..api import compile

    params = dict.fromkeys(values, 0.0)
    decoder = compile(formula, models, params=params, prompts=SYSTEM)
    return _decoded(decoder, questions, tokens, values)


def _decoded(
    decoder: Any, questions: Sequence[str], tokens: int, values: Mapping[str, Sequence[float]]
) -> dict[tuple[Any, ...], Completion]:
    rows = [*product(questions, *values.values())]
    completions = decoder.generate(
        [[{"role": "user", "content": question}] for question, *_ in rows],
        params={name: [row[i] for row in rows] for i, name in enumerate(values, 1)},
        max_new_tokens=tokens, temperature=0, batch_size=96,
    )  # fmt: skip
    return dict(zip(rows, completions, strict=True))


def _show_guidance(
    console: Console, models: Mapping[str, Any], questions: Sequence[str], tokens: int
) -> None:
    from ..api import compile

    decoder = compile(GUIDED, models, params={"g": 1.0}, prompts=SYSTEM)
    console.print("[bold]The plan[/bold]")
    console.print(str(decoder.plan), markup=False)
    console.print(f"\n[bold]By a prompt[/bold]: {GUIDED}")
    console.print(f'pirate: "{SYSTEM["pirate"]}"')
    answers = _decoded(decoder, questions, tokens, {"g": GUIDANCE})
    for question in questions:
        _show_answers(console, question, [(f"g = {g:g}", answers[question, g]) for g in GUIDANCE])


def _show_answers(
    console: Console, question: str, answers: Sequence[tuple[str, Completion]]
) -> None:
    console.print(f"\n[bold]{question}[/bold]")
    for label, completion in answers:
        text = (completion.text or "").strip()
        cut = " …" if completion.finish_reason == "length" else ""
        console.print(f"  [dim]{label}: {words(text)} words[/dim]")
        console.print(textwrap.indent(text + cut, "  "), markup=False)


def _point(
    brief: float, bullets: float, answers: Mapping[tuple[Any, ...], Completion],
    questions: Sequence[str],
) -> Point:  # fmt: skip
    own = [answers[question, brief, bullets] for question in questions]
    texts = [completion.text or "" for completion in own]
    columns = (
        [words(text) for text in texts],
        [has_list(text) for text in texts],
        [completion.finish_reason != "length" for completion in own],
    )
    return Point(brief, bullets, *(sum(column) / len(own) for column in columns))


def _table(points: Sequence[Point]) -> Any:
    from rich.table import Table

    table = Table("brief", "bullets", "words", "answers with a list", "that end by themselves")
    for p in points:
        shares = (f"{share:.0%}" for share in (p.lists, p.finished))
        table.add_row(f"{p.brief:g}", f"{p.bullets:g}", f"{p.words:.0f}", *shares)
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
    for bullets in sorted({p.bullets for p in points}):
        x, y = zip(*[(p.words, p.lists) for p in points if p.bullets == bullets], strict=True)
        axes.plot(x, y, marker="o", label=f"bullets = {bullets:g}")
    for p in points:
        xy = (p.words, p.lists)
        axes.annotate(
            f"brief = {p.brief:g}", xy, xytext=(5, 5), textcoords="offset points", fontsize=8
        )
    axes.margins(0.1)
    axes.set(xlabel="mean words per answer", ylabel="share of answers with a list")
    axes.set_title("smol + brief*arm_brief + bullets*arm_list")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)
    return f"the picture: {file}"
