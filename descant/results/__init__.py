"""A run's folder and its results: lines, tables, fronts, and other tools' formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .frames import Results

__all__ = ["load"]


def load(folder: str | Path) -> Results:
    """Read a run's folder as tables; it may still be running.

    Raises:
        RunFileError: the folder holds no run, or pandas is missing.
    """
    from .frames import load as read  # pandas and numpy are imported when first used

    return read(folder)
