"""Citation entries of the methods in the cookbook, from ``citations.bib``.

Each has its first author, title, venue and year; ``and others`` stands for further authors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("citations.bib")
_JOURNALS = ("journal", "booktitle", "publisher")


@dataclass(frozen=True)
class Citation:
    """One work.

    Attributes:
        key: by which a text cites it.
        bibtex: its entry.
    """

    key: str
    bibtex: str

    def field(self, name: str) -> str:
        """The value of a field, without its braces; "" where it has none."""
        for line in self.bibtex.splitlines():
            key, _, value = line.strip().rstrip(",").partition(" = ")
            if key == name:
                return value.strip("{}")
        return ""

    @property
    def short(self) -> str:
        """As a text names it.

        >>> citations()["khanov2024args"].short, citations()["xu2025genarm"].short
        ('Khanov, Burapacheep and Li, ICLR 2024', 'Xu et al., ICLR 2025')
        """
        names = [name.partition(",")[0] for name in self.field("author").split(" and ")]
        if names[-1] == "others" or len(names) > 3:
            names = [f"{names[0]} et al."]
        who = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        venue = next(filter(None, map(self.field, _JOURNALS)))
        place = "" if venue == "arXiv" else f" {venue}"
        return f"{who},{place} {self.field('year')}"


@cache
def citations() -> dict[str, Citation]:
    """Every entry, by its key."""
    entries = _FILE.read_text(encoding="utf-8").strip().split("\n\n")
    keys = [entry.partition("{")[2].partition(",")[0] for entry in entries]
    return {key: Citation(key, entry) for key, entry in zip(keys, entries, strict=True)}
