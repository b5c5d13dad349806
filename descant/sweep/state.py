"""What the modules of a sweep share: this process's settings, prompts and folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..inputs.expand import Setting
from ..inputs.prompts import Item
from ..inputs.runfile import RunFile
from ..results.folder import Journal
from ..runs.processes import Process


@dataclass(frozen=True)
class Work:
    """One process's part of a sweep.

    Attributes:
        settings: every formula with its points.
        items: the prompts.
    """

    run: RunFile
    folder: Path
    process: Process
    settings: Sequence[Setting]
    items: Sequence[Item]

    def journal(self, stem: str) -> Journal:
        """The file that this process writes."""
        return Journal(self.folder, stem, self.process.rank, self.process.count)
