"""Every reader of a stranger's file ends, in words that name the file, or reads it correctly.

The kinds of damage are those of ``bad_files.KINDS``; the readers, those of ``readers.py``.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bad_files
import pytest
from bad_files import KINDS, Damage, Hung, Outcome, Reader, complaint, damages, ends, failures
from readers import FILES, MODELS, model_readers

from descant import DescantError
from descant.errors import ArgumentError


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may enter; those of pytest are root's alone."""
    with tempfile.TemporaryDirectory(prefix="descant-faults-") as made:
        os.chmod(made, 0o755)
        yield Path(made)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """transformers reports every weight that does not fit; and no unpacked GGUF file stays."""
    from huggingface_hub import constants

    logging.getLogger("transformers").setLevel(logging.ERROR)
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path_factory.mktemp("assets")))


def check(reader: Reader, folder: Path) -> None:
    wrong, seen = failures(reader, folder)
    assert not wrong, "\n".join(wrong[:20])
    expected = {*KINDS} - ({"deep", "encoding"} if not reader.text else set())
    assert seen.keys() == expected - ({"wrong type"} if not reader.keys else set())


@pytest.mark.parametrize("reader", FILES, ids=lambda reader: reader.name)
def test_a_file(folder: Path, reader: Reader) -> None:
    check(reader, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_a_model(folder: Path, zoo: Any, name: str) -> None:
    if name == "GGUF":
        pytest.importorskip("gguf", reason="pip install descant[gguf]")
    if "merged" in name:
        pytest.importorskip("peft", reason="pip install descant[train]")
    check(next(reader for reader in model_readers(zoo) if reader.name == name), folder)


def _short(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{file} cannot be read") from error


def _bug(file: Path) -> str:
    return str(int(_short(file)[:3]))


def _hangs(file: Path) -> None:
    if len(_short(file)) != 3:
        time.sleep(bad_files.SECONDS + 5)


def _long(file: Path) -> None:
    if (text := _short(file)) != "123":
        raise _Told(f"{file} is {text}")


class _Told(DescantError):
    """An error whose message is as long as it is."""

    def __str__(self) -> str:
        return Exception.__str__(self)


def _nameless(file: Path) -> None:
    if _short(file) != "123":
        raise ArgumentError("there is something wrong somewhere")


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (_short, "empty, no byte: it was read"),
        (_short, "truncated, 1 of 3 bytes: something else was read: '1'"),
        (_bug, "empty, no byte: ValueError: invalid literal for int()"),
        (_hangs, "empty, no byte: Hung: not ended after 0.2 seconds"),
        (_long, "huge, letters: it quotes too much"),
        (_nameless, "empty, no byte: it does not say which file: there is something wrong"),
    ],
)
def test_the_layer_fails_where_a_reader_does(folder, monkeypatch, read, says) -> None:
    """A reader that takes anything, one with a bug, one that hangs, and ones with bad messages."""
    monkeypatch.setattr(bad_files, "SECONDS", 0.2)
    monkeypatch.setattr(bad_files, "ends", lambda: ends(0.2))
    reader = Reader("one", _make, read)
    wrong, _ = failures(reader, folder)
    assert any(says in line for line in wrong), "\n".join(wrong)


def _make(folder: Path) -> Path:
    (folder / "a").write_text("123")
    return folder / "a"


def test_what_no_python_runs_in_is_seen_at_its_end() -> None:
    with pytest.raises(Hung, match="after"), ends(0.05):
        sum(range(10**8))  # one step of the interpreter


def test_a_file_that_others_may_not_read_is_not_read(folder: Path) -> None:
    """The damage is one: not even root reads the file."""
    damage = next(d for d in damages(FILES[0], b"{}") if d.kind == "no permission")
    damage.apply(folder / "a")
    with bad_files.nobody(), pytest.raises(PermissionError):
        (folder / "a").read_bytes()


def test_what_is_read_from_a_file_that_is_not_there_counts_for_nothing(folder: Path) -> None:
    reader = Reader("one", _make, _short, optional=True)
    absent = Damage("directory", "in its place", Path.mkdir)
    for value, problem in (("without", None), ("good", "it was read")):
        found = Outcome(value=value)
        assert complaint(reader, absent, folder / "a", found, "good", "without") == problem
