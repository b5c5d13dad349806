"""``descant methods``: the method section of a run, with citations of what its formula is."""

from __future__ import annotations

from .section import section

__all__ = ["section"]
