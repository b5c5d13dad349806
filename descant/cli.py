"""The command line. It parses arguments and prints; the work is done elsewhere.

A user's mistake is printed on standard error, and the exit code is 2; for a bug it is 70.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument

from . import __version__
from .bench.command import bench
from .doctor import doctor
from .failures import Traces, resumable, run_app
from .harness.command import PASSED_ON, evaluate
from .options import (
    PROMPT,
    Capture,
    Chat,
    File,
    Formats,
    FormulaName,
    Imports,
    Many,
    MemoryUtilization,
    Overrides,
    PrefixCaching,
    RayActors,
    RayAddress,
    RayGpus,
    RayRows,
    RunFilePath,
    Word,
    many,
    option,
)
from .results.exports import export
from .serve.command import serve
from .show.pages import docs
from .show.quiet import quiet_imports
from .show.terminal import Screen, visible

app = typer.Typer(
    name="descant",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Screen()


def main() -> None:
    """Run the command line."""
    quiet_imports()
    run_app(partial(app, prog_name="descant"))


def _version(value: bool) -> None:
    if value:
        console.print(f"descant {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, option("Print the version.", "", "--version", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, option("Print the trace of a bug; else it goes to a file.", "", "--debug")
    ] = False,
) -> None:
    """Combine language models while they decode: one formula, one batched step."""
    Traces.on_screen = debug


@app.command()
def demo(
    output: Annotated[Path, option("Where the picture and the table go.")] = Path("runs/demo"),
    prompts: Annotated[
        int | None, option("Prompts in the sweep.", "16; 6 with --chat", min=1, max=16)
    ] = None,
    max_new_tokens: Annotated[
        int | None, option("Tokens of a completion.", "56; 128 with --chat", min=8)
    ] = None,
    chat: Annotated[
        bool, option("Steer a real chat model, SmolLM2-135M-Instruct.", "", "--chat")
    ] = False,
) -> None:
    """The built-in models, end to end, with a picture at the end."""
    if chat:
        from .demo.chat import chat_tour

        chat_tour(console, output, prompts or 6, max_new_tokens or 128)
        return
    from .demo.tour import tour

    tour(console, output, prompts or 16, max_new_tokens or 56)


app.command()(doctor)
app.command()(docs)


@app.command()
def explain(
    formula: Annotated[str, Argument(metavar="FORMULA|RUN.yaml")],
    set_: Overrides = None,
    import_: Imports = None,
    name: FormulaName = None,
    model: Annotated[Many, many("NAME=PATH", "Declare a model", "the demo models")] = None,
    param: Annotated[Many, many("NAME=VALUE", "Declare a parameter")] = None,
    render: Annotated[Word, option("What each model reads of this prompt.", metavar=PROMPT)] = None,
    chat: Chat = False,
    render_first: Annotated[
        bool, option("The same of the run file's first prompt.", "", "--render-first")
    ] = False,
    devices: Annotated[
        Word, option("What goes where on GPUs that are not here: 8xH200.", metavar="[NODESx]NxGPU")
    ] = None,
    batch_size: Annotated[int, option("Requests at once, with --devices.", "1", min=1)] = 1,
    context: Annotated[int, option("Tokens of each, with --devices.", "512", min=1)] = 512,
) -> None:
    """The plan: terms, forwards, bytes per token, and the floor that they set. Reads no weights."""
    from .show.explain import ExplainRequest, explained, rendering, target

    _check_chat(chat and render is None, "--render")
    on = None if devices is None else target(devices, batch_size, context)
    request = ExplainRequest(formula, model or [], param or [], set_ or [], name, on)
    if render is not None or render_first:
        from .show.token_boundaries import show

        show(console, rendering(request, render, chat))
        return
    console.print(explained(request))


@app.command()
@resumable()
def run(
    file: RunFilePath,
    set_: Overrides = None,
    import_: Imports = None,
    formula: FormulaName = None,
    prompt: Annotated[Many, many(PROMPT, "Instead of the file's data")] = None,
    chat: Chat = False,
    capture: Capture = None,
    enable_prefix_caching: PrefixCaching = None,
    gpu_memory_utilization: MemoryUtilization = None,
    output: Annotated[
        File, option("The folder for completions.jsonl.", "the file's output")
    ] = None,
    format_: Formats = None,
    ray: RayAddress = None,
    ray_actors: RayActors = None,
    ray_gpus: RayGpus = None,
    ray_rows: RayRows = None,
) -> None:
    """Prompts to completions: to the screen, or as JSON lines into the run's output folder."""
    from .cluster.command import run_rows
    from .cluster.options import ray_options
    from .inputs.prompts import command_line_prompt, read_items
    from .inputs.runfile import RunFileError, read_run_file
    from .results.lock import check_free
    from .runs.processes import prints
    from .runs.run import compiled, of_one_formula

    run_file = read_run_file(
        file, set_ or [], capture=capture, enable_prefix_caching=enable_prefix_caching,
        gpu_memory_utilization=gpu_memory_utilization,
    )  # fmt: skip
    run_file = of_one_formula(run_file, formula)
    _check_chat(chat and not prompt, "--prompt")
    on_ray = ray_options(ray, ray_actors, ray_gpus, ray_rows)
    if on_ray is not None and prompt:
        raise RunFileError("--ray is for the rows of a run file's data; leave out --prompt")
    if prompt:
        prompts = [command_line_prompt(argument, chat) for argument in prompt]
        completions = compiled(run_file).generate(prompts, **run_file.generate.model_dump())
        _show(completions if prints() else [])
        return
    if run_file.data is None:
        raise RunFileError(f"{file} has no data; add data: {{path: …}}, or give --prompt")
    folder = _folder(file, output, run_file.output)
    read_items(run_file.data)  # its mistakes, and another writer, are told before weights are read
    if prints():
        check_free(folder)
    written = run_rows(run_file, folder, on_ray)
    if not prints():
        return
    lines = folder / "completions.jsonl"
    total = sum(1 for _ in lines.open(encoding="utf-8")) if lines.is_file() else 0
    console.print(f"{lines}: {written} completions written, {total} in all")
    _print_files(export(folder, format_ or []))


@app.command()
@resumable()
def sweep(
    file: RunFilePath,
    set_: Overrides = None,
    import_: Imports = None,
    capture: Capture = None,
    enable_prefix_caching: PrefixCaching = None,
    gpu_memory_utilization: MemoryUtilization = None,
    output: Annotated[File, option("The run's folder.", "the file's output")] = None,
    format_: Formats = None,
    ray: RayAddress = None,
    ray_actors: RayActors = None,
    ray_gpus: RayGpus = None,
    ray_rows: RayRows = None,
) -> None:
    """Every formula at every point over every prompt: decoded, scored, and set against each other.

    Killed and started again, it resumes where it stopped. With accelerate launch -m descant sweep
    RUN.yaml, every process takes its share; with --ray, the nodes of a cluster do.
    """
    from .cluster.command import sweep_rows
    from .cluster.options import ray_options
    from .inputs.runfile import read_run_file

    run_file = read_run_file(
        file, set_ or [], capture=capture, enable_prefix_caching=enable_prefix_caching,
        gpu_memory_utilization=gpu_memory_utilization,
    )  # fmt: skip
    folder = _folder(file, output, run_file.output)
    on_ray = ray_options(ray, ray_actors, ray_gpus, ray_rows)
    sweep_rows(run_file, folder, console.for_tables(), on_ray)
    _print_files(export(folder, format_ or [], by_point=True))


@app.command()
@resumable()
def fit(
    file: RunFilePath,
    set_: Overrides = None,
    import_: Imports = None,
    formula: FormulaName = None,
    capture: Capture = None,
    enable_prefix_caching: PrefixCaching = None,
    gpu_memory_utilization: MemoryUtilization = None,
    resume: Annotated[
        bool, option("Go on where an earlier fit was stopped.", "", "--resume/--no-resume")
    ] = True,
    output: Annotated[File, option("The folder of the fit.", "the file's output")] = None,
) -> None:
    """A formula's parameters, found instead of guessed: from texts, preferences or rewards.

    fitted.yaml is the run file with the values put in; report.html shows how sure they are.
    """
    from .fit.command import fit_run
    from .inputs.runfile import read_run_file
    from .runs.run import of_one_formula

    run_file = read_run_file(
        file, set_ or [], capture=capture, enable_prefix_caching=enable_prefix_caching,
        gpu_memory_utilization=gpu_memory_utilization,
    )  # fmt: skip
    folder = _folder(file, output, run_file.output)
    fit_run(of_one_formula(run_file, formula), folder, console.for_tables(), resume)


@app.command()
@resumable()
def compare(
    ours: Annotated[str, Argument(metavar="RUN_A[#FORMULA[:POINT]]")],
    theirs: Annotated[str, Argument(metavar="RUN_B[#FORMULA[:POINT]]")],
    by: Annotated[Word, option("A reward model, its name or a path; or an expression.")] = None,
    judge: Annotated[Word, option("An OpenAI-compatible judge.", metavar="openai:MODEL")] = None,
    base_url: Annotated[Word, option("The judge's server.", "OpenAI's")] = None,
    max_calls: Annotated[int | None, option("Of the judge, in all.", min=1)] = None,
    max_tokens: Annotated[
        int | None, option("Tokens that the judge reads and writes, in all.", min=1)
    ] = None,
    timeout: Annotated[float, option("Seconds for one verdict.", min=0.1)] = 60.0,
    cache: Annotated[File, option("A file that keeps verdicts.", "verdicts.jsonl in RUN_A")] = None,
    output: Annotated[File, option("A file for the verdict, as JSON.")] = None,
) -> None:
    """Which of two runs answers better: by a reward model or a judge, or by their scores.

    Without --by and --judge, every score that both have recorded is compared, and RUN_A may be
    several points.
    """
    from .compare.compare import compared
    from .compare.recorded import scores_compared

    if by is None and judge is None:
        scores_compared(console.for_tables(), (ours, theirs), output)
        return
    compared(
        console, (ours, theirs), by, judge, base_url=base_url, calls=max_calls, tokens=max_tokens,
        timeout=timeout, cache=cache, output=output,
    )  # fmt: skip


@app.command()
def inspect(
    file: RunFilePath,
    prompt: Annotated[str, Argument(metavar=PROMPT, help="What to complete.")],
    chat: Chat = False,
    set_: Overrides = None,
    import_: Imports = None,
    formula: FormulaName = None,
    capture: Capture = None,
    enable_prefix_caching: PrefixCaching = None,
    gpu_memory_utilization: MemoryUtilization = None,
    top: Annotated[int, option("Candidates per token.", min=1)] = 10,
    base: Annotated[
        Word, option("Whose own choice is compared.", "the first", metavar="TERM")
    ] = None,
    output: Annotated[
        File,
        option(
            "The folder for inspect.html and inspect.json.", "the file's output, or runs/inspect"
        ),
    ] = None,
    figure: Annotated[File, option("A .png, .svg or .pdf of it as well.")] = None,
) -> None:
    """Why each token was chosen: the scores of every term and the reward for the candidates."""
    from .inputs.prompts import command_line_prompt
    from .inputs.runfile import read_run_file
    from .runs.run import of_one_formula
    from .show.inspection import inspected, table, write

    run_file = read_run_file(
        file, set_ or [], capture=capture, enable_prefix_caching=enable_prefix_caching,
        gpu_memory_utilization=gpu_memory_utilization,
    )  # fmt: skip
    run_file = of_one_formula(run_file, formula)
    inspection = inspected(run_file, command_line_prompt(prompt, chat), top, base)
    console.for_tables().print(table(inspection))
    files = write(inspection, output or Path(run_file.output or "runs/inspect"))
    if figure is not None:
        from .report.inspection_figure import write_inspection_figure

        files.append(write_inspection_figure(inspection, figure))
    _print_files(files)


@app.command()
def report(folder: Annotated[Path, Argument(metavar="FOLDER", help="A sweep's.")]) -> None:
    """A sweep's folder as one HTML page and figures; while it runs, too."""
    from .report import write
    from .results import load

    _print_files(write(load(folder), folder))


app.command("eval", context_settings=PASSED_ON)(evaluate)
app.command()(serve)


@app.command()
@resumable()
def train(
    method: Annotated[str, Argument(metavar="arm|dpo|reward|sft|distill|vector|probe")],
    recipe: Annotated[File, Argument(metavar="RECIPE.yaml")] = None,
    model: Annotated[Word, option("The checkpoint to begin with.", "the file's")] = None,
    data: Annotated[Word, option("A file, or the name of a dataset.", "the file's")] = None,
    output: Annotated[Word, option("The folder to write.", "the file's")] = None,
    set_: Annotated[
        Many, many("KEY=VALUE", "A training argument or a dotted key, over the file's", "", "--set")
    ] = None,
) -> None:
    """Train a model, or measure what its hidden states say.

    arm (an autoregressive reward model), dpo (an expert) and reward (a reward model) read pairs:
    prompt, chosen, rejected. sft reads prompt and completion, messages, or text. distill reads
    prompts, and a run file as its teacher. vector (a steering vector) reads pairs, and probe (a
    linear head) texts with a label: both read hidden states once, and change no weights.

    A file is .jsonl, .json, .csv or .parquet, or the name of a dataset. arm, dpo and sft end with
    a check: what the model does to held-out prompts at three weights.
    """
    from .train.command import read_train_file, run_train_file

    train_file = read_train_file(method, recipe, set_ or [], model=model, data=data, output=output)
    run_train_file(train_file, lambda line: console.print(line))


app.command()(bench)


def _check_chat(without_prompt: bool, name: str) -> None:
    """Refuse ``--chat`` where there is no prompt of the command line that it could be for."""
    from .inputs.runfile import RunFileError

    if without_prompt:
        cure = "for a run file's data write data: {chat: true}"
        raise RunFileError(f"--chat is for the prompt of {name}; {cure}")


def _show(completions: list[Any]) -> None:
    from rich.text import Text

    from .results.exports import instruction

    for completion in completions:
        if len(completions) > 1:
            title = instruction(completion.prompt).replace("\n", " ")[:80]
            console.rule(Text(visible(title)), align="left")
        text = completion.text if completion.text is not None else completion.token_ids
        console.write(str(text))


def _folder(file: Path, option: Path | None, output: str | None) -> Path:
    from .inputs.runfile import RunFileError

    if option is None and output is None:
        raise RunFileError(f"{file} has no output; add output: runs/name, or give --output")
    return option or Path(str(output))


def _print_files(files: Iterable[Path]) -> None:
    for file in files:
        console.print(str(file))
