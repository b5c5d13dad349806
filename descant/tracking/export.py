"""An experiment into Weights & Biases, MLflow or trackio, by each library's own functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from ..extras import require
from ..results.exports import Tracker
from ..runtime.progress import progress_bar
from .content import Experiment, TrackedRun, experiment_of, flat

_SERVERS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")  # where trackio would send runs
Bar = Callable[[], object]  # counts one more run


def export(
    folder: Path | str, to: Tracker | str, *, project: str | None = None, offline: bool = False
) -> str:
    """Export a run's folder, and say where it is.

    Each point becomes a run with the configuration and the means, and one more run has the tables,
    the pictures and the files. Exported again, they are the same runs, where the tracker allows it
    (trackio adds to them).

    Args:
        folder: a run's or a sweep's.
        to: ``wandb``, ``mlflow`` or ``trackio``.
        project: its name; in MLflow, the experiment's. Left out, ``descant``.
        offline: to no server, whatever the environment says: into the folder itself, or trackio's.

    Raises:
        ArgumentError: offline, and the environment names a server of trackio's.
        RunFileError: the folder holds no run; MissingExtra: the tracker is not installed.
    """
    tracker, folder = Tracker(to), Path(folder)
    require(f"an export to {tracker}", tracker.value)
    experiment = experiment_of(folder, project)
    count = len(experiment.points) + 1
    with progress_bar(count, "run", tracker.value) as bar:
        return _EXPORTS[tracker](experiment, folder if offline else None, bar.update)


def _to_wandb(experiment: Experiment, folder: Path | None, done: Bar) -> str:
    import wandb

    settings = wandb.Settings(silent=True, console="off")
    options: dict[str, Any] = {"project": experiment.project, "group": experiment.group}
    options |= {"resume": "allow", "settings": settings}
    if folder is not None:
        options |= {"mode": "offline", "dir": str(folder)}

    def start(run: TrackedRun, kind: str) -> Any:
        return wandb.init(name=run.name, id=run.id, job_type=kind, config=run.config, **options)

    for point in experiment.points:
        with start(point, "point") as run:
            run.summary.update(point.metrics)
        done()
    with start(experiment.together, "run") as run:
        tables = {name: wandb.Table(dataframe=table) for name, table in experiment.tables.items()}
        run.log(tables | {file.stem: wandb.Image(str(file)) for file in experiment.pictures})
        for file in experiment.files:
            run.save(str(file.resolve()), base_path=str(file.resolve().parent), policy="now")
        address = run.url
    done()
    if folder is not None:
        return f"{folder / 'wandb'}; upload it with: wandb sync {folder / 'wandb'}/offline-run-*"
    return address or f"W&B project {experiment.project}"


def _to_mlflow(experiment: Experiment, folder: Path | None, done: Bar) -> str:
    import mlflow

    address = None if folder is None else f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=address)
    found = client.get_experiment_by_name(experiment.project)
    if found is None:
        place = None if folder is None else (folder.resolve() / "mlartifacts").as_uri()
        identity = client.create_experiment(experiment.project, artifact_location=place)
    else:
        identity = found.experiment_id

    def started(run: TrackedRun, tags: Mapping[str, str]) -> str:
        earlier = client.search_runs([identity], f"tags.`descant.id` = '{run.id}'")
        if earlier:
            return str(earlier[0].info.run_id)
        tags = {"descant.id": run.id, "descant.group": experiment.group, **tags}
        number = client.create_run(identity, run_name=run.name, tags=dict(tags)).info.run_id
        for key, value in flat(run.config).items():
            client.log_param(number, _mlflow_key(key), value)
        return str(number)

    parent = started(experiment.together, {})
    for name, table in experiment.tables.items():
        content = table.to_json(orient="split", index=False)  # as log_table, which would add to it
        client.log_text(parent, content, f"{name}.json")
    for file in (*experiment.pictures, *experiment.files):
        client.log_artifact(parent, str(file))
    client.set_terminated(parent)
    done()
    for point in experiment.points:
        number = started(point, {"mlflow.parentRunId": parent})
        for key, value in point.metrics.items():
            client.log_metric(number, _mlflow_key(key), value)
        client.set_terminated(number)
        done()
    shown = address or mlflow.get_tracking_uri()
    return f"{shown}; look at it with: mlflow ui --backend-store-uri {shown}"


def _to_trackio(experiment: Experiment, folder: Path | None, done: Bar) -> str:
    if folder is not None and (servers := [name for name in _SERVERS if os.environ.get(name)]):
        raise ArgumentError(f"{servers[0]} is set, and the export is to be offline; unset it")
    import trackio

    options: dict[str, Any] = {"project": experiment.project, "group": experiment.group}
    options |= {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
    for run in (*experiment.points, experiment.together):
        trackio.init(name=run.name, config=flat(run.config), resume="allow", **options)
        if run is experiment.together:
            tables = {
                name: trackio.Table(dataframe=table) for name, table in experiment.tables.items()
            }
            pictures = {file.stem: trackio.Image(str(file)) for file in experiment.pictures}
            trackio.log({**tables, **pictures})
        else:
            trackio.log(run.metrics)
        trackio.finish()
        done()
    return f"look at it with: trackio show --project {experiment.project}"


def _mlflow_key(key: str) -> str:
    """A key of letters, digits and what else MLflow takes."""
    return "".join(char if char.isalnum() or char in "_-./ :" else "_" for char in key)


_EXPORTS: Mapping[Tracker, Callable[[Experiment, Path | None, Bar], str]] = {
    Tracker.WANDB: _to_wandb, Tracker.MLFLOW: _to_mlflow, Tracker.TRACKIO: _to_trackio,
}  # fmt: skip
