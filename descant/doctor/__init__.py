"""``descant doctor``: what this machine has, what is missing, and what to do about it.

It installs nothing, changes nothing and shows no secret. The command line imports this file, so it
imports nothing heavy; a check that fails is a finding.
"""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer
from typer import Option

from .. import __version__
from ..show.terminal import Screen
from .findings import BROKEN, NOTE, Finding, guarded, table

SCHEMA = 1


def doctor(
    json: Annotated[bool, Option("--json", help="For machines.")] = False,
    gpu: Annotated[
        bool, Option("--gpu", help="Check kernels and recorded steps, for an issue.")
    ] = False,
) -> None:
    """What this machine has, what is missing, what to do. Exits with 1 if descant cannot run."""
    from . import gpu as on_a_gpu

    findings = on_a_gpu.examined() if gpu else examined()
    works = not any(finding.state == BROKEN for finding in findings)
    screen = Screen(soft_wrap=False).for_tables()
    if json:
        rows = [finding.as_dict() for finding in findings]
        report = {"schema": SCHEMA, "descant": __version__, "works": works, "findings": rows}
        typer.echo(jsonlib.dumps(report, ensure_ascii=False, indent=2))
    elif gpu:
        screen.write(on_a_gpu.markdown(findings))
    else:
        screen.print(table(findings))
        screen.print("descant works here" if works else "descant does not work here yet")
    raise typer.Exit(0 if works else 1)


def examined() -> list[Finding]:
    """Every finding, in the order of the cures: packages, devices, the hub, a decode."""
    from . import hub, machine, packages, trial

    findings: list[Finding] = []
    for area, state, check in (
        ("packages", BROKEN, packages.python),
        ("packages", BROKEN, packages.required),
        ("extras", NOTE, packages.extras),
        ("extras", NOTE, packages.checkpoints),
        ("extras", NOTE, packages.chromium),
        ("machine", BROKEN, machine.torch_build),
        ("machine", NOTE, machine.devices),
        ("machine", NOTE, machine.threads),
        ("machine", NOTE, machine.processes),
        ("hub", NOTE, hub.cache),
        ("hub", NOTE, hub.unpacked),
        ("hub", NOTE, hub.account),
        ("hub", NOTE, hub.environment),
        ("demo", BROKEN, trial.weights),
        ("demo", BROKEN, trial.decode),
    ):
        findings += guarded(check.__name__.replace("_", " "), check, state, area)
    return findings
