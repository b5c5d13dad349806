"""``descant run`` and ``descant sweep``, in this process or, with ``--ray``, on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..inputs.runfile import RunFile
from ..runs.run import compiled, rows_to_folder, run_to_folder
from .options import RayOptions

if TYPE_CHECKING:
    from rich.console import Console


def run_rows(run: RunFile, folder: Path, ray: RayOptions | None) -> int:
    """Complete the prompts of a run with one formula into a folder; how many lines it wrote."""
    if ray is None:
        return sum(1 for _ in run_to_folder(run, compiled(run), folder))
    from .cluster import Cluster

    with Cluster(ray, run, sweeps=False) as cluster:
        return sum(1 for _ in rows_to_folder(run, cluster.complete, folder))


def sweep_rows(run: RunFile, folder: Path, console: Console, ray: RayOptions | None) -> None:
    """Decode and score a sweep into a folder, and show its tables."""
    from ..sweep import swept

    if ray is None:
        swept(run, folder, console)
        return
    from .cluster import Cluster

    with Cluster(ray, run, sweeps=True) as cluster:
        swept(run, folder, console, cluster)
