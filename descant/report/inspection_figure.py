"""Why each token was chosen, as a figure for a paper: what each part said for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk import written
from ..errors import ArgumentError
from ..extras import require

if TYPE_CHECKING:
    from ..runtime import Inspection
    from ..runtime.explain.token_choice import Candidate, Choice

FORMATS = (".png", ".svg", ".pdf")
PER_LINE = 24  # tokens side by side
_MOST = 4.0  # nats; larger differences have the same colour


def inspection_figure(inspection: Inspection) -> Any:
    """A cell for each token and part: what the part says for the token against another, in nats.

    The other is the base's own choice where that is another, and else the best of the other
    candidates. Tokens that the base would not have chosen are bold.

    Returns:
        A figure of matplotlib.

    Raises:
        MissingExtra: there is no matplotlib.
        ArgumentError: the completion has no token.
    """
    require("a figure", "matplotlib")
    from matplotlib.figure import Figure

    if not inspection.tokens:
        raise ArgumentError("the completion has no token, and so its figure has nothing to show")
    choices = inspection.tokens
    lines = [choices[first : first + PER_LINE] for first in range(0, len(choices), PER_LINE)]
    names = [part.name for part in inspection.parts]
    if any(choice.by_noise for choice in choices):
        names.append("noise")
    width = min(PER_LINE, len(choices))
    figure = Figure(
        figsize=(1.6 + 0.42 * width, len(lines) * (0.9 + 0.28 * len(names))), layout="constrained"
    )
    panels = figure.subplots(len(lines), 1, squeeze=False)[:, 0]
    for axes, line in zip(panels, lines, strict=True):
        _draw(axes, [_differences(choice, inspection, len(names)) for choice in line], width)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_xticks(range(len(line)), [_label(choice) for choice in line], rotation=60,
                        ha="right", fontsize=8)  # fmt: skip
        for label, choice in zip(axes.get_xticklabels(), line, strict=True):
            label.set_fontweight("bold" if choice.changed else "normal")
            label.set_parse_math(False)
    figure.supxlabel(
        "nats for the token, less those for the other choice; bold: not the base's choice",
        fontsize=7,
    )
    panels[0].set_title(inspection.formula, fontsize=8, loc="left", parse_math=False)
    return figure


def write_inspection_figure(inspection: Inspection, file: Path) -> Path:
    """Draw it as PNG, SVG or PDF, by the file's name.

    Raises:
        ArgumentError: another ending.
        MissingExtra: there is no matplotlib.
    """
    if file.suffix.lower() not in FORMATS:
        raise ArgumentError(f"{file} is no figure: end its name in {', '.join(FORMATS)}")
    figure = inspection_figure(inspection)
    with written(file) as partial:
        figure.savefig(partial, format=file.suffix[1:].lower(), dpi=200)
    return file


def _draw(axes: Any, columns: list[list[float | None]], width: int) -> None:
    values = [[column[row] for column in columns] for row in range(len(columns[0]))]
    shown = [[float("nan") if value is None else value for value in row] for row in values]
    axes.imshow(shown, cmap="RdBu", vmin=-_MOST, vmax=_MOST, aspect="auto")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if value is not None and abs(value) >= 0.05:
                colour = "white" if abs(value) > 0.6 * _MOST else "black"
                axes.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=6, color=colour)
    axes.set_xlim(-0.5, width - 0.5)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _differences(choice: Choice, inspection: Inspection, rows: int) -> list[float | None]:
    """Per part, and then of the noise, the chosen token less the other choice."""
    of = {each.id: each for each in choice.candidates}
    chosen, other = of[choice.id], _other(choice)
    if other is None:
        return [None] * rows
    pairs = [*zip(chosen.contributions, other.contributions, strict=True)]
    warm = inspection.temperature
    if rows > len(pairs):
        pairs.append((_warmed(chosen, warm), _warmed(other, warm)))
    return [None if a is None or b is None else a - b for a, b in pairs]


def _other(choice: Choice) -> Candidate | None:
    if choice.changed:
        return next(each for each in choice.candidates if each.id == choice.base)
    rest = [each for each in choice.candidates if each.id != choice.id and each.score is not None]
    return rest[0] if rest else None


def _warmed(candidate: Candidate, temperature: float) -> float | None:
    return None if candidate.noise is None else candidate.noise * temperature


def _label(choice: Choice) -> str:
    text = str(choice.id) if choice.text is None else repr(choice.text)[1:-1]
    return text.replace(" ", "␣") if len(text) <= 12 else f"{text[:11]}…"
