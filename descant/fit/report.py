"""The report of a fit: one HTML page, and its figures as PNG and PDF."""

from __future__ import annotations

import base64
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk import replace, written
from ..extras import installed
from ..report.figures import COLOURS
from ..report.page import static_page

if TYPE_CHECKING:
    from ..runtime.fit.result import Fit

REPORT = "report.html"
SETTINGS = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7,
    "pdf.fonttype": 42, "legend.frameon": False,
}  # fmt: skip
PAIRS = 6  # ellipses that are drawn, at most


def write_report(fit: Fit, formula: str, folder: Path) -> list[Path]:
    """Write ``report.html``, and with matplotlib ``fit.png`` and ``fit.pdf``."""
    files, pictures = [folder / REPORT], []
    if installed("matplotlib"):
        figure = _figure(fit)
        picture = BytesIO()
        figure.savefig(picture, format="png", dpi=200, metadata={"Software": None})
        pictures.append(base64.b64encode(picture.getvalue()).decode("ascii"))
        files += [folder / "fit.png", folder / "fit.pdf"]
        with written(files[1]) as partial:
            partial.write_bytes(picture.getvalue())
        with written(files[2]) as partial:
            figure.savefig(partial, metadata={"CreationDate": None})
    gained = f"{fit.start_loglikelihood:.1f} before, {fit.loglikelihood:.1f} after"
    facts = f"{fit.objective}; {fit.texts} texts, {fit.tokens} tokens; log-likelihood {gained}"
    tables = [_parameters(fit), _terms(fit), *_held_out(fit)]
    html = static_page(folder.name, "descant fit", formula, facts, tables, pictures, fit.notes)
    replace(folder / REPORT, html)
    return files


def _parameters(fit: Fit) -> dict[str, Any]:
    rows = []
    for name, value in fit.params.items():
        error = fit.stderr[name]
        ends = "at its bound" if error != error else f"{value - 1.96 * error:.4g} to "
        ends += "" if error != error else f"{value + 1.96 * error:.4g}"
        rows.append([name, f"{fit.start[name]:.4g}", f"{value:.4g}", f"{error:.2g}", ends])
    return {
        "title": "Parameters", "head": ["", "start", "value", "standard error", "95 %"],
        "rows": rows,
    }  # fmt: skip


def _terms(fit: Fit) -> dict[str, Any]:
    rows = [
        [r["term"], f"{r['coefficient']:.4g}", f"{r['stderr']:.2g}", f"{r['lost']:.1f}"]
        for r in fit.table
    ]
    head = ["term", "coefficient", "standard error", "log-likelihood lost without it"]
    return {"title": "Terms", "head": head, "rows": rows}


def _held_out(fit: Fit) -> list[dict[str, Any]]:
    judgements = [("held out", fit.holdout)] if fit.holdout else []
    judgements += [(f"fold {i + 1}", fold) for i, fold in enumerate(fit.folds)]
    names = [
        n for n in ("loglikelihood", "perplexity", "accuracy") if any(n in j for _, j in judgements)
    ]
    rows = [
        [label, *(f"{judgement[n][0]:.4g} → {judgement[n][1]:.4g}" for n in names)]
        for label, judgement in judgements
    ]
    return (
        [{"title": "Held-out texts, before → after", "head": ["", *names], "rows": rows}]
        if rows
        else []
    )


def _figure(fit: Fit) -> Any:
    """Slices of the log-likelihood, convergence, and a confidence ellipse per pair."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    free = [name for name in fit.params if fit.stderr[name] == fit.stderr[name]]
    pairs = list(combinations(free, 2))[:PAIRS]
    count = len(fit.slices) + 1 + len(pairs)
    with rc_context(SETTINGS):
        rows = -(-count // 3)
        figure = Figure(figsize=(3.3 * min(count, 3), 2.8 * rows), layout="constrained")
        panels = figure.subplots(rows, min(count, 3), squeeze=False).ravel()
        for axes, (name, points) in zip(panels, fit.slices.items(), strict=False):
            at, values = zip(*points, strict=True)
            axes.plot(at, values, color=COLOURS[0], linewidth=1.2)
            axes.axvline(fit.params[name], color=COLOURS[1], linewidth=1)
            axes.set(xlabel=name, ylabel="log-likelihood")
        axes = panels[len(fit.slices)]
        axes.plot([each["loglikelihood"] for each in fit.trace], "o-", color=COLOURS[2],
                  markersize=3, linewidth=1)  # fmt: skip
        axes.set(xlabel="evaluation", ylabel="log-likelihood")
        for axes, (x, y) in zip(panels[len(fit.slices) + 1 :], pairs, strict=False):
            across, up = fit.ellipse(x, y).T
            axes.plot(across, up, color=COLOURS[0], linewidth=1.2, label="95 %")
            axes.plot(fit.params[x], fit.params[y], "o", color=COLOURS[1], markersize=4)
            axes.set(xlabel=x, ylabel=y)
            axes.legend()
        for axes in panels[count:]:
            axes.set_visible(False)
        for axes in panels[:count]:
            axes.grid(color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
        return figure
