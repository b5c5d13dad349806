"""The report of a sweep: one HTML file and figures, from the sweep's folder.

Nothing is decoded or scored here, so a report can be written at any time, also during a sweep.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk import make_folder, reading, replace
from ..errors import ArgumentError
from ..results.lock import PAGES, WAIT, writing
from .content import content_of
from .figures import write_figures
from .forest import write_forest
from .inspection_figure import inspection_figure
from .over_parameters import why_no_figure, write_over_parameters
from .page import page

if TYPE_CHECKING:
    from ..results.frames import Results
    from ..runtime import Inspection

__all__ = ["inspection_figure", "inspection_page", "why_no_picture", "write"]
REPORT, INSPECTION = "report.html", "inspect.json"


def write(results: Results, folder: Path | str) -> list[Path]:
    """Write ``report.html`` and the figures of a sweep, and return the files.

    ``front.png`` and ``front.pdf`` need two objectives, ``scores.png`` and ``scores.pdf`` a score
    and a parameter that is swept, ``effects.png`` and ``effects.pdf`` a point and another to set it
    against, and all of them matplotlib. The folder's ``inspect.json`` becomes
    a part of the page.
    """
    folder = Path(folder)
    make_folder(folder)
    content = content_of(results, folder.name)
    inspection = _inspection(folder / INSPECTION)
    html = page(content.title, "descant sweep", content.formulas, content.facts,
                {"report": content.data, "inspection": inspection})  # fmt: skip
    with writing(folder / PAGES, WAIT):
        replace(folder / REPORT, html)
        drawn = (write_figures, write_over_parameters, write_forest)
        figures = [file for draw in drawn for file in draw(content.data, folder)]
        return [folder / REPORT, *figures]


def why_no_picture(results: Results) -> str:
    """Why a sweep's scores are not drawn over its parameters; empty where they are."""
    return why_no_figure(content_of(results, "").data)


def inspection_page(inspection: Inspection) -> str:
    """The page of one completion that ``Decoder.inspect`` has explained, as HTML."""
    content = inspection.as_dict()
    facts = ", ".join(f"{name} = {value:g}" for name, value in content["params"].items())
    prompt = content["prompt"]
    title = " ".join((prompt if isinstance(prompt, str) else json.dumps(prompt)).split())
    title = title if len(title) <= 80 else f"{title[:79]}…"
    return page(title, "descant inspect", [{"name": "", "text": inspection.formula}], facts,
                {"inspection": content})  # fmt: skip


def _inspection(file: Path) -> Any:
    """The folder's ``inspect.json``, if any."""
    if not file.is_file():
        return None
    with reading(file), suppress(ValueError):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("schema") == 2:
            return content
    raise ArgumentError(f"{file} is not what descant inspect writes; remove it, or write it again")
