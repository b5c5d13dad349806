"""``descant eval``: lm-evaluation-harness, with a run file's formula as the model.

The harness knows only imported models, so the command imports ours; its other options are the
harness' own. This module is light; ``model`` holds the model.
"""

from __future__ import annotations

import sys
from typing import Any

import typer

from ..extras import MissingExtra
from ..options import Capture, Imports, MemoryUtilization, PrefixCaching, RunFilePath

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def evaluate(
    context: typer.Context,
    file: RunFilePath,
    import_: Imports = None,
    capture: Capture = None,
    enable_prefix_caching: PrefixCaching = None,
    gpu_memory_utilization: MemoryUtilization = None,
) -> None:
    """The formula on tasks of lm-evaluation-harness; all other options are those of lm_eval run.

    descant eval RUN.yaml --tasks hellaswag --batch_size 8 --model_args a=0.7
    """
    from ..inputs.runfile import RunFileError, read_run_file

    keys: dict[str, Any] = {
        "capture": capture, "enable_prefix_caching": enable_prefix_caching,
        "gpu_memory_utilization": gpu_memory_utilization,
    }  # fmt: skip
    read_run_file(file, **keys)  # mistakes are reported before the harness loads its tasks
    if any(argument.split("=")[0] in ("--model", "-M") for argument in context.args):
        raise RunFileError("descant eval takes a run file as its model; leave --model out")
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError:
        raise MissingExtra("descant eval", "lm_eval") from None
    from . import model as evaluation  # noqa: F401  the import registers the model

    model = ["--model", "descant", "--model_args", f"pretrained={file}"]
    for key, value in keys.items():
        model += [] if value is None else ["--model_args", f"{key}={value}"]
    argv, sys.argv = sys.argv, ["descant eval", "run", *model, *context.args]
    try:
        cli_evaluate()
    finally:
        sys.argv = argv
