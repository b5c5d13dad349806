"""The table of ``bench.drafts``, from its raw numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEAD = (
    "case", "way", "tokens/s", "over none", "asked for", "forwards per token",
    "positions per forward", "answers that differ",
)  # fmt: skip


def line(name: str, found: Mapping[str, Any]) -> str:
    """One case in a line."""
    ways, agrees = found["ways"], found["agreement"]
    share = f", drafts agree on {agrees['agreed']:.2f}" if agrees else ""
    times = ", ".join(f"{way} {ways[way]['sooner'][1]:.2f}" for way in ("draft", "auto"))
    return f"{name}: times the tokens per second: {times}{share}"


def text(content: Mapping[str, Any]) -> str:
    """All cases, as Markdown."""
    first = next(iter(content["results"].values()))["about"]
    sizes = content["sizes"]
    shape = f"{sizes['hidden_size']} x {sizes['num_hidden_layers']} layers, {sizes['vocab_size']}"
    lines = [
        "# Drafts",
        "",
        f"{content['device']} ({first['processor']}, {first['threads']} threads), "
        f"{content['dtype']}, batch 1, the smallest models {shape} tokens; "
        f"medians of {content['pairs']} pairs in turn, quartiles in brackets; "
        f"descant {first['descant']}, torch {first['torch']}, "
        f"transformers {first['transformers']}.",
        "",
        row(HEAD),
        row(["---"] * 2 + ["--:"] * (len(HEAD) - 2)),
    ]
    for name, found in content["results"].items():
        lines += [row(cells) for cells in rows_of(name, found, content["asked_for"]["auto"])]
    lines += ["", *(described(name, found) for name, found in content["results"].items())]
    return "\n".join(lines) + "\n"


def rows_of(name: str, found: Mapping[str, Any], auto: float) -> list[list[str]]:
    """A row per way."""
    rows = []
    for way, own in found["ways"].items():
        asked = {"none": "", "draft": found["asked"], "auto": round(1 / auto, 3)}[way]
        forwards = sum(count["forwards"] for count in own["models"].values())
        positions = sum(count["positions"] for count in own["models"].values())
        rows.append([
            name if way == "none" else "", way, spread(own["tokens_per_second"], 1),
            "" if way == "none" else spread(own["sooner"], 2), f"{asked}" if asked else "",
            f"{forwards / own['tokens']:.2f}", f"{positions / forwards:.2f}",
            f"{own['differ']['answers']} of {own['differ']['of']}",
        ])  # fmt: skip
    return rows


def described(name: str, found: Mapping[str, Any]) -> str:
    """What a case is, its forwards by model, and how often its drafts agree."""
    agrees, parts = found["agreement"], []
    for way, own in found["ways"].items():
        each = ", ".join(
            f"{model} {count['forwards']:,} ({count['positions']:,})"
            for model, count in own["models"].items()
        )
        parts.append(f"{way}: {each}")
    share = ""
    if agrees:
        nats = sum(agrees["nats"]) / len(agrees["nats"])
        share = (
            f" Given the answers, the draft agrees on {agrees['agreed']:.2f} of "
            f"{agrees['tokens']} tokens; it has {nats:.1f} nats."
        )
    return (
        f"- **{name}**: `{found['formula']}`, drafted by `{found['draft']}`, "
        f"{found['draft_length']} tokens.{share} Forwards (positions): {'; '.join(parts)}."
    )


def spread(values: list[float], digits: int) -> str:
    """A median, with the quartiles."""
    low, middle, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} [{low}, {high}]"


def row(cells: Any) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"
