"""The hub of checkpoints: its cache, the account, and what the environment forbids."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .findings import Finding, checked

LOW = 20_000_000_000  # bytes: about one model of 7B parameters in 16 bits, and room to unpack it
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
FOLDERS, ADDRESSES = ("HF_HOME", "HF_HUB_CACHE"), ("HF_ENDPOINT", "HTTPS_PROXY")
TRUE = {"1", "on", "yes", "true"}  # as huggingface_hub reads them


def cache() -> Iterator[Finding]:
    """The folder that checkpoints are downloaded to, and the room on its disk."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    models = len(list(folder.glob("models--*"))) if folder.is_dir() else 0
    message = f"{folder}: {models} model{'' if models == 1 else 's'}; {free / 1e9:.3g} GB free"
    cure = ""
    if not os.access(nearest, os.W_OK):
        cure = f"{nearest} cannot be written: set HF_HOME to a folder that can"
    elif free < LOW:
        cure = "little room for checkpoints: set HF_HOME to a folder on a larger disk"
    yield checked("cache", message, cure, folder=str(folder), models=models, free=free)


def unpacked() -> Iterator[Finding]:
    """GGUF files that were unpacked, and the room that they take."""
    from ..models.checkpoint.gguf import unpacked_files

    folder, files, size = unpacked_files()
    message = f"{folder}: {files} unpacked, {size / 1e9:.3g} GB; remove the folder to free them"
    yield checked("GGUF files", message, folder=str(folder), files=files, bytes=size)


def account() -> Iterator[Finding]:
    """Whether there is a token; it is not shown."""
    from huggingface_hub import get_token

    has_token = get_token() is not None
    message = "there is a token" if has_token else "there is no token: public checkpoints only"
    cure = "" if has_token else "for gated or private ones: hf auth login, or set HF_TOKEN"
    yield checked("account", message, cure, token=has_token)


def environment() -> Iterator[Finding]:
    """Whether the environment forbids downloads, or sends them elsewhere."""
    shown = {name: os.environ[name] for name in (*OFFLINE, *FOLDERS) if name in os.environ}
    shown |= {name: "…" for name in ADDRESSES if name in os.environ}  # a password may be in it
    off = [name for name in OFFLINE if shown.get(name, "").lower() in TRUE]
    message = ", ".join(f"{name}={value}" for name, value in shown.items()) or "nothing is set"
    cure = f"nothing is downloaded: unset {' and '.join(off)} to allow it" if off else ""
    yield checked("environment", message, cure, offline=bool(off), environment=shown)
