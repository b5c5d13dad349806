"""One finding of ``descant doctor``, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any

from rich.table import Column, Table
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
        content = asdict(self)
        return {"area": content.pop("area"), "said": content.pop("message"), **content}


def checked(name: str, message: str, cure: str = "", otherwise: str = NOTE, **data: Any) -> Finding:
    """A finding that is ok where there is nothing to do, and ``otherwise`` where there is."""
    return Finding(name, otherwise if cure else OK, message, cure, data)


def guarded(
    name: str, check: Callable[[], Iterable[Finding]], state: str, area: str = ""
) -> list[Finding]:
    """What a check finds; whatever breaks it is one more finding, in that state."""
    findings: list[Finding] = []
    try:
        for finding in check():
            findings.append(replace(finding, area=area))
    except Exception as error:  # whatever is broken, the other checks still run
        message = f"cannot be looked at: {failure(error)}"
        findings.append(Finding(name, state, message, area=area))
    return findings


def failure(error: Exception) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def table(findings: Sequence[Finding]) -> Table:
    """The findings for a reader; nothing in them is markup."""
    columns = (Column(no_wrap=True), Column(no_wrap=True), Column(overflow="fold"))
    table = Table(*columns, box=None, pad_edge=False, show_header=False)
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
