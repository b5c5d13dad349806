"""The JSON that others' scripts read, made of a run's or a sweep's completions.

One list per file: AlpacaEval's, that of ARGS and GenARM for HH-RLHF, and that for PKU-SafeRLHF.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]


class Format(StrEnum):
    """Who reads it."""

    ALPACA_EVAL = "alpaca_eval"
    HH_RLHF = "hh_rlhf"
    SAFE_RLHF = "safe_rlhf"


def alpaca_eval(record: Record, name: str) -> dict[str, Any]:
    """What AlpacaEval takes as model outputs."""
    return {
        "instruction": _asked(record["prompt"]),
        "output": record["text"],
        "generator": name,
    }


def hh_rlhf(record: Record, name: str) -> dict[str, Any]:
    """What the scripts of ARGS and GenARM write for HH-RLHF; ``result`` is the whole text."""
    prompt = _written(record["prompt"])
    return {
        "prompt": prompt,
        "result": prompt + record["text"],
        "response": record["text"],
        "elapsed": record["elapsed"],
        "method": name,
    }


def safe_rlhf(record: Record, name: str) -> dict[str, Any]:
    """What GenARM's scripts write for PKU-SafeRLHF."""
    return {
        "uid": str(record["id"]),
        "prompt": _written(record["prompt"]),
        "response": record["text"],
        "model": name,
        "elapsed": record["elapsed"],
    }


_MAKE: dict[Format, Callable[[Record, str], dict[str, Any]]] = {
    Format.ALPACA_EVAL: alpaca_eval,
    Format.HH_RLHF: hh_rlhf,
    Format.SAFE_RLHF: safe_rlhf,
}


def export(folder: Path, kinds: Iterable[Format]) -> list[Path]:
    """Write a folder's completions as others read them.

    Args:
        folder: of a run or a sweep.
        kinds: the formats. A run's file is ``alpaca_eval.json``; of a sweep every formula's every
            point has one, ``alpaca_eval/arms-3.json``.

    Returns:
        The files.
    """
    from ..runs.folder import COMPLETIONS, Journal

    parts: dict[tuple[str, int] | None, list[Record]] = {}
    for record in Journal(folder, COMPLETIONS).records():
        part = (record["formula"], record["point"]) if "formula" in record else None
        parts.setdefault(part, []).append(record)
    files = []
    for kind in kinds:
        for part, records in parts.items():
            file, name = folder / f"{kind}.json", folder.resolve().name
            if part is not None:
                file = folder / kind / f"{part[0]}-{part[1]}.json"
                numbers = [f"{key}={value:g}" for key, value in records[0]["params"].items()]
                name = " ".join([part[0], *numbers])
            records.sort(key=lambda record: (str(record["id"]).zfill(12), record["sample"]))
            file.parent.mkdir(exist_ok=True)
            content = [_MAKE[kind](record, name) for record in records]
            file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
            files.append(file)
    return files


def _asked(prompt: Any) -> str:
    """The instruction: a text, or the last thing that the user said."""
    if isinstance(prompt, str):
        return prompt
    said = [one["content"] for one in prompt if isinstance(one, dict) and one["role"] == "user"]
    return said[-1] if said else json.dumps(prompt)


def _written(prompt: Any) -> str:
    """A prompt as one text: messages as a dialogue in the words of HH-RLHF."""
    if isinstance(prompt, str):
        return prompt
    if not all(isinstance(one, dict) for one in prompt):
        return json.dumps(prompt)
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    turns = [f"\n\n{names.get(one['role'], one['role'])}: {one['content']}" for one in prompt]
    return "".join(turns) + "\n\nAssistant:"
