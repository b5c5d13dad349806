"""The hub: a hub id in its cache, and what to do about its errors.

transformers finds and downloads files; no weights are read here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from transformers.utils import hub

from ..errors import ModelError, first_line


def cached(
    source: str, file: str, revision: str | None, absences: Iterable[str] = ()
) -> str | None:
    """A file of a folder or a hub id, downloaded if need be; no revision is ``main``.

    None for a failure that ``absences`` names, in transformers' words; others are raised.
    """
    options = {f"_raise_exceptions_for_{kind}": False for kind in absences}
    path: str | None = hub.cached_file(source, file, revision=revision or "main", **options)
    return path


def hub_error(
    error: BaseException,
    source: str,
    revision: str | None,
    name: str,
    other: tuple[str, str],
    what: str = "",
) -> ModelError:
    """What is wrong with a hub id, and what to do about it.

    Args:
        error: from transformers; its causes are the hub's.
        source: the hub id, or a folder; with the declared ``revision``.
        name: the declared model.
        other: problem and cure for any other error; its first line follows the problem.
        what: what comes before any problem.
    """
    page, login = f"https://huggingface.co/{source}", "log in with: hf auth login (or set HF_TOKEN)"
    fetch = f"hf download {source}" + (f" --revision {revision}" if revision else "")
    offline = hub.is_offline_mode()
    reason = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
    way, where = ("unset HF_HUB_OFFLINE", "a network") if offline else ("check the network", "one")
    problems = {
        hub.GatedRepoError: (
            "is gated, and the hub does not let this account read it",
            f"accept its licence at {page}, then {login}",
        ),
        hub.RevisionNotFoundError: (
            f"has no revision {revision or 'main'}",
            f"give a branch, tag or commit that {page} lists",
        ),
        hub.RepositoryNotFoundError: (
            "cannot be found: the hub has no such model, or it is private",
            f"check the id; where it is private, {login}",
        ),
        hub.LocalEntryNotFoundError: (
            f"cannot be found: it is not in the cache, and {reason}",
            f"{way}, or fetch it first where there is {where}: {fetch}",
        ),
    }
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for kind, (problem, cure) in problems.items():
        if not os.path.isdir(source) and any(isinstance(cause, kind) for cause in causes):
            return ModelError(f"{what}{source} {problem}", cure, name)
    return ModelError(f"{what}{other[0]}{first_line(error)}", other[1], name)
