"""Python and packages: what is declared, what is installed, and the pip command for the rest.

Requirements are read from descant's own declaration, so that they cannot differ from it.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, requires
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..extras import CHECKOUT, ENABLES, pip_install
from .findings import BROKEN, MISSING, Finding, checked

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PYTHON = (3, 11)
UNIONS = ("all",)  # extras that are made of others


def python() -> Iterator[Finding]:
    """The interpreter, and descant's folder."""
    message = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    old = sys.version_info < PYTHON
    cure = f"descant needs Python {'.'.join(map(str, PYTHON))} or later" if old else ""
    data = {"version": platform.python_version(), "executable": sys.executable}
    yield checked("Python", message, cure, BROKEN, **data)
    kind = "a checkout" if CHECKOUT.is_file() else "installed"
    message = f"{__version__}, {kind} in {Path(__file__).resolve().parents[1]}"
    yield checked("descant", message, version=__version__)


def required() -> Iterator[Finding]:
    """Every package of a plain install, and whether its version is in the declared range."""
    for requirement in declared()[0]:
        name, version = requirement.name, _version(requirement)
        data = {"version": version, "declared": str(requirement.specifier)}
        message, cure = f"{version} ({requirement.specifier})", ""
        if not _fitting(requirement):
            message = f"{version}, and descant is made for {requirement.specifier}"
            message = "is not installed" if version is None else message
            cure = f'pip install "{_bare(requirement)}"'
        yield checked(name, message, cure, BROKEN, **data)


def extras() -> Iterator[Finding]:
    """Every optional extra: what it enables, what is installed, and how to get the rest."""
    optional = declared()[1]
    for extra in [name for name in optional if name not in UNIONS]:
        requirements = [*dict.fromkeys(_all_of(extra, optional))]
        fits = {item.name: version for item in requirements if (version := _fitting(item))}
        missing = [_bare(item) for item in requirements if item.name not in fits]
        message = ENABLES.get(extra, "") + (f"; missing: {', '.join(missing)}" if missing else "")
        cure, data = pip_install(extra) if missing else "", {"installed": fits, "missing": missing}
        yield checked(f"descant[{extra}]", message, cure, MISSING, **data)


def checkpoints() -> Iterator[Finding]:
    """Which quantised checkpoints can be loaded with the installed packages."""
    from ..models.loading.quantized import PACKAGES, missing_packages

    needed = {method: missing_packages(method) for method in PACKAGES}
    ready = ", ".join(method for method, names in needed.items() if not names)
    message = f"quantised with {ready} can be read" if ready else "none that is quantised"
    packages = {method: " ".join(names) for method, names in needed.items() if names}
    cure = "\n  ".join(f"{method}: pip install {names}" for method, names in packages.items())
    yield checked("checkpoints", message, cure, MISSING, missing=needed)


def chromium() -> Iterator[Finding]:
    """The browser that the tests of pages run in; nothing else needs one."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    message = "for the tests of pages alone; pictures need none"
    cure = "" if program else "apt-get install chromium"
    yield checked("chromium", message, cure, MISSING, program=program)


def declared() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What descant requires, and what each extra adds: of the checkout, or of what is installed."""
    from packaging.requirements import Requirement

    if CHECKOUT.is_file():
        project = tomllib.loads(CHECKOUT.read_text(encoding="utf-8"))["project"]
        optional = project["optional-dependencies"]
        plain = [Requirement(line) for line in project["dependencies"]]
        return plain, {name: [Requirement(x) for x in lines] for name, lines in optional.items()}
    every = [Requirement(line) for line in requires("descant") or []]
    names = metadata("descant").get_all("Provides-Extra") or []
    plain = [requirement for requirement in every if _belongs(requirement, "")]
    optional = [requirement for requirement in every if requirement not in plain]
    return plain, {name: [one for one in optional if _belongs(one, name)] for name in names}


def _belongs(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _all_of(extra: str, optional: Mapping[str, list[Requirement]]) -> Iterator[Requirement]:
    """An extra's requirements, with those of the extras that it is made of."""
    for requirement in optional.get(extra, ()):
        if requirement.name == "descant":
            for part in sorted(requirement.extras):
                yield from _all_of(part, optional)
        elif _belongs(requirement, extra):
            yield requirement


def _version(requirement: Requirement) -> str | None:
    try:
        return installed_version(requirement.name)
    except PackageNotFoundError:
        return None


def _fitting(requirement: Requirement) -> str | None:
    """The installed version, where it is in the declared range."""
    version = _version(requirement)
    fits = version is not None and requirement.specifier.contains(version, prereleases=True)
    return version if fits else None


def _bare(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"
