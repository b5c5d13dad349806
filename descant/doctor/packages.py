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
from ..extras import ENABLES
from .findings import BROKEN, MISSING, OK, Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parents[2] / "pyproject.toml"
PYTHON = (3, 11)
UNIONS = ("all",)  # extras that are made of others


def python() -> Iterator[Finding]:
    """The interpreter, and descant's folder."""
    message = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    old = sys.version_info < PYTHON
    cure = f"descant needs Python {'.'.join(map(str, PYTHON))} or later" if old else ""
    data = {"version": platform.python_version(), "executable": sys.executable}
    yield Finding("Python", BROKEN if old else OK, message, cure, data)
    where = Path(__file__).resolve().parents[1]
    kind = "a checkout" if CHECKOUT.is_file() else "installed"
    message = f"{__version__}, {kind} in {where}"
    yield Finding("descant", OK, message, "", {"version": __version__})


def required() -> Iterator[Finding]:
    """Every package of a plain install, and whether its version is in the declared range."""
    plain, _ = declared()
    for requirement in plain:
        yield _required(requirement)


def extras() -> Iterator[Finding]:
    """Every optional extra: what it enables, what is installed, and how to get the rest."""
    _, optional = declared()
    for extra in optional:
        if extra in UNIONS:
            continue
        present: dict[str, str] = {}
        missing = []
        for requirement in dict.fromkeys(_all_of(extra, optional)):
            version = _version(requirement)
            if version is not None and _in_range(requirement, version):
                present[requirement.name] = version
            else:
                missing.append(_bare(requirement))
        message = ENABLES.get(extra, "")
        if missing:
            message += f"; missing: {', '.join(missing)}"
        cure = _pip(extra) if missing else ""
        data = {"installed": present, "missing": missing}
        yield Finding(f"descant[{extra}]", MISSING if missing else OK, message, cure, data)


def checkpoints() -> Iterator[Finding]:
    """Which quantised checkpoints can be loaded with the installed packages."""
    from ..models.loading.quantized import PACKAGES, missing_packages

    needed = {method: missing_packages(method) for method in PACKAGES}
    ready = [method for method, packages in needed.items() if not packages]
    message = (
        f"quantised with {', '.join(ready)} can be read" if ready else "none that is quantised"
    )
    cures = [
        f"{method}: pip install {' '.join(names)}" for method, names in needed.items() if names
    ]
    state = MISSING if cures else OK
    yield Finding("checkpoints", state, message, "\n  ".join(cures), {"missing": needed})


def chromium() -> Iterator[Finding]:
    """The browser that the tests of pages run in; nothing else needs one."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    message = "for the tests of pages alone; pictures need none"
    cure = "" if program else "apt-get install chromium"
    state = OK if program else MISSING
    yield Finding("chromium", state, message, cure, {"program": program})


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


def _required(requirement: Requirement) -> Finding:
    name, version = requirement.name, _version(requirement)
    data = {"version": version, "declared": str(requirement.specifier)}
    if version is not None and _in_range(requirement, version):
        return Finding(name, OK, f"{version} ({requirement.specifier})", "", data)
    message = "is not installed"
    if version is not None:
        message = f"{version}, and descant is made for {requirement.specifier}"
    return Finding(name, BROKEN, message, f'pip install "{_bare(requirement)}"', data)


def _version(requirement: Requirement) -> str | None:
    try:
        return installed_version(requirement.name)
    except PackageNotFoundError:
        return None


def _in_range(requirement: Requirement, version: str) -> bool:
    return requirement.specifier.contains(version, prereleases=True)


def _bare(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _pip(extra: str) -> str:
    """The command for an extra: from the folder of a checkout, or by name."""
    where = CHECKOUT.parent if CHECKOUT.is_file() else "descant"
    return f'pip install {"-e " if CHECKOUT.is_file() else ""}"{where}[{extra}]"'
