"""Where a run comes from: versions, device, git revision and command, for ``meta.json``."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..disk import reading, replace
from ..results.folder import META


def provenance(device: str, dtype: str | None, seed: int) -> dict[str, Any]:
    """The content of ``meta.json`` before the first completion."""
    import torch
    import transformers

    if device.startswith("cuda"):
        device = f"{device} ({torch.cuda.get_device_name(device)})"
    return {
        "schema": 1,
        "descant": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": device,
        "dtype": dtype or "each checkpoint's own",
        "git": revision(),
        "started": now(),
        "command": " ".join(sys.argv),
        "seed": seed,
    }


def meta_of(folder: Path) -> dict[str, Any]:
    """The content of a folder's ``meta.json``; nothing where it is not there, or torn."""
    file = folder / META
    with suppress(ValueError), reading(file):
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    return {}


def add_to_meta(folder: Path, more: Mapping[str, Any]) -> None:
    """Add to a folder's ``meta.json``; one that cannot be read is written anew."""
    content = {**meta_of(folder), **more}
    replace(folder / META, json.dumps(content, indent=1, ensure_ascii=False))


def now() -> str:
    """The time in UTC, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def revision() -> dict[str, Any] | None:
    """The git revision of the working folder and whether it is dirty; None outside git."""
    git = partial(subprocess.run, capture_output=True, text=True, check=True, timeout=10)
    try:
        head = git(["git", "rev-parse", "HEAD"]).stdout.strip()
        return {"revision": head, "dirty": bool(git(["git", "status", "--porcelain"]).stdout)}
    except (OSError, subprocess.SubprocessError):
        return None
