"""``descant run``: prompts to completions, one JSON line each, written as soon as it is finished.

Killed and started again, a run goes on where it stopped: no line is lost and none is doubled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .runfile import Data, RunFile, RunFileError, load_yaml

if TYPE_CHECKING:
    from .runtime import Completion, Decoder

COMPLETIONS, RESOLVED = "completions.jsonl", "run.yaml"


@dataclass(frozen=True)
class Item:
    """One prompt of a run, and the number of its line in the answer."""

    index: int
    prompt: Any


def compiled(run: RunFile) -> Decoder:
    """The decoder of a run file."""
    from .api import compile

    return compile(
        run.formula, run.models, params=run.params, prompts=run.prompts,
        dtype=run.dtype, device=run.device,
    )  # fmt: skip


def read_prompts(data: Data) -> list[Any]:
    """The prompts of a data file.

    Raises:
        RunFileError: no such file, or a line that is not JSON or lacks the field; names the line.
    """
    file = Path(data.path)
    if not file.is_file():
        raise RunFileError(f"there is no data file {file}")
    prompts: list[Any] = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if data.limit is not None and len(prompts) >= data.limit:
                break
            if line.strip():
                prompts.append(_prompt(line, data, f"{file}, line {number}"))
    if not prompts:
        raise RunFileError(f"{file} holds no prompts")
    return prompts


def run_to_folder(run: RunFile, decoder: Decoder, folder: Path) -> Iterator[dict[str, Any]]:
    """Complete the run's prompts into ``folder``, skipping what is there already.

    Args:
        run: with ``data``.
        decoder: of the same run.
        folder: gets ``completions.jsonl`` and the resolved ``run.yaml``.

    Yields:
        Each record as it is written.

    Raises:
        RunFileError: the folder holds another run, or the data is not readable.
    """
    if run.data is None:
        raise RunFileError("the run file has no data; add data: {path: …}, or give --prompt")
    prompts = read_prompts(run.data)
    folder.mkdir(parents=True, exist_ok=True)
    _claim(run, folder)
    file = folder / COMPLETIONS
    samples = run.generate.num_return_sequences
    done = _finished(file)
    todo = [Item(i, p) for i, p in enumerate(prompts) if any(
        (i, sample) not in done for sample in range(samples))]  # fmt: skip
    arguments = run.generate.model_dump()
    found = decoder.as_completed([item.prompt for item in todo], **arguments) if todo else ()
    with file.open("a", encoding="utf-8") as out:
        for row, completion in found:
            item, sample = todo[row // samples], row % samples
            if (item.index, sample) in done:
                continue
            record = record_of(item.index, sample, completion)
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
            out.flush()
            yield record


def record_of(index: int, sample: int, completion: Completion) -> dict[str, Any]:
    """One line of ``completions.jsonl``."""
    return {
        "id": index,
        "sample": sample,
        "prompt": completion.prompt,
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "params": completion.params,
        "elapsed": round(completion.seconds, 6),
    }


def _prompt(line: str, data: Data, where: str) -> Any:
    if not data.path.endswith((".jsonl", ".json")):
        return line.rstrip("\n")
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RunFileError(f"{where} is not JSON: {error.msg}") from None
    if not isinstance(row, dict) or data.field not in row:
        keys = ", ".join(row) if isinstance(row, dict) else "no keys"
        raise RunFileError(f"{where} has no field {data.field}; it has {keys}")
    if not row[data.field]:
        raise RunFileError(f"{where}: the prompt is empty")
    return row[data.field]


def _claim(run: RunFile, folder: Path) -> None:
    """Write the resolved run file, or see that the one that is there says the same."""
    resolved = run.model_dump(mode="json", exclude={"output"})
    file = folder / RESOLVED
    if file.is_file():
        if load_yaml(file.read_text(encoding="utf-8")) != resolved:
            raise RunFileError(
                f"{folder} holds the completions of another run; give another output, "
                "or remove the folder to begin again"
            )
    elif (folder / COMPLETIONS).exists():
        raise RunFileError(f"{folder} holds completions and no {RESOLVED}; give another output")
    else:
        file.write_text(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True), "utf-8")


def _finished(file: Path) -> set[tuple[int, int]]:
    """What the file holds already; half a last line, from a run that was killed, is cut off."""
    if not file.is_file():
        return set()
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with file.open("r+b") as out:
            out.truncate(len(whole))
    records = map(json.loads, whole.decode("utf-8").splitlines())
    return {(record["id"], record["sample"]) for record in records}
