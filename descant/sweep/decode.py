"""The rows of one formula, one record per completion, and their progress."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..inputs.expand import Row, Setting
from ..results.folder import Record
from ..runtime.progress import progress_bar
from .source import Source


def decode(
    source: Source, setting: Setting, rows: Sequence[Row], done: int, shown: bool
) -> Iterator[Record]:
    """Decode the missing rows of one formula; yields each record when its completion ends.

    The progress bar, where one is ``shown``, counts the rows that are ``done``, too.
    """
    bar = progress_bar(
        done + len(rows), "row", setting.name, None if shown else False,
        initial=done, smoothing=0.1,
    )  # fmt: skip
    tokens = 0
    with bar:
        for record in source.decode(setting, rows):
            tokens += len(record["token_ids"])
            bar.update()
            elapsed = bar.format_dict["elapsed"] or 1e-9
            bar.set_postfix_str(f"{tokens / elapsed:.0f} tokens/s", refresh=False)
            yield record
