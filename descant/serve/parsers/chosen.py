"""Parsers that whoever starts a server has chosen, by the names that vLLM has for them."""

from __future__ import annotations

from collections.abc import Collection

from ...grammar import did_you_mean
from ...inputs.runfile import RunFile, RunFileError
from ...models.checkpoint.spec import Marks


def known(name: str | None, option: str, names: Collection[str]) -> bool:
    """Whether an option is given.

    Raises:
        RunFileError: there is no parser of that name.
    """
    if name is not None and name not in names:
        raise RunFileError(f"there is no {option} {name}; {did_you_mean(name, names)}")
    return name is not None


def with_marks(run: RunFile, start: str, end: str) -> RunFile:
    """The run file; its models think between these marks, where their specs say no others."""
    marks = Marks(start=start, end=end)
    models = {
        name: spec.model_copy(update={"reasoning": marks})
        if spec.reasoning is None and spec.on is None
        else spec
        for name, spec in run.models.items()
    }
    return run.model_copy(update={"models": models})
