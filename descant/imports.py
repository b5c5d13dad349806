"""The modules with words of one's own, for the command line and the server.

Whoever starts them names the modules: as packages that are installed, by the entry points of
``descant.operators``, or by ``--import``. No formula, run file or request has a say in it. It must
stay light: a shell that completes a command imports it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from .errors import ArgumentError, DescantError

GROUP = "descant.operators"
_imported: list[str] = []  # by --import, for the processes that this one starts


def import_words(modules: Sequence[str] = ()) -> None:
    """Import what the installed packages name in ``descant.operators``, and then these modules.

    A module may lie in the folder where the command is started: that is looked at last, so that
    no file there stands for a package that is installed.

    Raises:
        ArgumentError: there is no such module, or importing one fails.
    """
    for entry in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        where = f"the entry point {entry.name} of {GROUP}"
        _import(entry.module, where, f"fix or uninstall the package {_package(entry)}")
    if modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for module in modules:
        cure = "give the name of a Python module that is installed, or lies here: my_words"
        _import(module, f"--import {module}", cure)
        if module not in _imported:
            _imported.append(module)


def imported() -> tuple[str, ...]:
    """The modules that ``--import`` has named."""
    return tuple(_imported)


def _import(module: str, where: str, cure: str) -> None:
    if not all(part.isidentifier() for part in module.split(".")):
        raise ArgumentError(f"{where}: {module!r} is not a module's name; {cure}")
    try:
        import_module(module)
    except DescantError as error:
        raise ArgumentError(f"{where}: {error}") from error
    except ModuleNotFoundError as error:
        raise ArgumentError(f"{where}: there is no module {error.name}; {cure}") from error
    except Exception as error:
        raise ArgumentError(f"{where} fails: {type(error).__name__}: {error}; {cure}") from error


def _package(entry: Any) -> str:
    return str(entry.dist.name if entry.dist is not None else entry.module)
