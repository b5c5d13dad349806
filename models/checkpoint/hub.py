"""The hub: a hub id in its cache, and what to do about its errors.

transformers finds and downloads files; no weights are read here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})/")


def commit_of(file: str | None) -> str | None:
    """The commit of a file in the hub's cache; None for any other file."""
    match = _SNAPSHOT.search(Path(file or "").as_posix())
    return match[1] if match else None


def explain_hub_error(
    error: BaseException, source: str, revision: str | None = None
) -> tuple[str, str] | None:
    """What is wrong with a hub id and what to do about it; None for any other error.

    Args:
        error: from transformers; its causes are the hub's.
        source: the hub id.
        revision: as declared.
    """
    from transformers.utils.hub import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        is_offline_mode,
    )

    if os.path.isdir(source):
        return None
    causes = list(_causes(error))

    def caused_by(kind: type[BaseException]) -> bool:
        return any(isinstance(cause, kind) for cause in causes)

    page = f"https://huggingface.co/{source}"
    if caused_by(GatedRepoError):
        return (
            f"{source} is gated, and the hub does not let this account read it",
            f"accept its licence at {page}, then log in with: hf auth login (or set HF_TOKEN)",
        )
    if caused_by(RevisionNotFoundError):
        return (
            f"{source} has no revision {revision or 'main'}",
            f"give a branch, tag or commit that {page} lists",
        )
    if caused_by(RepositoryNotFoundError):
        return (
            f"{source} cannot be found: the hub has no such model, or it is private",
            "check the id; where it is private, log in with: hf auth login (or set HF_TOKEN)",
        )
    if caused_by(LocalEntryNotFoundError):
        pinned = f" --revision {revision}" if revision else ""
        fetch = f"hf download {source}{pinned}"
        if is_offline_mode():
            return (
                f"{source} cannot be found: it is not in the cache, and HF_HUB_OFFLINE is set",
                f"unset HF_HUB_OFFLINE, or fetch it first where there is a network: {fetch}",
            )
        return (
            f"{source} cannot be found: it is not in the cache, and the hub cannot be reached",
            f"check the network, or fetch it first where there is one: {fetch}",
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
