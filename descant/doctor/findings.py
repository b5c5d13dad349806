"""One finding of ``descant doctor``, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from rich.table import Table
from rich.text import Text

OK, NOTE, MISSING, BROKEN = "ok", "note", "missing", "broken"
STYLES = {OK: "green", NOTE: "yellow", MISSING: "dim", BROKEN: "bold red"}


@dataclass(frozen=True)
class Finding:
    """The state of one thing.

    Attributes:
        name: the thing.
        state: ``ok``; ``note``, worth knowing; ``missing``, where it is optional; ``broken``,
            where a plain install cannot do without.
        message: the state in words.
        cure: what to do; empty where there is nothing to do.
        data: the same for machines: numbers in bytes, versions, names.
        area: the group of its check.
    """

    name: str
    state: str
    message: str
    cure: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    area: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON has it."""
        return {
            "area": self.area, "name": self.name, "state": self.state, "said": self.message,
            "cure": self.cure, "data": dict(self.data),
        }  # fmt: skip


def failure(error: Exception) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def table(findings: Sequence[Finding]) -> Table:
    """The findings for a reader; nothing in them is markup."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for area, group in groupby(findings, key=lambda finding: finding.area):
        if table.row_count:
            table.add_row()
        table.add_row(Text(area, "bold"))
        for finding in group:
            text = Text(finding.message)
            if finding.cure:
                text.append(f"\n→ {finding.cure}", STYLES[finding.state])
            state = Text(f"  {finding.state}", STYLES[finding.state])
            table.add_row(state, Text(finding.name), text)
    return table
