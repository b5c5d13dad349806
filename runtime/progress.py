"""The progress bar on standard error, and the one rule for when it is shown."""

from __future__ import annotations

from typing import Any


def progress_bar(
    total: int, unit: str, name: str, progress: bool | None = None, **options: Any
) -> Any:
    """A tqdm bar of so many units, after a name; ``options`` are tqdm's.

    It is shown or not by ``progress``; left out, on a terminal and for two units or more.
    """
    from tqdm.auto import tqdm

    hidden = (True if total < 2 else None) if progress is None else not progress
    return tqdm(total=total, unit=unit, desc=name, disable=hidden, **options)
