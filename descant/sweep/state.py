"""What the parts of a sweep share: this process's settings, prompts and folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..inputs.prompts import Item
from ..inputs.runfile import RunFile
from ..runs.expand import Setting
from ..runs.folder import Journal
from ..runs.processes import Share

Say = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """One process's part of a sweep.

    Attributes:
        settings: every formula with its points.
        items: the prompts.
        say: prints a line; only the first process says anything.
    """

    run: RunFile
    folder: Path
    share: Share
    settings: Sequence[Setting]
    items: Sequence[Item]
    say: Say

    def journal(self, stem: str) -> Journal:
        """This process's lines."""
        return Journal(self.folder, stem, self.share.rank, self.share.count)
