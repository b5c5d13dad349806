"""The report of a sweep: one HTML file and figures, made from what the sweep's folder holds.

It only shows: nothing is decoded, scored or worked out here but counts and sums, so that a report
can be written again at any time, and while a sweep runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .content import content_of
from .figures import write_figures
from .page import page

if TYPE_CHECKING:
    from ..runtime import Inspection
    from .content import Results

__all__ = ["inspection_page", "write"]
REPORT, INSPECTION = "report.html", "inspect.json"


def write(results: Results, folder: Path | str) -> list[Path]:
    """Write ``report.html``, ``front.png`` and ``front.pdf`` of a sweep.

    Args:
        results: as ``descant.results.load`` gives them.
        folder: where they go; an ``inspect.json`` that is there becomes a part of the page.

    Returns:
        What was written. Figures need matplotlib, and two or three objectives; without them there
        is the page alone.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = content_of(results, folder.name)
    inspection = _inspection(folder / INSPECTION)
    html = page(content.title, content.eyebrow, content.formulas, content.facts,
                {"report": content.data, "inspection": inspection})  # fmt: skip
    _replace(folder / REPORT, html)
    return [folder / REPORT, *write_figures(content.data, folder)]


def inspection_page(inspection: Inspection) -> str:
    """The page of one completion that ``Decoder.inspect`` has explained, as HTML."""
    said = inspection.as_dict()
    facts = ", ".join(f"{name} = {value:g}" for name, value in said["params"].items())
    prompt = said["prompt"] if isinstance(said["prompt"], str) else json.dumps(said["prompt"])
    title = " ".join(prompt.split())
    title = title if len(title) <= 80 else f"{title[:79]}…"
    return page(title, "descant inspect", [{"name": "", "text": inspection.formula}], facts,
                {"inspection": said})  # fmt: skip


def _inspection(file: Path) -> Any:
    """What ``descant inspect`` has left in the folder, if anything."""
    if not file.is_file():
        return None
    said = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(said, dict) or said.get("schema") != 2:
        raise ValueError(f"{file} is not what descant inspect writes; remove it, or write it again")
    return said


def _replace(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(text, encoding="utf-8", errors="replace")
    beside.replace(file)
