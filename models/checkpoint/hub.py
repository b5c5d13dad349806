"""The hub: where a hub id is in its cache, and what its errors mean to whoever wrote the id.

Files are found and downloaded by transformers; nothing here reads weights.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})/")


def commit_of(file: str | None) -> str | None:
    """The commit of a file in the hub's cache; None for a folder of one's own."""
    found = _SNAPSHOT.search(Path(file or "").as_posix())
    return found[1] if found else None


def hub_answer(
    error: BaseException, source: str, revision: str | None = None
) -> tuple[str, str] | None:
    """What is wrong with a hub id and what to do about it; None where it is something else.

    Args:
        error: what transformers raised; its causes say what the hub answered.
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

    def among(kind: type[BaseException]) -> bool:
        return any(isinstance(cause, kind) for cause in causes)

    page = f"https://huggingface.co/{source}"
    if among(GatedRepoError):
        return (
            f"{source} is gated, and the hub does not let this account read it",
            f"accept its licence at {page}, then log in with: hf auth login (or set HF_TOKEN)",
        )
    if among(RevisionNotFoundError):
        return (
            f"{source} has no revision {revision or 'main'}",
            f"give a branch, tag or commit that {page} lists",
        )
    if among(RepositoryNotFoundError):
        return (
            f"{source} cannot be found: the hub has no such model, or it is private",
            "check the id; where it is private, log in with: hf auth login (or set HF_TOKEN)",
        )
    if among(LocalEntryNotFoundError):
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
