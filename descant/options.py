"""What several commands take, said once: one name, one help and one meaning everywhere.

It must stay light: a shell that completes a command reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .completion import run_files
from .results.exports import Format

RunFilePath = Annotated[Path, typer.Argument(metavar="RUN.yaml", autocompletion=run_files)]
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
