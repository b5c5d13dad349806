"""What was found stays found: every committed input is run, and the search finds a planted bug."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import targets

INPUTS = [(file.parent.name, file.name) for file in sorted(targets.CORPUS.glob("*/*"))]


def test_the_corpus_is_of_the_targets() -> None:
    assert {name for name, _ in INPUTS} <= targets.TARGETS.keys()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_what_was_found_stays_found(name: str) -> None:
    from bad_files import ends  # which targets has made findable

    if name == "request":
        pytest.importorskip("fastapi", reason="pip install descant[serve]")
    for kind, file in INPUTS:
        if kind == name:
            data = (targets.CORPUS / kind / file).read_bytes()
            with ends():
                try:
                    targets.TARGETS[name](data)
                except Exception as error:
                    raise AssertionError(f"{kind}/{file}") from error


def test_a_bug_is_found(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="it has wheels for Linux alone")
    done = subprocess.run(
        [sys.executable, targets.HERE / "search.py", "--minutes", "0.5", "--target", "planted",
         "--found", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ValueError: planted" in done.stdout
    [found] = tmp_path.iterdir()
    assert found.read_bytes()[:3] == b"BUG"
