"""``descant export``: a run's folder in an experiment tracker, which may be offline.

A run itself knows no tracker: it is exported when it is finished, or again while it goes on.
"""

from __future__ import annotations

from .export import export

__all__ = ["export"]
