"""``descant doctor``: what this machine has, what is missing, and what to do about it.

It asks and reports; it installs nothing, changes nothing, and shows no secret. This file is
imported with the command line, so that it imports nothing heavy; a check that fails is a finding.
"""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, Any

import typer
from rich.console import Console

from .findings import BROKEN, Finding, table

SCHEMA, WIDE = 1, 140


def doctor(
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """What this machine has, what is missing, what to do. Exits with 1 if descant cannot run."""
    found = examined()
    works = not any(finding.state == BROKEN for finding in found)
    if json:
        typer.echo(jsonlib.dumps(report(found), ensure_ascii=False, indent=2))
    else:
        screen = Console(highlight=False)
        screen = screen if screen.is_terminal else Console(width=WIDE, highlight=False)
        screen.print(table(found))
        screen.print("descant works here" if works else "descant does not work here yet")
    raise typer.Exit(0 if works else 1)


def examined() -> list[Finding]:
    """Every finding, in the order in which a cure helps: packages, devices, the hub, a decode."""
    from . import hub, machine, packages, trial

    found = [*packages.itself(), *packages.required()]
    missing = any(finding.state == BROKEN for finding in found)
    found += [*packages.extras(), *packages.formats(), *packages.browser(), *machine.torch_build()]
    found += [*machine.devices(), *machine.threads(), *machine.processes()]
    found += [*hub.cache(), *hub.account(), *hub.environment()]
    return [*found, *trial.weights(), *trial.decode(missing)]


def report(found: list[Finding]) -> dict[str, Any]:
    """The findings as JSON has them; ``works`` says whether a plain install does."""
    from .. import __version__

    return {
        "schema": SCHEMA,
        "descant": __version__,
        "works": not any(finding.state == BROKEN for finding in found),
        "findings": [finding.as_dict() for finding in found],
    }
