"""What stops a run, and what is there afterwards: a key, a full disk, a prompt, another run."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from checkpoints import llama, tokenizer
from sweeps import ROOT, SPECS, lines, run_of, written

from descant.disk import DiskError
from descant.inputs.runfile import RunFile, RunFileError, read_run_file
from descant.runs.resume import prepare
from descant.runs.run import compiled, run_to_folder
from descant.sweep import sweep


def change(run: RunFile, **said: Any) -> RunFile:
    return run.model_copy(update=said)


def alone(run: RunFile, limit: int, out: Path, told: int) -> None:
    """A sweep in a process whose files may have so many bytes, and what it says."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        sweep(run, out)
    except DiskError as error:
        os.write(told, str(error).encode())
        os._exit(2)
    os._exit(0)


def limited(run: RunFile, limit: int, out: Path) -> tuple[int | None, str]:
    reads, writes = os.pipe()
    process = multiprocessing.get_context("fork").Process(
        target=alone, args=(run, limit, out, writes)
    )
    process.start()
    os.close(writes)
    with os.fdopen(reads) as pipe:
        said = pipe.read()
    process.join()
    return process.exitcode, said


def test_a_disk_that_fills_up_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    run, out = run_of(tmp_path), tmp_path / "out"
    # so many completions that they are larger than what is written before them
    run = change(run, generate=run.generate.model_copy(update={"num_return_sequences": 6}))
    sweep(run, tmp_path / "whole")
    size = (tmp_path / "whole" / "completions.jsonl").stat().st_size
    ended = [limited(run, size * part // 8, out) for part in (4, 6, 7)]
    for code, said in ended:
        assert code == 2 and "written: File too large; make room there; what is fin" in said
    torn = (out / "completions.jsonl").read_bytes()
    assert torn and not torn.endswith(b"\n"), "the last line was cut off"
    sweep(run, out)
    for stem in ("completions", "scores"):
        assert lines(out, stem) == lines(tmp_path / "whole", stem)


def stopped(file: Path, command: str, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """What a command says when a key stops it after its first lines."""
    process = subprocess.Popen(
        [sys.executable, "-m", "descant", command, str(file), "--output", str(out), *more],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines_file = out / "completions.jsonl"
    while process.poll() is None and not (lines_file.exists() and lines_file.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=100)
    return subprocess.CompletedProcess(process.args, process.returncode, *said)


@pytest.mark.slow
def test_a_key_stops_a_sweep_that_goes_on(tmp_path: Path) -> None:
    only = {"sweep": None, "front": None, "score": None}
    longer = {"max_new_tokens": 60, "temperature": 1.0, "batch_size": 1, "num_return_sequences": 4}
    file, out = written(tmp_path, **only, generate=longer), tmp_path / "out"
    found = stopped(file, "sweep", out)
    assert found.returncode == 130, found.stderr
    assert "stopped; what is finished is kept, and the same command resumes" in found.stderr
    assert "Traceback" not in found.stderr and "Aborted" not in found.stderr
    assert 0 < (out / "completions.jsonl").read_bytes().count(b"\n") < 16
    run = read_run_file(file)
    for place in (out, tmp_path / "whole"):
        sweep(run, place)
    assert lines(out) == lines(tmp_path / "whole")


def test_a_folder_is_of_a_run_or_of_a_sweep(tmp_path: Path) -> None:
    run = run_of(tmp_path, score=None, front=None)
    sweep(run, tmp_path / "swept")
    with pytest.raises(RunFileError, match="holds lines of descant sweep; give another output"):
        list(run_to_folder(run, compiled(run), tmp_path / "swept"))
    list(run_to_folder(run, compiled(run), tmp_path / "ran"))
    with pytest.raises(RunFileError, match="holds lines of descant run; give another output"):
        sweep(run, tmp_path / "ran")


def test_what_differs_is_said_and_nothing_written_is_nothing_held(tmp_path: Path) -> None:
    run, out = run_of(tmp_path, score=None, front=None, sweep=None), tmp_path / "out"
    prepare(change(run, formula="base + arm"), out)
    list(run_to_folder(run, compiled(run), out))  # of the other nothing was completed
    other = change(run, generate=run.generate.model_copy(update={"seed": 7}))
    with pytest.raises(RunFileError, match=r"another run: generate.seed is 0 there and 7 here"):
        list(run_to_folder(other, compiled(run), out))
    (tmp_path / "file").touch()
    with pytest.raises(RunFileError, match="is a file, and the output is a folder"):
        list(run_to_folder(run, compiled(run), tmp_path / "file"))


def test_data_that_has_changed_is_seen(tmp_path: Path) -> None:
    run, out = run_of(tmp_path, score=None, front=None), tmp_path / "out"
    sweep(run, out)
    data = Path(run.data.path)
    rows = data.read_text().splitlines()
    data.write_text("\n".join([*rows[1:], rows[0]]))
    with pytest.raises(RunFileError, match=r"prompts.jsonl has changed: prompt \d is "):
        sweep(run, out)
    plain = change(run, sweep=None)
    data.write_text("\n".join(rows[:2]))
    list(run_to_folder(plain, compiled(plain), tmp_path / "ran"))
    data.write_text("\n".join(rows[1:3]))
    with pytest.raises(RunFileError, match="prompt 0 is "):
        list(run_to_folder(plain, compiled(plain), tmp_path / "ran"))


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_prompt_that_no_model_reads_is_named_or_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    data = tmp_path / "odd.jsonl"
    rows = ["How?", "long " * 3000, [1, 5], [1, 99999]]
    data.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    said = {"path": str(data)}
    run = run_of(tmp_path, data=said, score=None, front=None)

    def do(run: RunFile, out: Path) -> None:
        if command == "sweep":
            sweep(run, out)
        else:
            list(run_to_folder(run, compiled(run), out))

    with pytest.raises(RunFileError, match="line 2: the prompt has 300"):
        do(run, tmp_path / "out")
    skips = change(run, data=run.data.model_copy(update={"bad_rows": "skip"}))
    with caplog.at_level(logging.WARNING, "descant"):
        do(skips, tmp_path / "out")
    kept = [json.loads(line) for line in (tmp_path / "out" / "completions.jsonl").open()]
    assert {line["id"] for line in kept} == {0, 2}
    assert "line 4: the prompt has the token id 99999" in caplog.text
    assert "2 rows skipped as unreadable" in caplog.text


def test_lines_that_are_none_are_named(tmp_path: Path) -> None:
    run, out = run_of(tmp_path, score=None, front=None), tmp_path / "out"
    sweep(run, out)
    whole = (out / "completions.jsonl").read_text()
    for line, says in (("[1]", "is no mapping"), ('{"a": 1}', "has no id"), ("{", "is not JSON")):
        (out / "completions.jsonl").write_text(whole + line + "\n")
        with pytest.raises(RunFileError, match=f"line 25 {says}; remove the line"):
            sweep(run, out)


def test_a_reward_is_mended_and_the_sweep_goes_on(tmp_path: Path) -> None:
    """Another dtype or folder of a model that only scores is no other run, until it has scored."""
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(SPECS["reward_harm"]["path"], broken)
    weights = load_file(broken / "model.safetensors")
    weights["score.weight"] *= float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    models = {**SPECS, "odd": {**SPECS["reward_harm"], "path": str(broken)}}
    score, out = {"help": "reward_help", "odd": "odd"}, tmp_path / "out"
    with pytest.raises(RunFileError, match=r"score.odd is nan"):
        sweep(run_of(tmp_path, models=models, score=score, front=None), out)
    before = (out / "completions.jsonl").read_bytes()
    mended = {**models, "odd": SPECS["reward_harm"]}
    sweep(run_of(tmp_path, models=mended, score=score, front=None), out)
    assert (out / "completions.jsonl").read_bytes() == before
    assert len([line for line in lines(out, "scores") if "odd" in line["scores"]]) == 24
    with pytest.raises(RunFileError, match=r"values of score.odd by another odd; give that score"):
        sweep(run_of(tmp_path, models=models, score=score, front=None), out)
    with pytest.raises(RunFileError, match=r"another run: models.base.template"):
        other = {**mended, "base": {**SPECS["base"], "template": "{prompt}"}}
        sweep(run_of(tmp_path, models=other, score=score, front=None), out)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"score": {"x": "base"}}, "score.x: base is a language model"),
        ({"score": {"x": {"kl": "reward_help"}}}, "score.x: reward_help is no language model"),
        ({"front": {"preference": "(1-q)*help"}}, "front.preference: q is not declared"),
    ],
)
def test_what_cannot_be_scored_is_said_before_anything_is_decoded(
    tmp_path: Path, changes: Any, says: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RunFileError) as caught:
        sweep(run_of(tmp_path, **{"front": None, **changes}), out)
    assert says in str(caught.value)
    assert not (out / "completions.jsonl").exists()


def test_likelihood_is_of_tokens_that_the_model_reads(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "other")
    models = {**SPECS, "other": {"path": str(tmp_path / "other")}}
    for formula in ("base", "base + align(other)"):
        run = run_of(
            tmp_path, formula=formula, models=models, score={"x": {"kl": "other"}}, front=None,
            sweep=None,
        )  # fmt: skip
        with pytest.raises(RunFileError, match=r"score.x: other has another vocabulary than base"):
            sweep(run, tmp_path / "out")


def test_a_merged_model_scores_nothing(tmp_path: Path) -> None:
    merge = {"soup": "a*arm_help"}
    with pytest.raises(RunFileError, match=r"score.x: soup is another model at every point"):
        run_of(tmp_path, merge=merge, score={"x": {"perplexity": "soup"}}, front=None)


def test_what_breaks_in_the_middle_keeps_what_is_finished(tmp_path: Path, monkeypatch) -> None:
    from descant.runtime.engine import launch as launching

    only = {"sweep": None, "front": None, "score": None}
    generate = {"max_new_tokens": 6, "temperature": 1.0, "batch_size": 1}
    run, out = run_of(tmp_path, **only, generate=generate), tmp_path / "out"
    decoder, launch, steps = compiled(run), launching.launch, []

    def fails(scheduled: Any) -> Any:
        steps.append(1)
        if len(steps) == 15:  # in the middle of the third prompt
            raise TypeError("unsupported operand")
        return launch(scheduled)

    with monkeypatch.context() as broken:
        broken.setattr("descant.runtime.loops.scheduler.launch", fails)
        with pytest.raises(TypeError, match="unsupported operand"):
            list(run_to_folder(run, decoder, out))
    assert 0 < len(lines(out)) < 4
    list(run_to_folder(run, decoder, out))
    list(run_to_folder(run, decoder, tmp_path / "whole"))
    assert lines(out) == lines(tmp_path / "whole")


def test_lines_of_text_that_others_would_split(tmp_path: Path) -> None:
    from descant.results.exports import Format, export
    from descant.results.folder import COMPLETIONS, Journal

    odd = "a\u2028b\u0085c"
    record = {"formula": "f", "point": 0, "id": 0, "sample": 0, "prompt": odd, "text": odd,
              "elapsed": 0.1, "params": {}}  # fmt: skip
    Journal(tmp_path, COMPLETIONS).add([record])
    assert Journal(tmp_path, COMPLETIONS).records() == [record]
    [file] = export(tmp_path, [Format.HH_RLHF])
    assert json.loads(file.read_text(encoding="utf-8"))[0]["response"] == odd
