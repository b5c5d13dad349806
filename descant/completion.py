"""What a shell completes where a run file is asked for: run files below the working folder.

Shells complete everything else by themselves. This must be quick, and never fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

DEPTH, LOOKED_AT, SHOWN = 3, 4000, 200
ENDINGS = (".yaml", ".yml")
SKIPPED = {"node_modules", "site-packages", "__pycache__"}


def run_files(incomplete: str) -> list[str]:
    """The YAML files whose path begins so; folders are looked into, to a depth.

    Args:
        incomplete: what has been typed; none of it need be a folder yet.
    """
    head, beginning = os.path.split(incomplete)
    folder = os.path.expanduser(head) or "."
    found = []
    for path in _files(folder, beginning):
        found.append(os.path.join(head, os.path.relpath(path, folder)))
        if len(found) == SHOWN:
            break
    return sorted(found)


def _files(folder: str, beginning: str) -> Iterator[str]:
    """Breadth first, so that near files come before a limit does."""
    level, seen = [folder], 0
    for depth in range(DEPTH):
        below = []
        for place in level:
            try:
                entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            except OSError:
                continue
            for entry in entries:
                seen += 1
                if seen > LOOKED_AT:
                    return
                if depth == 0 and not entry.name.startswith(beginning):
                    continue
                if entry.name.startswith(".") and not (depth == 0 and beginning):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below += [entry.path] * (entry.name not in SKIPPED)
                elif entry.name.endswith(ENDINGS):
                    yield entry.path
        level = below
