"""``descant …`` in this process: the same parser and handler of errors, without a start."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from subprocess import CompletedProcess
from typing import Any
from unittest import mock

from descant.cli import main


def command(*arguments: Any, cwd: Any = None) -> CompletedProcess[str]:
    """What ``python -m descant`` prints, and its exit code."""
    words, out, err, code = ["descant", *map(str, arguments)], io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(cwd or os.curdir),
        mock.patch.object(sys, "argv", words),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return CompletedProcess(words, code, out.getvalue(), err.getvalue())
