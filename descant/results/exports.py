"""Completions in the JSON formats of other scripts, one list per file.

AlpacaEval's model outputs, and what ARGS and GenARM write for HH-RLHF and PKU-SafeRLHF.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Format(StrEnum):
    """The scripts that read it."""

    ALPACA_EVAL = "alpaca_eval"
    HH_RLHF = "hh_rlhf"
    SAFE_RLHF = "safe_rlhf"


class Tracker(StrEnum):
    """Experiment trackers."""

    WANDB = "wandb"
    MLFLOW = "mlflow"
    TRACKIO = "trackio"


class Text(StrEnum):
    """How a section of a paper is written."""

    MARKDOWN = "markdown"
    LATEX = "latex"


def _row(kind: Format, record: Record, name: str) -> Record:
    """A model output of AlpacaEval, or a row of ARGS and GenARM."""
    text = record["text"]
    if kind is Format.ALPACA_EVAL:
        return {
            "instruction": instruction(record["prompt"]), "output": text, "generator": name
        }  # fmt: skip
    prompt = _as_text(record["prompt"])
    elapsed = {"elapsed": record["elapsed"]}
    if kind is Format.HH_RLHF:
        row = {"prompt": prompt, "result": prompt + text, "response": text}
        return {**row, **elapsed, "method": name}
    row = {"uid": str(record["id"]), "prompt": prompt, "response": text}
    return {**row, "model": name, **elapsed}


def export(folder: Path, kinds: Iterable[Format], *, by_point: bool = False) -> list[Path]:
    """Write a folder's completions in other formats, and return the files.

    ``by_point`` writes a file for every point of every formula, ``alpaca_eval/arms-3.json``;
    otherwise there is one for each format, ``alpaca_eval.json``.
    """
    from ..disk import make_folder, replace
    from ..inputs.expand import key_of  # the command line imports this module for ``Format``
    from .folder import COMPLETIONS, Journal
    from .lock import PAGES, WAIT, writing

    points: dict[tuple[str, int] | None, list[Record]] = {}
    for record in Journal(folder, COMPLETIONS).records():
        point = key_of(record)[:2] if by_point else None
        points.setdefault(point, []).append(record)
    files = []
    for kind in kinds:
        for point, records in points.items():
            file, name = folder / f"{kind}.json", folder.resolve().name
            if point is not None:
                file = folder / kind / f"{point[0]}-{point[1]}.json"
                values = [f"{key}={value:g}" for key, value in records[0]["params"].items()]
                name = " ".join([point[0], *values])
            records.sort(key=lambda record: (str(record["id"]).zfill(12), record["sample"]))
            make_folder(file.parent)
            content = [_row(kind, record, name) for record in records]
            with writing(folder / PAGES, WAIT):
                replace(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            files.append(file)
    return files


def instruction(prompt: Any) -> str:
    """A text, or the last message of the user."""
    if isinstance(prompt, str):
        return prompt
    messages = [part for part in prompt if isinstance(part, dict) and part["role"] == "user"]
    return str(messages[-1]["content"]) if messages else json.dumps(prompt)


def _as_text(prompt: Any) -> str:
    """A prompt as one text; messages become a dialogue as in HH-RLHF."""
    if isinstance(prompt, str):
        return prompt
    if not all(isinstance(part, dict) for part in prompt):
        return json.dumps(prompt)
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    turns = [f"\n\n{names.get(part['role'], part['role'])}: {part['content']}" for part in prompt]
    return "".join(turns) + "\n\nAssistant:"
