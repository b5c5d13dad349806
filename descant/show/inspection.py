"""``descant inspect``: why each token of one completion was chosen, on the screen and as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..inputs.runfile import RunFile
from ..runs.run import compiled

if TYPE_CHECKING:
    from rich.table import Table

    from ..runtime import Inspection
    from ..runtime.explain.token_choice import Candidate, Choice

JSON, PAGE = "inspect.json", "inspect.html"


def inspected(run: RunFile, prompt: Any, n: int, base: str | None) -> Inspection:
    """The explained completion of one prompt by a run file."""
    unused = {"num_return_sequences", "logprobs", "top_logprobs", "logprobs_mode"}
    arguments = run.generate.model_dump(exclude=unused)
    return compiled(run).inspect(prompt, n=n, base=base, **arguments)


def write(inspection: Inspection, folder: Path) -> list[Path]:
    """Write ``inspect.html`` and ``inspect.json``; a report in the same folder shows it too."""
    from ..disk import make_folder, replace
    from ..report import inspection_page
    from ..results.lock import PAGES, WAIT, writing

    make_folder(folder)
    files = [folder / JSON, folder / PAGE]
    text = json.dumps(inspection.as_dict(), ensure_ascii=False, allow_nan=False)
    with writing(folder / PAGES, WAIT):
        replace(files[0], text + "\n")
        replace(files[1], inspection_page(inspection))
    return files


def table(inspection: Inspection) -> Table:
    """A row per token: what each part added, and what the base alone would have chosen."""
    from rich.table import Table
    from rich.text import Text

    rows = Table("", "token", "p", box=None, pad_edge=False, header_style="bold")
    for part in inspection.parts:
        factor = part.coefficient if part.kind != "number" else None
        name = _brief(part.name) if factor in (None, 1) else f"{factor:.4g}*{_brief(part.name)}"
        rows.add_column(Text(name), justify="right")
    rows.add_column("score", justify="right")
    rows.add_column(Text(f"{inspection.base} alone"))
    rows.add_column("then")
    for choice in inspection.tokens:
        chosen = _candidate(choice, choice.id)
        pairs = zip(chosen.contributions, choice.numbers, strict=True)
        added = [_added(value, numbers) for value, numbers in pairs]
        other = _shown(_candidate(choice, choice.base)) if choice.changed else "the same"
        style = "bold" if choice.changed else ""
        cells = [str(choice.step + 1), _shown(chosen), f"{chosen.probability:.2f}", *added,
                 _number(chosen.score), other, _why(inspection, choice)]  # fmt: skip
        rows.add_row(*(Text(cell) for cell in cells), style=style)
    return rows


def _why(inspection: Inspection, choice: Choice) -> str:
    """Why the base's choice lost, or that the noise decided, in a few words."""
    if choice.changed:
        chosen, other = _candidate(choice, choice.id), _candidate(choice, choice.base)
        if other.removed_by:
            return f"removed by {_brief(other.removed_by)}"
        added = zip(chosen.contributions, other.contributions, inspection.parts, strict=True)
        known = ((a, b, p.name) for a, b, p in added if a is not None and b is not None)
        differences = [(a - b, name) for a, b, name in known]
        most, name = max(differences, default=(0.0, ""))
        return f"{_brief(name)} {most:+.2f}" if most > 0 else "the noise"
    return "drawn, not the best" if choice.by_noise else ""


def _brief(name: str) -> str:
    """A part's name, without its arguments where it is long."""
    if len(name) <= 16 or "(" not in name:
        return name
    return f"{name[: name.index('(')]}(…){name[name.rindex(')') + 1 :]}"


def _candidate(choice: Choice, token: int) -> Candidate:
    return next(candidate for candidate in choice.candidates if candidate.id == token)


def _shown(candidate: Candidate) -> str:
    return str(candidate.id) if candidate.text is None else repr(candidate.text)[1:-1]


def _added(value: float | None, numbers: dict[str, float]) -> str:
    """What a part added, and in parentheses its numbers of the state."""
    states = ", ".join(f"{number:.3g}" for number in numbers.values())
    return f"{_number(value)} ({states})" if states else _number(value)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}"
