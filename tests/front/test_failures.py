"""What a command says when it fails: a mistake of the user's in a line, a bug as a bug."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import command

import descant
from descant.errors import ArgumentError, ArgumentTypeError, DescantError
from descant.failures import run_app


def says(error: Exception, capsys: Any) -> tuple[int, str]:
    """The exit code of a command that raises an error, and what it prints."""

    def fails() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_app(fails)
    return int(caught.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("kind", [TypeError, ValueError, KeyError, OSError, UnicodeError])
def test_what_nobody_raised_on_purpose_is_a_bug(kind, capsys) -> None:
    code, said = says(kind("unsupported operand"), capsys)
    assert code == 70 and "this is a bug in descant" in said and "unsupported operand" in said
    assert "Traceback" not in said
    file = Path(re.search(r"its trace is in (\S+)", said)[1])
    trace = file.read_text(encoding="utf-8")
    file.unlink()
    assert f"descant {descant.__version__}" in trace
    assert "in fails" in trace and f"raise error\n{kind.__name__}: " in trace


def test_what_is_raised_on_purpose_is_a_line(capsys) -> None:
    for error in (ArgumentError("n is 0"), ArgumentTypeError("no argument n")):
        code, said = says(error, capsys)
        assert code == 2 and said == f"{error}\n"


def test_too_little_memory_is_no_bug(capsys) -> None:
    import torch

    for error in (torch.OutOfMemoryError("CUDA out of memory."), MemoryError()):
        code, said = says(error, capsys)
        assert code == 2 and "too little memory" in said and "fewer or shorter rows" in said


def test_errors_of_the_system_are_told_in_words(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        run_app(lambda: (tmp_path / "file" / "out").mkdir())
    assert caught.value.code == 2
    said = capsys.readouterr().err.replace("\n", "")
    assert said.endswith("file/out cannot be read or written: Not a directory")
    code, said = says(OSError(errno.EIO, "Input/output error"), capsys)
    assert code == 2 and said == "the output cannot be read or written: Input/output error\n"


def test_a_bug_of_a_command(monkeypatch) -> None:
    from descant.show import explain

    def wrong(request: Any) -> None:
        return None + request

    monkeypatch.setattr(explain, "explained", wrong)
    done = command("explain", "base")
    assert done.returncode == 70 and "bug in descant" in done.stderr
    Path(re.search(r"its trace is in (\S+)", done.stderr)[1]).unlink()
    done = command("--debug", "explain", "base")
    assert done.returncode == 70 and "its trace is in" not in done.stderr
    assert "Traceback" in done.stderr and "in wrong" in done.stderr


def test_all_errors_for_users_have_one_base() -> None:
    from descant.compat.refused import Untranslatable
    from descant.extras import MissingExtra
    from descant.inputs.formats import DataError
    from descant.inputs.grid import GridError
    from descant.inputs.runfile import RunFileError
    from descant.inputs.yaml import YamlError
    from descant.train.trainfile import TrainFileError

    values = (descant.FormulaError, descant.ModelError, DataError, GridError, RunFileError)
    for kind in (*values, YamlError, TrainFileError, MissingExtra, ArgumentError):
        assert issubclass(kind, DescantError) and issubclass(kind, ValueError)
    assert issubclass(Untranslatable, DescantError)
    assert descant.DescantError is DescantError
    table = descant.TableModel.random(vocabulary=8, seed=0)
    decoder = descant.compile("base", {"base": table})
    with pytest.raises(DescantError, match="temperature is -1"):
        decoder.generate([1], temperature=-1)
    with pytest.raises(DescantError, match="no argument max_length"):
        decoder.generate([1], max_length=3)
    with pytest.raises(TypeError, match="no argument"):
        descant.compile("base", {"base": table}, torch_dtype="float32")
