"""The options of ``descant bench``."""

from __future__ import annotations

from typing import Annotated

from ..options import File, Many, Word, many, option
from ..show.terminal import Screen


def bench(
    shape: Annotated[
        Word,
        option(
            "A published model's sizes, with random weights.", "llama-2-7b on a GPU, else small"
        ),
    ] = None,
    workload: Annotated[Many, many("NAME", "Measure this one alone", "all")] = None,
    batch_size: Annotated[int, option("Prompts at once.", min=1)] = 1,
    prompt_length: Annotated[int, option("Tokens of each.", min=1, max=8192)] = 128,
    max_new_tokens: Annotated[int, option("Tokens that are timed.", min=2)] = 32,
    runs: Annotated[int, option("Of each way; medians count.", min=1)] = 5,
    device: Annotated[Word, option("cpu, cuda, cuda:1.", "the GPU, if there is one")] = None,
    dtype: Annotated[
        Word, option("float32, bfloat16, float16.", "bfloat16 on a GPU, else float32")
    ] = None,
    capture: Annotated[
        bool | None,
        option(
            "Record our steps as CUDA graphs, with eager ones for comparison.",
            "on, on a GPU",
            "--capture/--no-capture",
            " /--enforce-eager",
        ),
    ] = None,
    output: Annotated[File, option("A file for every number, as JSON.")] = None,
) -> None:
    """This machine, measured: ours, plain transformers, the bare forwards, and the floor."""
    from .table import measured

    measured(
        Screen(), output, workload, shape=shape, device=device,
        batch_size=batch_size, dtype=dtype, prompt_length=prompt_length, new=max_new_tokens,
        runs=runs, capture=capture,
    )  # fmt: skip
