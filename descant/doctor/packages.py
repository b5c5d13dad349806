"""Python and packages: what is declared, what is installed, and the pip command for the difference.

What descant needs is read from its own declaration, so that this cannot differ from it.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..extras import ENABLES
from .findings import BROKEN, MISSING, OK, Finding, looked_at

if TYPE_CHECKING:
    from packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parents[2] / "pyproject.toml"
PYTHON = (3, 11)
UNIONS = ("all",)  # extras that are others together


@looked_at("packages", "Python", BROKEN)
def itself() -> Iterator[Finding]:
    """The interpreter, and where descant is."""
    said = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    old = sys.version_info < PYTHON
    cure = f"descant needs Python {'.'.join(map(str, PYTHON))} or later" if old else ""
    data = {"version": platform.python_version(), "executable": sys.executable}
    yield Finding("packages", "Python", BROKEN if old else OK, said, cure, data)
    where = Path(__file__).resolve().parents[1]
    kind = "a checkout" if CHECKOUT.is_file() else "installed"
    said = f"{__version__}, {kind} in {where}"
    yield Finding("packages", "descant", OK, said, "", {"version": __version__})


@looked_at("packages", "packages", BROKEN)
def required() -> Iterator[Finding]:
    """Every package that a plain install has, and whether its version is in the declared range."""
    plain, _ = declared()
    for requirement in plain:
        yield _required(requirement)


@looked_at("extras", "extras")
def extras() -> Iterator[Finding]:
    """Every optional extra: what it enables, what of it is here, and how to get the rest."""
    _, optional = declared()
    for extra in optional:
        if extra in UNIONS:
            continue
        here: dict[str, str] = {}
        lacking = []
        for requirement in dict.fromkeys(_all_of(extra, optional)):
            found = _version(requirement)
            if found is not None and _in_range(requirement, found):
                here[requirement.name] = found
            else:
                lacking.append(_bare(requirement))
        said = ENABLES.get(extra, "")
        if lacking:
            said += f"; missing: {', '.join(lacking)}"
        cure = _pip(extra) if lacking else ""
        data = {"installed": here, "missing": lacking}
        yield Finding("extras", f"descant[{extra}]", MISSING if lacking else OK, said, cure, data)


@looked_at("extras", "checkpoints")
def formats() -> Iterator[Finding]:
    """Which quantised checkpoints have the packages that read them."""
    from ..models.loading.quantized import PACKAGES, lacking

    needed = {method: lacking(method) for method in PACKAGES}
    read = [method for method, packages in needed.items() if not packages]
    said = f"quantised with {', '.join(read)} can be read" if read else "none that is quantised"
    cures = [
        f"{method}: pip install {' '.join(lacks)}" for method, lacks in needed.items() if lacks
    ]
    state = MISSING if cures else OK
    yield Finding("extras", "checkpoints", state, said, "\n  ".join(cures), {"missing": needed})


@looked_at("extras", "chromium")
def browser() -> Iterator[Finding]:
    """The browser that tests of pages run in; nothing else asks for one."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    said = "for the tests of pages alone; pictures need none"
    cure = "" if program else "apt-get install chromium"
    state = OK if program else MISSING
    yield Finding("extras", "chromium", state, said, cure, {"program": program})


def declared() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What descant requires, and what each extra adds: of the checkout, or of what is installed."""
    from packaging.requirements import Requirement

    if CHECKOUT.is_file():
        project = tomllib.loads(CHECKOUT.read_text(encoding="utf-8"))["project"]
        optional = project["optional-dependencies"]
        plain = [Requirement(line) for line in project["dependencies"]]
        return plain, {name: [Requirement(x) for x in lines] for name, lines in optional.items()}
    said = [Requirement(line) for line in requires("descant") or []]
    names = metadata("descant").get_all("Provides-Extra") or []
    plain = [one for one in said if one.marker is None or one.marker.evaluate({"extra": ""})]
    return plain, {
        extra: [one for one in said if one not in plain and _belongs(one, extra)] for extra in names
    }


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
    name, found = requirement.name, _version(requirement)
    data = {"version": found, "declared": str(requirement.specifier)}
    if found is not None and _in_range(requirement, found):
        return Finding("packages", name, OK, f"{found} ({requirement.specifier})", "", data)
    said = "is not installed"
    if found is not None:
        said = f"{found}, and descant is made for {requirement.specifier}"
    return Finding("packages", name, BROKEN, said, f'pip install "{_bare(requirement)}"', data)


def _version(requirement: Requirement) -> str | None:
    try:
        return version(requirement.name)
    except PackageNotFoundError:
        return None


def _in_range(requirement: Requirement, found: str) -> bool:
    return requirement.specifier.contains(found, prereleases=True)


def _bare(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _pip(extra: str) -> str:
    """The command for an extra: from the folder of a checkout, or by name."""
    where = CHECKOUT.parent if CHECKOUT.is_file() else "descant"
    return f'pip install {"-e " if CHECKOUT.is_file() else ""}"{where}[{extra}]"'
