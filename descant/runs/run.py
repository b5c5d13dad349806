"""``descant run``: prompts to completions, one JSON line each, written when it is finished.

A run that is killed resumes without a lost or a doubled line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api import where
from ..errors import DescantError
from ..grammar import FormulaError, did_you_mean
from ..inputs.expand import Row, key_of
from ..inputs.prompts import read_items, readable
from ..inputs.runfile import RunFile, RunFileError
from ..inputs.sections import FORMULA
from ..results.folder import COMPLETIONS, META, Journal, Record
from .origins import origins
from .processes import prints, this_process, world_size
from .provenance import add_to_meta, meta_of, now, provenance
from .resume import resumed

if TYPE_CHECKING:
    from ..runtime import Completion, Decoder

Completed = Iterator[tuple[int, "Completion"]]  # each with the index of its row


def of_one_formula(run: RunFile, name: str | None, how: str = "--formula") -> RunFile:
    """The same run with one of its formulas alone.

    ``name`` is None where there is but one; ``how`` is what a user chooses one with, for messages.

    Raises:
        RunFileError: no such formula, or several and none chosen.
    """
    if name is None:
        if len(run.named) > 1:
            problem = f"this run file has several formulas ({', '.join(run.formulas)})"
            raise RunFileError(f"{problem}; choose one with {how}; descant sweep reads them all")
        [name] = run.named
    elif not run.formulas:
        problem = f"there is no formula {name}: this run file has one formula, without a name"
        raise RunFileError(f"{problem}; leave {how} out")
    elif name not in run.formulas:
        raise RunFileError(f"there is no formula {name}; {did_you_mean(name, run.formulas)}")
    return run.model_copy(update={"formula": run.named[name], "formulas": {}})


def compiled(run: RunFile) -> Decoder:
    """The decoder of a run file with one formula.

    Raises:
        RunFileError: it has several; FormulaError, ModelError: as ``compile``.
    """
    from ..api import compile

    run = of_one_formula(run, None)
    if run.parallel is None and world_size() > 1:
        problem = f"{world_size()} processes would all do the same; write parallel: terms in the"
        cure = "run file, or sweep: descant sweep divides the prompts among processes"
        raise RunFileError(f"{problem} {cure}")
    return compile(
        run.formula, run.models, params=run.params, prompts=run.prompts,
        schemas=run.schemas, grammars=run.grammars, dtype=run.dtype, device=run.device,
        capture=run.capture, parallel=run.parallel, **asdict(run.cache),
    )  # fmt: skip


def decode_readable(
    rows: Sequence[Row],
    run: RunFile,
    decoder: Decoder,
    decode: Callable[[Sequence[Row]], Completed],
) -> tuple[Sequence[Row], Completed]:
    """Decode rows; a prompt that the models cannot read is an error, or skipped by ``bad_rows``.

    Returns:
        The rows that are decoded, and their completions.

    Raises:
        RunFileError: a prompt that cannot be read; names its row.
    """
    assert run.data is not None
    try:
        return rows, decode(rows)
    except FormulaError:
        raise
    except DescantError:
        items = list({row.item.id: row.item for row in rows}.values())
        check = partial(decoder.as_completed, max_new_tokens=1)
        fit = {item.id for item in readable(items, run.data, lambda prompt: check([prompt]))}
        if len(fit) == len(items):
            raise
        rows = [row for row in rows if row.item.id in fit]
        return rows, decode(rows) if rows else iter(())


def records(
    run: RunFile, decoder: Decoder, rows: Sequence[Row], progress: bool | None = None
) -> Iterator[Record]:
    """Complete rows, all samples of a prompt next to each other.

    Yields:
        The line of each row when its completion ends.

    Raises:
        RunFileError: a prompt that cannot be read; names its row.
    """
    generate, samples = run.generate.model_dump(), run.generate.num_return_sequences

    def decode(rows: Sequence[Row]) -> Completed:
        prompts = [row.item.prompt for row in rows[::samples]]
        return decoder.as_completed(prompts, progress=progress, **generate)

    rows, completions = decode_readable(rows, run, decoder, decode)
    for index, completion in completions:
        yield rows[index].record(completion, run)


def run_to_folder(run: RunFile, decoder: Decoder, folder: Path) -> Iterator[Record]:
    """Complete the run's prompts into ``folder``, but for those that it holds.

    Of several processes that decode together, the first writes ``completions.jsonl``.

    Yields:
        Each record when it is written.

    Raises:
        RunFileError: the folder holds another run, or the data cannot be read.
    """
    progress = None if prints() else False

    def about() -> dict[str, Any]:
        _, device = where(run.dtype, run.device)
        known = provenance(device, run.dtype, run.generate.seed)
        return {**known, "plan": {FORMULA: str(decoder.plan)}}

    decode = partial(records, run, decoder, progress=progress)
    yield from rows_to_folder(run, decode, folder, about)


def rows_to_folder(
    run: RunFile,
    decode: Callable[[Sequence[Row]], Iterator[Record]],
    folder: Path,
    about: Callable[[], dict[str, Any]] | None = None,
) -> Iterator[Record]:
    """As ``run_to_folder``; ``decode`` makes the lines of rows, in any order.

    ``about`` is the content of ``meta.json`` before the first of them.
    """
    if run.data is None:
        raise RunFileError("the run file has no data; add data: {path: …}, or give --prompt")
    items, process = read_items(run.data), this_process(run.device)
    with resumed(run, folder, items, process, sweeps=False) as done:
        rows = [
            Row(FORMULA, 0, run.params, item, sample, run.generate.seed)
            for item in items
            for sample in range(run.generate.num_return_sequences)
        ]
        missing = {row.item.id for row in rows if row.key not in done}
        if not missing and meta_of(folder).get("finished"):
            return
        journal = Journal(folder, COMPLETIONS)
        if missing and process.first and about is not None and not (folder / META).is_file():
            add_to_meta(folder, about())
        missed = [row for row in rows if row.item.id in missing]
        for record in decode(missed) if missed else ():
            if process.first and key_of(record) not in done:
                journal.add([record])
                yield record
        if process.first:
            add_to_meta(folder, {"finished": now(), **origins(run, len(items))})
