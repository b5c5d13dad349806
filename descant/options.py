"""Arguments and options that several commands share: one name, one help and one meaning each.

It must stay light: a shell that completes a command imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .results.exports import Format

# A path has no completions of its own: every shell then offers its files.
RunFilePath = Annotated[Path, typer.Argument(metavar="RUN.yaml")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A parameter or a dotted key, over the file's; may be repeated.",
    ),
]
FormulaName = Annotated[
    str | None,
    typer.Option("--formula", metavar="NAME", help="Which of the file's formulas, if several."),
]
Formats = Annotated[
    list[Format] | None,
    typer.Option("--format", help="Write this format, too, for others' scripts; may be repeated."),
]
