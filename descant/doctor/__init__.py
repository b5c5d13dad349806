"""``descant doctor``: what this machine has, what is missing, and what to do about it.

It installs nothing, changes nothing and shows no secret. The command line imports this file, so it
imports nothing heavy; a check that fails is a finding.
"""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer
from rich.console import Console

from .. import __version__
from .findings import BROKEN, Finding, table

SCHEMA, WIDE = 1, 140


def doctor(
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """What this machine has, what is missing, what to do. Exits with 1 if descant cannot run."""
    findings = examined()
    works = not any(finding.state == BROKEN for finding in findings)
    if json:
        report = {
            "schema": SCHEMA,
            "descant": __version__,
            "works": works,
            "findings": [finding.as_dict() for finding in findings],
        }
        typer.echo(jsonlib.dumps(report, ensure_ascii=False, indent=2))
    else:
        screen = Console(highlight=False)
        screen = screen if screen.is_terminal else Console(width=WIDE, highlight=False)
        screen.print(table(findings))
        screen.print("descant works here" if works else "descant does not work here yet")
    raise typer.Exit(0 if works else 1)


def examined() -> list[Finding]:
    """Every finding, in the order of the cures: packages, devices, the hub, a decode."""
    from . import hub, machine, packages, trial

    findings = [*packages.python(), *packages.required()]
    broken = any(finding.state == BROKEN for finding in findings)
    for check in (
        packages.extras, packages.formats, packages.browser, machine.torch_build, machine.devices,
        machine.threads, machine.processes, hub.cache, hub.account, hub.environment, trial.weights,
    ):  # fmt: skip
        findings += check()
    return findings + trial.decode(broken)
