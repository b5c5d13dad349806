"""One way to write a file, and what is said where the disk refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from descant.disk import (
    KEPT,
    NEW,
    DiskError,
    filled,
    make_folder,
    reading,
    remove_partial,
    replace,
    resumable,
    saving,
    written,
)
from descant.errors import DescantError


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.ENOSPC, "No space left on device; make room there"),
        (errno.EDQUOT, "Disk quota exceeded; make room there"),
        (errno.EROFS, "Read-only file system; make it writable, or give another place"),
        (errno.EACCES, "Permission denied; make it writable, or give another place"),
        (errno.EMFILE, "Too many open files; raise the limit of open files (ulimit -n)"),
        (errno.EIO, "Input/output error; look at the disk, or give another place"),
        (errno.ELOOP, "Too many levels of symbolic links"),
    ],
)
def test_each_error_has_its_words_and_its_cure(code: int, says: str, tmp_path: Path) -> None:
    file = tmp_path / "out"
    with pytest.raises(DiskError) as caught, saving(file):
        raise OSError(code, os.strerror(code))
    assert str(caught.value) == f"{file} cannot be written: {says}"
    with pytest.raises(DiskError) as caught, resumable(), saving(file):
        raise OSError(code, os.strerror(code), str(file / "in" / "it"))
    assert str(caught.value) == f"{file} cannot be written: {says}; {KEPT}"


def test_what_cannot_be_read_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught, reading(tmp_path / "a"):
        (tmp_path / "a").read_text()
    assert str(caught.value) == f"{tmp_path / 'a'} cannot be read: No such file or directory"
    with pytest.raises(DiskError, match="Permission denied; make it readable"), reading(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(FileNotFoundError), saving(tmp_path / "out"):
        (tmp_path / "elsewhere").read_text()  # another file than the one that is written


@pytest.mark.parametrize(
    "words",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "No space left on device (os error 28)",
    ],
)
def test_the_words_of_libraries_in_rust(words: str, tmp_path: Path) -> None:
    says = "No space left on device; make room there"
    with pytest.raises(DiskError, match=says), saving(tmp_path / "out"):
        raise Exception(words)


def test_a_library_that_stumbles_while_it_tidies_up(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="No space left"), saving(tmp_path / "out"):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            None.pos  # noqa: B018


def test_other_errors_are_other_errors(tmp_path: Path) -> None:
    for error in (RuntimeError("shapes differ"), KeyError("a"), DescantError("no")):
        with pytest.raises(type(error)) as caught, written(tmp_path / "out") as partial:
            partial.write_text("half")
            raise error
        assert caught.value is error
    assert not list(tmp_path.iterdir())


def test_a_file_or_a_folder_is_there_at_once(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("old")
    with written(tmp_path / "page.html") as partial:
        partial.write_text("new")
        assert (tmp_path / "page.html").read_text() == "old" and partial.suffix == ".html"
    assert (tmp_path / "page.html").read_text() == "new"
    (tmp_path / f"{NEW}model").mkdir()  # of a process that was killed
    for _ in range(2):  # and of two that write the same, the first one's stays
        with written(tmp_path / "deep" / "model", shared=True) as partial:
            partial.mkdir()
            (partial / "weights").write_text("1")
    assert os.listdir(tmp_path / "deep") == ["model"]
    remove_partial(tmp_path)
    with filled(tmp_path / "deep") as partial:
        (partial / "a").write_text("1")
        assert os.listdir(partial.parent) != ["a"]
    assert sorted(os.listdir(tmp_path / "deep")) == ["a", "model"]
    assert sorted(os.listdir(tmp_path)) == ["deep", "page.html"]
    with pytest.raises(DiskError, match=r"page.html cannot be written: File exists"):
        make_folder(tmp_path / "page.html")
    with pytest.raises(DiskError, match=r"cannot be written: .*directory"):
        replace(tmp_path / "deep", "text")
