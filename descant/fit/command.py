"""``descant fit``: the run file's ``fit:`` by its objective."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..inputs.runfile import RunFile, RunFileError

if TYPE_CHECKING:
    from rich.console import Console


def fitted(run: RunFile, folder: Path, console: Console) -> None:
    """Fit the parameters of a run file with one formula, and write and show what is found.

    Points of a sweep and their tables take no part.

    Raises:
        RunFileError: there is nothing to fit; others as the objective's own.
    """
    if run.fit is None:
        cure = "add fit: {objective: reward, bounds: {a: [0, 2]}}"
        raise RunFileError(f"the run file has no fit; {cure}")
    from .rewards.command import fit_rewards
    from .rewards.options import options_of

    alone = run.model_copy(update={"sweep": None, "tables": {}})
    fit_rewards(alone, options_of(run.fit, run.generate.seed), folder, console)
