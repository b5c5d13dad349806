"""One thing found, and the table of them. It knows nothing of what is looked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ParamSpec

from rich.table import Table
from rich.text import Text

OK, NOTE, MISSING, BROKEN = "ok", "note", "missing", "broken"
STYLES = {OK: "green", NOTE: "yellow", MISSING: "dim", BROKEN: "bold red"}
P = ParamSpec("P")


@dataclass(frozen=True)
class Finding:
    """What is said of one thing.

    Attributes:
        area: what it belongs to.
        name: the thing.
        state: ``ok``; ``note``, worth knowing; ``missing``, where it is optional; ``broken``,
            where a plain install cannot do without.
        said: in words.
        cure: what to do; empty where there is nothing to do.
        data: the same for machines: numbers in bytes, versions, names.
    """

    area: str
    name: str
    state: str
    said: str
    cure: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def looked_at(
    area: str, name: str, state: str = NOTE
) -> Callable[[Callable[P, Iterator[Finding]]], Callable[P, list[Finding]]]:
    """A check whose failure is one more finding, and not the end of the others."""

    def decorate(check: Callable[P, Iterator[Finding]]) -> Callable[P, list[Finding]]:
        @functools.wraps(check)
        def asked(*args: P.args, **kwargs: P.kwargs) -> list[Finding]:
            found = []
            try:
                for finding in check(*args, **kwargs):
                    found.append(finding)
            except Exception as error:  # whatever is broken here, the rest is still worth saying
                lines = str(error).strip().splitlines() or [""]
                said = f"cannot be looked at: {type(error).__name__}: {lines[0]}"
                found.append(Finding(area, name, state, said))
            return found

        return asked

    return decorate


def table(found: Sequence[Finding]) -> Table:
    """The findings for a reader; nothing in them is markup."""
    drawn = Table(box=None, pad_edge=False, show_header=False)
    drawn.add_column(no_wrap=True)
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    area = None
    for finding in found:
        if finding.area != area:
            if area is not None:
                drawn.add_row()
            area = finding.area
            drawn.add_row(Text(area, "bold"))
        words = Text(finding.said)
        if finding.cure:
            words.append(f"\n→ {finding.cure}", STYLES.get(finding.state, ""))
        mark = Text(f"  {finding.state}", STYLES[finding.state])
        drawn.add_row(mark, Text(finding.name), words)
    return drawn
