"""Arguments and options that several commands share: one name, one help and one meaning each.

It must stay light: a shell that completes a command imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

from typer import Argument, Context, Option

from .imports import import_words
from .results.exports import Format

Word: TypeAlias = str | None
File: TypeAlias = Path | None
Many: TypeAlias = list[str] | None


def option(text: str, default: str = "", *names: str, **more: Any) -> Any:
    """An option by its help; ``default`` says what holds where it has no value of its own."""
    return Option(*names, help=text, show_default=default or True, **more)


def many(metavar: str, text: str, default: str = "", *names: str) -> Any:
    """An option that may be repeated."""
    return option(f"{text}; may be repeated.", default, *names, metavar=metavar)


# A path has no completions of its own: every shell then offers its files.
RunFilePath = Annotated[Path, Argument(metavar="RUN.yaml")]
Overrides = Annotated[
    Many, many("KEY=VALUE", "A parameter or a dotted key, over the file's", "", "--set")
]


def _import_words(context: Context, modules: Many) -> Many:
    if not context.resilient_parsing:  # of a shell that completes a command
        import_words(modules or [])
    return modules


# It does its work itself, before any file is read.
Imports = Annotated[
    Many,
    option(
        "A module with operators and stages of your own; may be repeated.", "", "--import",
        metavar="MODULE", callback=_import_words, is_eager=True,
    ),
]  # fmt: skip
# None is the file's own. vLLM's name for steps without CUDA graphs means the same.
Capture = Annotated[
    bool | None,
    option(
        "Record steps as CUDA graphs, on a GPU.", "the file's, else on",
        "--capture/--no-capture", " /--enforce-eager",
    ),
]  # fmt: skip
PrefixCaching = Annotated[
    bool | None,
    option(
        "Keep what was read, for prompts that begin alike.", "the file's, else on",
        "--enable-prefix-caching/--no-enable-prefix-caching",
    ),
]  # fmt: skip
MemoryUtilization = Annotated[
    float | None,
    option(
        "The share of a GPU's memory that may be taken.", "the file's, else 0.9",
        "--gpu-memory-utilization", metavar="SHARE",
    ),
]  # fmt: skip
FormulaName = Annotated[
    Word, option("Which of the file's formulas, if several.", "", "--formula", metavar="NAME")
]
# A prompt is text, or the path of a JSON file that holds text, messages or token ids.
PROMPT = "PROMPT|FILE.json"
Chat = Annotated[bool, option("A prompt that is text is one user message.", "", "--chat")]
Formats = Annotated[
    list[Format] | None,
    option("Write this format, too, for others' scripts; may be repeated.", "", "--format"),
]
RayAddress = Annotated[
    Word,
    option(
        "Rows go over a Ray cluster: that of this machine, one on it, or one at an address.", "",
        "--ray", metavar="auto|local|ADDRESS",
    ),
]  # fmt: skip
RayActors = Annotated[
    int | None,
    option("With --ray: decoders at once.", "one for each GPU, else each node", min=1),
]
RayGpus = Annotated[
    float | None, option("With --ray: GPUs of each decoder.", "1 where there are some", min=0)
]
RayRows = Annotated[
    int | None, option("With --ray: rows of one task.", "up to four batches", min=1)
]
