"""The options of ``descant bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def bench(
    shape: Annotated[
        str | None,
        typer.Option(
            help="A published model's sizes, with random weights.",
            show_default="llama-2-7b on a GPU, else small",
        ),
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Measure this one alone; may be repeated.", show_default="all"
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at once.")] = 1,
    prompt_length: Annotated[int, typer.Option(min=1, max=8192, help="Tokens of each.")] = 128,
    max_new_tokens: Annotated[int, typer.Option(min=2, help="Tokens that are timed.")] = 32,
    runs: Annotated[int, typer.Option(min=1, help="Of each way; medians count.")] = 5,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1.", show_default="the GPU, if there is one")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16, float16.", show_default="bfloat16 on a GPU, else float32"
        ),
    ] = None,
    capture: Annotated[
        bool, typer.Option("--capture", help="Replay our steps as CUDA graphs.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="A file for every number, as JSON.")] = None,
) -> None:
    """This machine, measured: ours, plain transformers, the bare forwards, and the floor."""
    from .table import measured

    measured(
        Console(highlight=False, soft_wrap=True), output, workload, shape=shape, device=device,
        batch_size=batch_size, dtype=dtype, prompt_length=prompt_length, new=max_new_tokens,
        runs=runs, capture=capture,
    )  # fmt: skip
