"""``descant fit``: which way a run file's parameters are fitted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..inputs.runfile import RunFile, RunFileError
from ..runs.run import of_one_formula

if TYPE_CHECKING:
    from rich.console import Console


def fit_run(run: RunFile, folder: Path, console: Console, resume: bool = True) -> None:
    """Fit the parameters of a run's formula, and write what was found.

    Raises:
        RunFileError: without ``resume``, the folder has been begun; there is no section ``fit``,
            or the run has points; and as ``Decoder.fit``.
    """
    section = run.fit
    if section is None:
        raise RunFileError("the run file has no fit; add fit: {objective: likelihood}")
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise RunFileError(f"{folder} holds a fit that was begun; give another output, or --resume")
    if run.sweep is not None or run.tables:
        raise RunFileError("a fit has no points; leave out sweep and tables")
    run = of_one_formula(run, None)
    if section.gate is not None:
        from .gates import fit_gates

        fit_gates(run, section, folder, console)
        return
    if section.objective != "reward":
        from .texts import fit_texts

        fit_texts(run, section, folder, console)
        return
    from .rewards.command import fit_rewards
    from .rewards.options import options_of

    fit_rewards(run, options_of(section, run.generate.seed), folder, console)
