"""How a search has converged, as a figure: PNG and PDF."""

from __future__ import annotations

from pathlib import Path

from ...disk import written
from ...extras import installed
from ...report.figures import COLOURS
from .outcome import Outcome


def write_convergence(outcome: Outcome, folder: Path) -> list[Path]:
    """Draw each trial's mean, or nothing where there are several, and the best so far.

    A dashed line is what a grid of the same cost has reached. There are no files without
    matplotlib.
    """
    if not installed("matplotlib"):
        return []
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    files = [folder / "convergence.png", folder / "convergence.pdf"]
    alone = outcome.hypervolume is None
    numbers = [trial.number for trial in outcome.trials]
    settings = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
                "pdf.fonttype": 42, "legend.frameon": False}  # fmt: skip
    with rc_context(settings):
        figure = Figure(figsize=(4.2, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.step(numbers, outcome.convergence, where="post", color=COLOURS[0], label="best so far")
        if alone:
            for pruned, style, label in ((False, "o", "trials"), (True, "x", "stopped early")):
                own = [trial for trial in outcome.trials if trial.pruned == pruned]
                if own:
                    axes.plot([t.number for t in own], [t.mean(0) for t in own], style,
                              color=COLOURS[5], markersize=3.5, alpha=0.7, label=label)  # fmt: skip
        if outcome.grid is not None:
            volume = outcome.grid.hypervolume or outcome.grid.means[0]
            label = f"grid of {len(outcome.grid.points)} points"
            axes.axhline(volume.mean, linestyle="--", color=COLOURS[1], linewidth=1, label=label)
        what = outcome.objectives[0].removeprefix("-") if alone else "hypervolume"
        axes.set(xlabel="trial", ylabel=what)
        axes.grid(color="0.9", linewidth=0.6)
        axes.legend()
        with written(files[0]) as partial:
            figure.savefig(partial, dpi=200, metadata={"Software": None})
        with written(files[1]) as partial:
            figure.savefig(partial, metadata={"CreationDate": None})
    return files
