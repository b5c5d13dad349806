"""The progress bar on standard error, and the one rule for when it is shown."""

from __future__ import annotations

from typing import Any


def progress_bar(
    total: int, unit: str, name: str, progress: bool | None = None, **options: Any
) -> Any:
    """A tqdm bar.

    Args:
        total: units in all.
        unit: what is counted.
        name: what stands before the bar.
        progress: show it, or not; left out, it is shown on a terminal, for two units or more.
        **options: other arguments of tqdm.
    """
    from tqdm.auto import tqdm

    hidden = (True if total < 2 else None) if progress is None else not progress
    return tqdm(total=total, unit=unit, desc=name, disable=hidden, **options)
