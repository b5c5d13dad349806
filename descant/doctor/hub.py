"""Where checkpoints come from: the hub's cache, the account, and what the environment forbids."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .findings import NOTE, OK, Finding, looked_at

LOW = 20_000_000_000  # bytes: about one model of 7B parameters in 16 bits, and room to unpack it
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
PLACES, ADDRESSES = ("HF_HOME", "HF_HUB_CACHE"), ("HF_ENDPOINT", "HTTPS_PROXY")
TRUE = {"1", "on", "yes", "true"}  # as huggingface_hub reads them


@looked_at("hub", "cache")
def cache() -> Iterator[Finding]:
    """The folder that checkpoints are downloaded to, and the room on its disk."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    models = len(list(folder.glob("models--*"))) if folder.is_dir() else 0
    said = f"{folder}: {models} model{'' if models == 1 else 's'}; {free / 1e9:.3g} GB free"
    data = {"folder": str(folder), "models": models, "free": free}
    writable = os.access(there, os.W_OK)
    cure = ""
    if not writable:
        cure = f"{there} cannot be written: set HF_HOME to a folder that can"
    elif free < LOW:
        cure = "little room for checkpoints: set HF_HOME to a folder on a larger disk"
    yield Finding("hub", "cache", NOTE if cure else OK, said, cure, data)


@looked_at("hub", "account")
def account() -> Iterator[Finding]:
    """Whether there is a token. What it is, is not said."""
    from huggingface_hub import get_token

    there = get_token() is not None
    said = "there is a token" if there else "there is no token: public checkpoints only"
    cure = "" if there else "for gated or private ones: hf auth login, or set HF_TOKEN"
    yield Finding("hub", "account", OK if there else NOTE, said, cure, {"token": there})


@looked_at("hub", "network")
def environment() -> Iterator[Finding]:
    """Whether the environment forbids downloads, or sends them elsewhere."""
    found = {name: os.environ[name] for name in (*OFFLINE, *PLACES) if name in os.environ}
    found |= {name: "…" for name in ADDRESSES if name in os.environ}  # a password may be in it
    off = [name for name in OFFLINE if found.get(name, "").lower() in TRUE]
    said = ", ".join(f"{name}={value}" for name, value in found.items()) or "nothing is set"
    cure = f"nothing is downloaded: unset {' and '.join(off)} to allow it" if off else ""
    data = {"offline": bool(off), "environment": found}
    yield Finding("hub", "environment", NOTE if off else OK, said, cure, data)
